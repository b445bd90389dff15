//! The sliced decision against Cedar's own authorizer on the whole set: random policies and requests.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use cedar_policy::{Entities, PolicySet, Request, Schema};
use proptest::prelude::*;

use super::super::index::{ActionKey, PrincipalKey};
use super::oracle::{entities_of, judge, request_of, whole};
use super::*;

/// A small generator of numbers, so that a seed is all that is needed to see a failure again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % sides
    }

    fn pick<'t>(&mut self, from: &[&'t str]) -> &'t str {
        from[self.roll(from.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }
}

const PRINCIPALS: &[&str] = &[
    "principal",
    "principal",
    "principal == Workload::\"spiffe://mesh.local/ns/shop/sa/web\"",
    "principal in Workload::\"spiffe://mesh.local/ns/web/sa/bff\"",
    "principal == Workload::\"spiffe://partner.example/ns/shop/sa/web\"",
    "principal in Group::\"frontend\"",
    "principal in Group::\"partners\"",
    "principal in Namespace::\"shop\"",
    "principal in TrustDomain::\"mesh.local\"",
    "principal is Workload",
    "principal is Workload in Namespace::\"web\"",
    "principal is Plaintext",
    "principal == Plaintext::\"plaintext\"",
];

const ACTIONS: &[&str] = &[
    "action",
    "action in Action::\"http\"",
    "action in Action::\"http\"",
    "action in Action::\"read\"",
    "action in Action::\"write\"",
    "action in Action::\"GET\"",
    "action in Action::\"POST\"",
    "action in Action::\"OTHER\"",
    "action == Action::\"PUT\"",
    "action == Action::\"shop/orders#getOrder\"",
    "action == Action::\"shop/orders#item:DELETE\"",
    "action in Action::\"shop/orders#item\"",
    "action == Action::\"connect\"",
    "action in [Action::\"connect\", Action::\"read\"]",
    "action in [Action::\"GET\", Action::\"read\", Action::\"shop/orders#createOrder\"]",
];

const RESOURCES: &[&str] = &[
    "resource",
    "resource is Service",
    "resource == Service::\"shop/orders\"",
    "resource in Service::\"shop/orders\"",
    "resource == Service::\"shop/payments\"",
    "resource == Service::\"data/db\"",
    "resource in Namespace::\"shop\"",
    "resource in Namespace::\"data\"",
    "resource in TrustDomain::\"mesh.local\"",
    "resource is Service in Namespace::\"shop\"",
];

const CONDITIONS: &[&str] = &[
    "",
    "",
    "when { context.tls }",
    "unless { context.tls }",
    "when { context.src_ip.isInRange(ip(\"10.0.0.0/8\")) }",
    "when { context.now < datetime(\"2026-11-20\") }",
    "when { context.port * 9223372036854775807 > 1 }", // always overflows
    "when { context.now < datetime(\"2026-11-20\") || context.port * 9223372036854775807 > 1 }",
    "when { principal is Workload && principal.trust_domain == \"mesh.local\" }",
    "when { principal is Workload && principal has ns && principal.ns == \"shop\" }",
    "when { principal in Group::\"frontend\" }",
    "unless { principal in [Group::\"frontend\", Namespace::\"shop\"] }",
    "when { action in Action::\"write\" }",
    "when { resource in Namespace::\"shop\" }",
    "when { context.path == \"/healthz\" }",
    "when { context.path like \"/tenants/*\" }",
    "when { context.host == \"orders.shop\" }",
    "when { context == context && context.path == \"/healthz\" }",
    "unless { context.headers has x_region && context.headers.x_region == [\"eu\"] }",
    "when { context.headers has \"x-tag\" && context.headers[\"x-tag\"].contains(\"a\") }",
    "when { context has user }",
    "unless { context has user }",
    "when { context has user && context.user in Role::\"corp|clerk\" }",
    "when { context has user && context.user in [Role::\"corp|admin\", Role::\"other|admin\"] }",
    "when { context has user && context.user == User::\"corp|alice\" }",
    "when { context has user && context.user.sub == \"alice\" && context.user.aud.contains(\"shop\") }",
    "when { (context has user.azp && context.user.azp == \"web\") || (context has actor && context.actor == User::\"corp|bot\") }",
    "when { context has user && ((context.user has acr && context.user.acr == \"2\") || (context has actor && context.actor in Role::\"corp|clerk\")) }",
    "when { context has user && context.user.amr.containsAny([\"otp\", \"hwk\"]) }",
    "when { context has user && context.user has auth_time && context.user.auth_time < context.now }",
    "when { context has user && context.user.exp > context.now.offset(duration(\"5m\")) }",
    "when { context has user.claims.tenant && context.user.claims.tenant == \"t1\" }",
    "when { context has user && context.user.claims has level && context.user.claims.level * 1000 > 5 }",
    "unless { context has user && context.user.claims has level && context.user.claims.level * 1000 > 5 }",
    "when { context has user && context.user.claims has vip && context.user.claims.vip }",
    "when { context has user && context.user.claims has department && context.user.claims.department.contains(\"it\") }",
    "when { context.params.id == \"7\" }",
    "when { context has user.claims.tenant && context.user.claims.tenant == context.params.tenant }",
];

/// Policies that match much: without them hardly any request would be allowed, or forbidden by a rule.
const BROAD: &[&str] = &[
    "permit(principal, action, resource)",
    "permit(principal is Workload, action, resource)",
    "permit(principal, action in Action::\"http\", resource in Namespace::\"shop\") when { context has user }",
    "permit(principal in TrustDomain::\"mesh.local\", action in Action::\"http\", resource) unless { context.path == \"/healthz\" }",
    "permit(principal, action in Action::\"read\", resource) when { context.headers has x_region }",
    "permit(principal, action in [Action::\"write\", Action::\"connect\"], resource)",
    "forbid(principal, action in Action::\"http\", resource) when { context.path like \"/tenants/*\" }",
    "forbid(principal is Plaintext, action in Action::\"http\", resource)",
    "forbid(principal, action in Action::\"write\", resource) unless { context has user }",
    "forbid(principal in Namespace::\"shop\", action in Action::\"read\", resource) unless { context.headers has x_region }",
    "forbid(principal, action == Action::\"connect\", resource in TrustDomain::\"mesh.local\")",
    "forbid(principal, action, resource) when { context.port * 9223372036854775807 > 1 }",
];

/// Policies that are valid one by one: what the validator refuses is left out once, so that sets of them load.
fn pool() -> &'static [String] {
    static POOL: OnceLock<Vec<String>> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
        let mut pool: Vec<String> = (0..400)
            .map(|at| {
                let effect = if dice.chance(60) { "permit" } else { "forbid" };
                let shadow = if dice.chance(12) { "@mode(\"shadow\") " } else { "" };
                let scope = [PRINCIPALS, ACTIONS, RESOURCES]
                    .map(|all| dice.pick(all))
                    .join(", ");
                format!(
                    "@id(\"p{at:04}\") {shadow}{effect}({scope}) {};",
                    dice.pick(CONDITIONS)
                )
            })
            .collect();
        loop {
            match load(&mesh(), &file(&pool.join("\n")), "shop/orders") {
                Ok(_) => return pool,
                Err(problems) => {
                    let bad: BTreeSet<usize> = problems.iter().map(|p| p.line - 1).collect();
                    let mut at = 0..;
                    pool.retain(|_| !bad.contains(&at.next().unwrap()));
                }
            }
        }
    })
}

fn some_of_the_pool(dice: &mut Dice, count: usize) -> String {
    let all = pool();
    let chosen: BTreeSet<&String> = (0..count).map(|_| &all[dice.roll(all.len())]).collect();
    let mut text = chosen
        .into_iter()
        .fold(String::new(), |text, policy| text + policy + "\n");
    for (at, policy) in BROAD.iter().enumerate() {
        let percent = match policy {
            policy if policy.starts_with("permit") => 18,
            policy if policy.contains("9223372036854775807") => 9,
            _ => 14,
        };
        if dice.chance(percent) {
            text += &format!("@id(\"q{at:02}\") {policy};\n");
        }
    }
    text
}

/// Sets of so many policies that load.
pub(super) fn sets(count: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    (any::<u64>(), count).prop_map(|(seed, count)| some_of_the_pool(&mut Dice(seed | 1), count))
}

/// One forbid that is in force, under an id of its own.
pub(super) fn forbids() -> impl Strategy<Value = String> {
    any::<prop::sample::Index>().prop_map(|index| {
        let forbids: Vec<&String> = pool().iter().filter(|p| p.contains("\") forbid")).collect();
        index.get(&forbids).replacen("@id(\"p", "@id(\"zz", 1)
    })
}

/// Any request.
pub(super) fn asks() -> impl Strategy<Value = Ask> {
    any::<u64>().prop_map(|seed| ask(&mut Dice(seed | 1)))
}

fn ask(dice: &mut Dice) -> Ask {
    let peer = dice.pick(&[
        WEB,
        WEB,
        BFF,
        ORDERS,
        "",
        "",
        "spiffe://partner.example/ns/shop/sa/web",
        "spiffe://mesh.local/other/form",
    ]);
    let mut ask = Ask::new(
        peer,
        dice.pick(&[
            "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PURGE", "get",
        ]),
        dice.pick(&[
            "/",
            "/healthz",
            "/tenants/t1/orders",
            "/tenants/t1/orders/7",
            "/tenants/t2/orders/7",
            "/tenants//orders/7",
            "/items/7",
            "/items/8",
            "/items/7/",
            "/cache",
            "/cache/",
            "/cache/a/b",
            "*",
        ]),
    );
    ask.connect = dice.chance(12);
    ask.src_ip = dice
        .pick(&["10.1.2.3", "192.0.2.9", "::ffff:10.0.0.1", "fd77::12"])
        .parse()
        .unwrap();
    ask.now_millis += i64::try_from(dice.roll(400_000)).unwrap() * 1000;
    if dice.chance(50) {
        ask = ask.header("x_region", if dice.chance(50) { &["eu"] } else { &["eu", "us"] });
    }
    if dice.chance(30) {
        ask = ask.header("x-tag", &["a"]);
    }
    if dice.chance(65) {
        ask.user = Some(random_user(dice));
    }
    ask
}

fn random_user(dice: &mut Dice) -> User {
    let mut of = user(dice.pick(&["alice", "bob", "a|b"]), &[]);
    of.alias = dice.pick(&["corp", "corp", "other"]).to_owned();
    of.roles = ["clerk", "admin", "unheard-of"]
        .iter()
        .filter(|_| dice.chance(40))
        .map(|r| (*r).to_owned())
        .collect();
    of.actor = dice
        .chance(40)
        .then(|| dice.pick(&["bot", "alice", "bob"]).to_owned());
    of.azp = dice.chance(50).then(|| dice.pick(&["web", "app"]).to_owned());
    of.acr = dice.chance(50).then(|| dice.pick(&["1", "2"]).to_owned());
    of.amr = if dice.chance(50) {
        vec!["otp".to_owned(), "pwd".to_owned()]
    } else {
        Vec::new()
    };
    of.auth_time = dice.chance(50).then_some(1_794_999_000);
    of.claims.retain(|_| dice.chance(70));
    if dice.chance(50) {
        let level = [0, 1, 7, i64::MAX, i64::MIN][dice.roll(5)];
        of.claims.push(("level".to_owned(), ClaimValue::Long(level)));
    }
    if dice.chance(40) {
        of.claims
            .push(("vip".to_owned(), ClaimValue::Bool(dice.chance(50))));
    }
    if dice.chance(40) {
        of.claims.push((
            "department".to_owned(),
            ClaimValue::Strings(vec!["it".to_owned()]),
        ));
    }
    of
}

/// Requests with what the oracle needs for each.
fn asked(dice: &mut Dice, count: usize) -> Vec<(Ask, Request, Entities)> {
    let (schema, _) = Schema::from_cedarschema_str(&schema(&mesh()).unwrap()).unwrap();
    (0..count)
        .map(|_| ask(dice))
        .map(|ask| {
            let (request, entities) = (request_of(&ask, &schema), entities_of(&ask, &schema));
            (ask, request, entities)
        })
        .collect()
}

fn seed() -> u64 {
    let given = std::env::var("HOPGUARD_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        u64::try_from(now.as_micros()).unwrap() | 1
    })
}

/// A million pairs with `HOPGUARD_TEST_LONG`, else as many as a debug build can do in passing.
fn is_long() -> bool {
    std::env::var_os("HOPGUARD_TEST_LONG").is_some()
}

/// How the pairs of a run came out.
#[derive(Debug, Default)]
struct Share {
    pairs: usize,
    allowed: usize,
    forbidden: usize,
    /// At least one policy could not be evaluated.
    with_errors: usize,
    /// A forbid could not be evaluated, and that alone denied.
    denied_by_error: usize,
    routed: usize,
}

impl Share {
    fn add(&mut self, decision: &Decision) {
        self.pairs += 1;
        self.allowed += usize::from(decision.verdict == Verdict::Allow);
        self.forbidden += usize::from(decision.reason == Reason::Forbidden);
        self.with_errors += usize::from(decision.errors > 0);
        self.denied_by_error += usize::from(decision.reason == Reason::PolicyError);
        self.routed += usize::from(decision.route.is_some());
    }

    /// A run that hardly ever allows, or hardly ever meets an error, would say little about either.
    fn is_balanced(&self) -> bool {
        // Few sets scatter more.
        let share = if is_long() { 1 } else { 2 };
        let percent = |count: usize, least: usize| count * 100 * share >= self.pairs * least;
        percent(self.allowed, 20)
            && percent(self.forbidden, 20)
            && percent(self.with_errors, 5)
            && percent(self.denied_by_error, 3)
            && percent(self.routed, 5)
    }
}

#[test]
fn slices_decide_as_the_whole_set_does() {
    let seed = seed();
    println!("HOPGUARD_TEST_SEED={seed}");
    let mut dice = Dice(seed);
    let mut share = Share::default();
    let mut requests = Vec::new();
    let (rounds, each) = if is_long() { (2_500, 400) } else { (100, 200) };
    for round in 0..rounds {
        if round % 100 == 0 {
            requests = asked(&mut dice, 600);
        }
        let count = 1 + dice.roll(20);
        let text = some_of_the_pool(&mut dice, count);
        let (set, whole) = (loaded(&text), whole(&text));
        for _ in 0..each {
            let (ask, request, entities) = &requests[dice.roll(requests.len())];
            let expected = judge(&whole, request, entities);
            let decision = ask.of(&set);
            let told = || format!("seed {seed} round {round}\n{text}\n{ask:?}\n{decision:?}");
            assert_eq!(decision.verdict, expected.verdict, "{}", told());
            let rules: Vec<&str> = expected.rules.iter().map(String::as_str).collect();
            assert_eq!(ids(&decision.rules), rules, "{}", told());
            assert_eq!(decision.errors as usize, expected.errors, "{}", told());
            share.add(&decision);
        }
    }
    println!("no mismatch: {share:?}");
    assert_eq!(share.pairs, rounds * each);
    assert!(share.is_balanced(), "the sets became too one-sided: {share:?}");
}

#[test]
fn every_key_of_the_index_is_needed() {
    type Left = (&'static str, fn(&PrincipalKey) -> bool, fn(&ActionKey) -> bool);
    let left_out: [Left; 7] = [
        ("any principal", |key| matches!(key, PrincipalKey::Any), |_| false),
        (
            "principal is",
            |key| matches!(key, PrincipalKey::Is(_)),
            |_| false,
        ),
        (
            "principal ==",
            |key| matches!(key, PrincipalKey::Eq(_)),
            |_| false,
        ),
        (
            "principal in",
            |key| matches!(key, PrincipalKey::In(_)),
            |_| false,
        ),
        ("any action", |_| false, |key| matches!(key, ActionKey::Any)),
        ("action ==", |_| false, |key| matches!(key, ActionKey::Eq(_))),
        ("action in", |_| false, |key| matches!(key, ActionKey::In(_))),
    ];
    let mut dice = Dice(7);
    let asked = asked(&mut dice, 80);
    let texts: Vec<String> = (0..10).map(|_| some_of_the_pool(&mut dice, 12)).collect();
    let sets: Vec<(Policies, PolicySet)> = texts.iter().map(|text| (loaded(text), whole(text))).collect();
    let differ = |peer_key, action_key| {
        let pairs = sets
            .iter()
            .flat_map(|set| asked.iter().map(move |asked| (set, asked)));
        let wrong = pairs.filter(|((set, whole), (ask, request, entities))| {
            let decision = ask.with(|facts| set.decide_without(facts, peer_key, action_key));
            decision.verdict != judge(whole, request, entities).verdict
        });
        wrong.count()
    };
    assert_eq!(differ(|_| false, |_| false), 0);
    for (name, peer_key, action_key) in left_out {
        assert!(
            differ(peer_key, action_key) > 0,
            "no test would notice that `{name}` is not looked up"
        );
    }
}
