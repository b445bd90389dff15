//! The policies in `examples/policies` load and decide as their comments say.

use super::*;

/// `examples/policies/mesh.toml`, as configuration hands it over.
fn shop() -> Model {
    let http = &[(8080, PortKind::Http)];
    Model {
        services: vec![
            service("shop/web", http, vec![]),
            service(
                "shop/orders",
                http,
                vec![
                    route("getOrder", &["GET"], "/tenants/{tenant}/orders/{id}"),
                    route("createOrder", &["POST"], "/tenants/{tenant}/orders"),
                ],
            ),
            service(
                "shop/payments",
                http,
                vec![route("charge", &["POST"], "/charges")],
            ),
            service("shop/ledger", &[(5432, PortKind::Opaque)], vec![]),
        ],
        groups: vec![group("monitoring", &["spiffe://mesh.local/ns/monitoring/sa/*"])],
        issuers: vec![IssuerModel {
            alias: "corp".to_owned(),
            issuer: "https://idp.example.org".to_owned(),
            audiences: owned(&["shop"]),
            role_names: owned(&["clerk", "auditor"]),
            claims: vec![("tenant".to_owned(), ClaimKind::String)],
        }],
        headers: vec![HeaderModel {
            name: "x_region".to_owned(),
            wire: "x-region".to_owned(),
            list: false,
        }],
        ..mesh()
    }
}

fn example(service: &str) -> Policies {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies");
    let mut files: Vec<(PathBuf, String)> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().is_some_and(|name| name != "mesh.toml"))
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect();
    files.sort();
    assert!(files.len() >= 4, "policies and their tests");
    load(&shop(), &files, service).unwrap_or_else(|problems| panic!("{}", shown(&problems)))
}

const PAYMENTS: &str = "spiffe://mesh.local/ns/shop/sa/payments";
const SCRAPER: &str = "spiffe://mesh.local/ns/monitoring/sa/scraper";

#[test]
fn the_examples_do_what_they_say() {
    let (web, orders) = (example("shop/web"), example("shop/orders"));
    let (payments, ledger) = (example("shop/payments"), example("shop/ledger"));
    let said = |set: &Policies, ask: Ask| ask.of(set).reason.label();
    let clerk = || user("alice", &["clerk"]);
    let bob = || user("bob", &[]);
    let auditor = || user("carol", &["auditor"]);

    assert_eq!(said(&web, Ask::new("", "GET", "/")), "allowed");
    assert_eq!(said(&web, Ask::new("", "POST", "/cart")), "forbidden");
    assert_eq!(said(&web, Ask::new("", "POST", "/cart").user(bob())), "no_rule");

    let order = |peer: &str, path: &str| Ask::new(peer, "POST", path);
    assert_eq!(
        said(&orders, order(WEB, "/tenants/t1/orders").user(bob())),
        "allowed"
    );
    assert_eq!(
        said(&orders, order(WEB, "/tenants/t2/orders").user(bob())),
        "no_rule"
    );
    assert_eq!(said(&orders, order(WEB, "/tenants/t1/orders")), "user_required");
    assert_eq!(
        said(&orders, order(PAYMENTS, "/tenants/t1/orders").user(bob())),
        "no_rule"
    );
    let watched = order(WEB, "/tenants/t1/orders").user(bob()).of(&orders);
    assert_eq!(ids(&watched.shadow), ["eu-only"]);

    let charge = |peer: &str| Ask::new(peer, "POST", "/charges");
    assert_eq!(said(&payments, charge(ORDERS).user(clerk())), "allowed");
    let refused = charge(ORDERS).user(bob()).of(&payments);
    assert_eq!(refused.needs.unwrap().text, "orders may charge for a clerk");
    assert_eq!(said(&payments, charge(WEB).user(clerk())), "no_rule");
    assert_eq!(said(&payments, charge("").user(clerk())), "no_rule");
    let mut closed = charge(ORDERS).user(clerk());
    closed.now_millis = 1_798_675_200_000; // 2026-12-31
    assert_eq!(said(&payments, closed), "forbidden");

    for set in [&web, &orders, &payments] {
        assert_eq!(said(set, Ask::new(SCRAPER, "GET", "/metrics")), "allowed");
        assert!(Ask::new(PAYMENTS, "GET", "/x").user(auditor()).of(set).verdict == Verdict::Allow);
    }
    assert_eq!(said(&ledger, Ask::connect(PAYMENTS)), "allowed");
    assert_eq!(said(&ledger, Ask::connect(ORDERS)), "no_rule");
}
