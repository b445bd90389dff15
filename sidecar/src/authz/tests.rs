//! A small mesh to decide about, and what the tests of this room share.

mod differential;
mod examples;
mod explaining;
mod halves;
mod linting;
mod loading;
mod naming;
mod oracle;
mod rule;
mod sample;
mod scanning;
mod trials;

use std::net::IpAddr;
use std::path::PathBuf;

use spiffe::SpiffeId;

use super::*;

/// shop/web, shop/orders with routes, shop/payments, data/db (opaque); groups, two issuers, two headers.
fn mesh() -> Model {
    let http = &[(8080, PortKind::Http)];
    let routes = vec![
        route("getOrder", &["GET"], "/tenants/{tenant}/orders/{id}"),
        route("createOrder", &["POST"], "/tenants/{tenant}/orders"),
        route("item", &["GET", "DELETE"], "/items/{id}"),
        route("purge", &["PURGE"], "/cache/{**}"),
    ];
    let header = |name: &str| HeaderModel {
        name: name.to_owned(),
        wire: name.replace('_', "-"),
        list: false,
    };
    Model {
        trust_domain: "mesh.local".to_owned(),
        services: vec![
            service("shop/web", http, vec![]),
            service("shop/orders", http, routes),
            service("shop/payments", http, vec![]),
            service("data/db", &[(5432, PortKind::Opaque)], vec![]),
        ],
        groups: vec![
            group("frontend", &[WEB, "spiffe://mesh.local/ns/web/sa/*"]),
            group("partners", &["spiffe://partner.example/**"]),
        ],
        issuers: vec![issuer("corp"), issuer("other")],
        headers: vec![header("x_region"), header("x-tag")],
    }
}

fn service(name: &str, ports: &[(u16, PortKind)], routes: Vec<RouteModel>) -> ServiceModel {
    ServiceModel {
        name: name.to_owned(),
        ports: ports.to_vec(),
        strict: Vec::new(),
        hosts: vec![name.split('/').rev().collect::<Vec<_>>().join(".")],
        routes,
        spiffe_ids: vec![id(&format!(
            "spiffe://mesh.local/ns/{}",
            name.replace('/', "/sa/")
        ))],
    }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn route(name: &str, methods: &[&str], path: &str) -> RouteModel {
    RouteModel {
        name: name.to_owned(),
        methods: owned(methods),
        path: path.to_owned(),
        ..RouteModel::default()
    }
}

fn group(name: &str, patterns: &[&str]) -> GroupModel {
    GroupModel {
        name: name.to_owned(),
        patterns: owned(patterns),
    }
}

fn issuer(alias: &str) -> IssuerModel {
    IssuerModel {
        alias: alias.to_owned(),
        issuer: format!("https://{alias}"),
        audiences: Vec::new(),
        role_names: owned(&["clerk", "admin"]),
        claims: vec![
            ("tenant".to_owned(), ClaimKind::String),
            ("department".to_owned(), ClaimKind::Strings),
            ("level".to_owned(), ClaimKind::Long),
            ("vip".to_owned(), ClaimKind::Bool),
        ],
    }
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

fn file(text: &str) -> Vec<(PathBuf, String)> {
    vec![(PathBuf::from("policies/a.cedar"), text.to_owned())]
}

/// Loads for shop/orders, which must succeed.
fn loaded(text: &str) -> Policies {
    loaded_for("shop/orders", text)
}

fn loaded_for(service: &str, text: &str) -> Policies {
    load(&mesh(), &file(text), service).unwrap_or_else(|problems| panic!("{}", shown(&problems)))
}

/// The problems of a set that must be refused.
fn refused(text: &str) -> Vec<PolicyProblem> {
    load(&mesh(), &file(text), "shop/orders").expect_err("the set was loaded")
}

fn shown(problems: &[PolicyProblem]) -> String {
    problems.iter().map(|p| p.to_string() + "\n").collect()
}

/// The facts of one request, owned.
#[derive(Clone, Debug)]
struct Ask {
    peer: Option<SpiffeId>,
    connect: bool,
    method: String,
    path: String,
    headers: Vec<(String, Vec<String>)>,
    user: Option<User>,
    src_ip: IpAddr,
    now_millis: i64,
}

impl Ask {
    fn new(peer: &str, method: &str, path: &str) -> Self {
        Self {
            peer: (!peer.is_empty()).then(|| id(peer)),
            connect: false,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            user: None,
            src_ip: IpAddr::from([10, 1, 2, 3]),
            now_millis: 1_795_000_000_000, // 2026-11-18
        }
    }

    fn connect(peer: &str) -> Self {
        Self {
            connect: true,
            ..Self::new(peer, "", "")
        }
    }

    fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    fn header(mut self, name: &str, values: &[&str]) -> Self {
        self.headers
            .push((name.to_owned(), values.iter().map(|v| (*v).to_owned()).collect()));
        self
    }

    fn with<R>(&self, then: impl FnOnce(&Facts<'_>) -> R) -> R {
        let http = HttpFacts {
            method: &self.method,
            path: &self.path,
            host: "orders.shop",
            headers: &self.headers,
            user: self.user.as_ref(),
        };
        then(&Facts {
            principal: self
                .peer
                .as_ref()
                .map_or(Principal::Plaintext, Principal::Workload),
            port: 8080,
            tls: self.peer.is_some(),
            src_ip: self.src_ip,
            now_millis: self.now_millis,
            what: if self.connect {
                What::Connect
            } else {
                What::Http(http)
            },
        })
    }

    fn of(&self, policies: &Policies) -> Decision {
        self.with(|facts| policies.decide(facts))
    }
}

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://mesh.local/ns/shop/sa/orders";
const BFF: &str = "spiffe://mesh.local/ns/web/sa/bff";

/// A user of issuer `corp` with tenant `t1`.
fn user(name: &str, roles: &[&str]) -> User {
    User {
        alias: "corp".to_owned(),
        issuer: "https://idp.demo".to_owned(),
        subject: name.to_owned(),
        audience: vec!["shop".to_owned()],
        scope: vec!["orders:read".to_owned(), "orders:write".to_owned()],
        roles: roles.iter().map(|r| (*r).to_owned()).collect(),
        exp: 1_795_000_600,
        claims: vec![("tenant".to_owned(), ClaimValue::String("t1".to_owned()))],
        ..User::default()
    }
}

fn ids(list: &[std::sync::Arc<str>]) -> Vec<&str> {
    list.iter().map(|id| &**id).collect()
}

/// The set is refused, with a problem on that line whose text holds all the words.
#[track_caller]
fn problem(text: &str, line: usize, words: &[&str]) -> PolicyProblem {
    let problems = refused(text);
    let found = problems
        .iter()
        .find(|p| p.line == line && words.iter().all(|w| p.to_string().contains(w)));
    found
        .unwrap_or_else(|| panic!("wanted line {line} with {words:?}, got:\n{}", shown(&problems)))
        .clone()
}

/// A set of one policy on line 2.
fn one(scope: &str, rest: &str) -> String {
    format!("// first line\n@id(\"x\") {scope} {rest};\n")
}
