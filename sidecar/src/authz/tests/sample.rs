//! The sample set of the specification decides as it says, each hop as a table.

use super::*;

const SAMPLE: &str = r#"
@id("frontend-reads-own-tenant")
permit(principal in Group::"frontend", action == Action::"shop/orders#getOrder", resource == Service::"shop/orders")
when { context has user && context.user.claims has tenant && context.user.claims.tenant == context.params.tenant };

@id("admins-write") @audit("always")
permit(principal == Workload::"spiffe://mesh.local/ns/web/sa/bff", action in Action::"write", resource in Namespace::"shop")
when { context has user && context.user in Role::"corp|admin" && context.user.scope.contains("orders:write") };

@id("probes")
permit(principal is Plaintext, action == Action::"GET", resource == Service::"shop/orders")
when { context.path == "/healthz" && context.src_ip.isInRange(ip("10.0.0.0/8")) };

@id("no-plaintext-writes")
forbid(principal is Plaintext, action in Action::"write", resource);

@id("eu-only") @mode("shadow")
forbid(principal, action in Action::"http", resource == Service::"shop/orders")
unless { context.headers has x_region && context.headers.x_region == ["eu"] };

@id("maintenance-window")
forbid(principal, action in Action::"write", resource)
when { context.now > datetime("2026-12-24T00:00:00Z") && context.now < datetime("2026-12-25T00:00:00Z") };
"#;

#[track_caller]
fn expect(decision: &Decision, verdict: Verdict, reason: &str, rules: &[&str]) {
    assert_eq!(
        (decision.verdict, decision.reason.label()),
        (verdict, reason),
        "{decision:?}"
    );
    assert_eq!(ids(&decision.rules), rules);
    assert_eq!(decision.errors, 0);
}

use Verdict::{Allow, Deny};

#[test]
fn a_frontend_reads_for_its_users_own_tenant() {
    let set = loaded(SAMPLE);
    let read = |path: &str| Ask::new(WEB, "GET", path).header("x_region", &["eu"]);
    let granted = read("/tenants/t1/orders/7").user(user("alice", &[])).of(&set);
    expect(&granted, Allow, "allowed", &["frontend-reads-own-tenant"]);
    assert_eq!(granted.route.as_deref(), Some("shop/orders#getOrder"));
    assert_eq!(granted.needs, None);
    assert!(granted.shadow.is_empty() && !granted.audit);

    let other_tenant = read("/tenants/t2/orders/7").user(user("alice", &[])).of(&set);
    expect(&other_tenant, Deny, "no_rule", &[]);
    assert!(!other_tenant.user_would_help);
    let needs = other_tenant.needs.unwrap();
    assert_eq!(&*needs.rule, "frontend-reads-own-tenant");
    assert_eq!(
        needs.text,
        "when { context has user && context.user.claims has tenant && context.user.claims.tenant == context.params.tenant }"
    );

    let anonymous = read("/tenants/t1/orders/7").of(&set);
    expect(&anonymous, Deny, "user_required", &[]);
    assert!(anonymous.user_would_help);

    let wrong_peer = Ask::new(ORDERS, "GET", "/tenants/t1/orders/7")
        .user(user("alice", &[]))
        .of(&set);
    expect(&wrong_peer, Deny, "no_rule", &[]);
    let needs = wrong_peer.needs.unwrap();
    assert_eq!(&*needs.rule, "frontend-reads-own-tenant");
    assert_eq!(
        needs.text,
        "permit(principal in Group::\"frontend\", action == Action::\"shop/orders#getOrder\", resource == Service::\"shop/orders\")"
    );
}

#[test]
fn an_admin_writes_through_the_bff_only() {
    let set = loaded(SAMPLE);
    let write =
        |peer: &str, roles: &[&str]| Ask::new(peer, "POST", "/tenants/t1/orders").user(user("bob", roles));
    let granted = write(BFF, &["admin"]).of(&set);
    expect(&granted, Allow, "allowed", &["admins-write"]);
    assert!(granted.audit);
    assert_eq!(ids(&granted.shadow), ["eu-only"]);
    expect(&write(BFF, &["clerk"]).of(&set), Deny, "no_rule", &[]);
    expect(&write(WEB, &["admin"]).of(&set), Deny, "no_rule", &[]);

    let mut foreign = user("bob", &["admin"]);
    foreign.alias = "other".to_owned();
    expect(&write(BFF, &[]).user(foreign).of(&set), Deny, "no_rule", &[]);
    let mut no_scope = user("bob", &["admin"]);
    no_scope.scope.clear();
    expect(&write(BFF, &[]).user(no_scope).of(&set), Deny, "no_rule", &[]);

    // Any method that is not listed writes.
    for method in ["DELETE", "PATCH", "PROPFIND", "post", "PURGE"] {
        let ask = Ask::new(BFF, method, "/x").user(user("bob", &["admin"]));
        expect(&ask.of(&set), Allow, "allowed", &["admins-write"]);
    }
}

#[test]
fn plaintext_gets_no_further_than_the_probe() {
    let set = loaded(SAMPLE);
    let mut probe = Ask::new("", "GET", "/healthz");
    expect(&probe.of(&set), Allow, "allowed", &["probes"]);
    probe.src_ip = "::ffff:10.9.9.9".parse().unwrap();
    expect(&probe.of(&set), Allow, "allowed", &["probes"]);
    probe.src_ip = "192.0.2.1".parse().unwrap();
    expect(&probe.of(&set), Deny, "no_rule", &[]);
    expect(&Ask::new("", "GET", "/healthz/").of(&set), Deny, "no_rule", &[]);
    expect(&Ask::new("", "HEAD", "/healthz").of(&set), Deny, "no_rule", &[]);
    let write = Ask::new("", "POST", "/tenants/t1/orders")
        .user(user("bob", &["admin"]))
        .of(&set);
    expect(&write, Deny, "forbidden", &["no-plaintext-writes"]);
    assert_eq!(write.needs, None);
}

#[test]
fn the_window_is_shut_for_a_day() {
    let set = loaded(SAMPLE);
    let mut write = Ask::new(BFF, "POST", "/tenants/t1/orders").user(user("bob", &["admin"]));
    for (millis, verdict) in [
        (1_798_070_400_000, Allow), // 2026-12-24T00:00:00Z: `>` is not `>=`
        (1_798_070_400_001, Deny),
        (1_798_156_799_999, Deny),
        (1_798_156_800_000, Allow),
    ] {
        write.now_millis = millis;
        assert_eq!(write.of(&set).verdict, verdict, "{millis}");
    }
    assert_eq!(loaded(SAMPLE).count(), 6);
}

#[test]
fn each_service_enforces_its_own_slice() {
    let payments = loaded_for("shop/payments", SAMPLE);
    assert_eq!((payments.count(), payments.enforced()), (6, 3));
    let write = Ask::new(BFF, "POST", "/tenants/t1/orders")
        .user(user("bob", &["admin"]))
        .of(&payments);
    expect(&write, Allow, "allowed", &["admins-write"]);
    assert_eq!(write.route, None);
    let read = Ask::new(WEB, "GET", "/tenants/t1/orders/7")
        .user(user("alice", &[]))
        .of(&payments);
    expect(&read, Deny, "no_rule", &[]);
    assert_eq!(read.needs, None, "no permit for reading concerns payments");

    let db = loaded_for("data/db", SAMPLE);
    expect(&Ask::connect(WEB).of(&db), Deny, "no_rule", &[]);
    let versions = [loaded(SAMPLE), payments, db].map(|p| p.version().to_owned());
    assert!(
        versions.iter().all(|v| v.len() == 12 && *v == versions[0]),
        "{versions:?}"
    );
}

#[test]
fn header_values_are_all_of_them() {
    let set = loaded(
        r#"@id("eu") permit(principal, action in Action::"http", resource)
           when { context.headers has x_region && context.headers.x_region == ["eu"] };"#,
    );
    let ask = || Ask::new(WEB, "GET", "/");
    assert_eq!(ask().header("x_region", &["eu"]).of(&set).verdict, Allow);
    assert_eq!(ask().header("x_region", &["eu", "us"]).of(&set).verdict, Deny);
    assert_eq!(ask().header("x_region", &[]).of(&set).verdict, Deny);
    assert_eq!(ask().header("x-other", &["eu"]).of(&set).verdict, Deny);
    assert_eq!(ask().of(&set).verdict, Deny);
}

#[test]
fn a_namespace_is_of_the_own_trust_domain() {
    let set = loaded(r#"@id("ns") permit(principal in Namespace::"shop", action, resource);"#);
    assert_eq!(Ask::new(WEB, "GET", "/").of(&set).verdict, Allow);
    for foreign in [
        "spiffe://partner.example/ns/shop/sa/web",
        "spiffe://mesh.local/ns/shop",
        "spiffe://mesh.local/x/shop/sa/web",
    ] {
        assert_eq!(Ask::new(foreign, "GET", "/").of(&set).verdict, Deny, "{foreign}");
    }
    let set = loaded(
        r#"@id("td") permit(principal in TrustDomain::"partner.example", action, resource in TrustDomain::"mesh.local");"#,
    );
    assert_eq!(
        Ask::new("spiffe://partner.example/ns/shop/sa/web", "GET", "/")
            .of(&set)
            .verdict,
        Allow
    );
    assert_eq!(Ask::new(WEB, "GET", "/").of(&set).verdict, Deny);
}

#[test]
fn several_methods_of_a_route_keep_their_kinds() {
    // One action in both GET and DELETE would let this permit delete.
    let set = loaded(r#"@id("r") permit(principal, action in Action::"read", resource);"#);
    let get = Ask::new(WEB, "GET", "/items/1").of(&set);
    assert_eq!(
        (get.verdict, get.route.as_deref()),
        (Allow, Some("shop/orders#item"))
    );
    assert_eq!(Ask::new(WEB, "DELETE", "/items/1").of(&set).verdict, Deny);
    let set = loaded(
        r#"@id("r") permit(principal, action in Action::"shop/orders#item", resource) when { context.params.id == "1" };"#,
    );
    assert_eq!(Ask::new(WEB, "DELETE", "/items/1").of(&set).verdict, Allow);
    assert_eq!(Ask::new(WEB, "PUT", "/items/1").of(&set).verdict, Deny);
    assert_eq!(Ask::new(WEB, "GET", "/items/2").of(&set).verdict, Deny);
}
