//! How the ports and routes of a service take user tokens: tables of the mesh file enter, where a token may stand and what
//! must bind it to its sender leave. It never sees a token.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::claim_paths::claim_path;
use super::document::{Section, Wrong};
use super::mesh::choice;
use super::shape::shown;
use crate::authn::{ClaimPath, Demand, Dpop, HttpUri};
use crate::request::TokenPlaces;

/// How one port takes tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTokens {
    /// Where a token may stand beside `Authorization`.
    pub places: TokenPlaces,
    /// Whether the application gets the token.
    pub forward: bool,
    /// The URL by which clients know the port, which their proofs of possession name.
    pub public_url: Option<HttpUri>,
    /// Whether a proof must carry a nonce of ours.
    pub nonce: bool,
    /// What must bind a token to its sender.
    pub demand: Demand,
}

impl Default for PortTokens {
    fn default() -> Self {
        Self {
            places: TokenPlaces::default(),
            forward: true,
            public_url: None,
            nonce: false,
            demand: Demand::default(),
        }
    }
}

/// How the ports and routes of one service take tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRules {
    ports: BTreeMap<u16, Arc<PortTokens>>,
    /// By `service#route`; only those that demand something.
    routes: BTreeMap<String, Demand>,
    /// Of a port that says nothing of tokens.
    silent: Arc<PortTokens>,
}

impl TokenRules {
    /// How a port takes tokens.
    pub fn port(&self, port: u16) -> &Arc<PortTokens> {
        self.ports.get(&port).unwrap_or(&self.silent)
    }

    /// Whether any route demands something: else nobody needs to look for the route.
    pub fn has_routes(&self) -> bool {
        !self.routes.is_empty()
    }

    /// What a route demands, by its name in decisions: `service#route`.
    pub fn route(&self, name: &str) -> Option<&Demand> {
        self.routes.get(name)
    }

    /// The claims of which some place demands that they name the caller.
    pub(super) fn bind_claims(&self) -> impl Iterator<Item = &ClaimPath> {
        let ports = self.ports.values().map(|port| &port.demand);
        ports
            .chain(self.routes.values())
            .filter_map(|demand| demand.caller_claim.as_ref())
    }
}

/// Reads the rules of a service.
pub(super) fn token_rules(service: &Section<'_, '_>, name: &str) -> TokenRules {
    let mut rules = TokenRules::default();
    for route in service.tables("route") {
        let demand = demand(&route);
        if let Some(route) = route.text("name").filter(|_| !demand.is_nothing()) {
            rules.routes.insert(format!("{name}#{}", route.value), demand);
        }
    }
    let proofs = rules.routes.values().any(|demand| demand.dpop != Dpop::Off);
    for section in service.tables("port") {
        let number = section
            .integer("port")
            .and_then(|at| u16::try_from(at.value).ok());
        if section.text("protocol").is_some_and(|at| at.value == "opaque") {
            opaque(&section);
        } else if let Some(number) = number {
            rules.ports.insert(number, Arc::new(port(&section, proofs)));
        }
    }
    rules
}

/// Every key of a port that is about tokens.
const OF_PORTS: [&str; 8] = [
    "token_from",
    "forward_token",
    "public_url",
    "bind",
    "bind_claim",
    "require_cnf",
    "dpop",
    "dpop_nonce",
];

fn opaque(section: &Section<'_, '_>) {
    for key in OF_PORTS {
        if let Some(value) = section.value(key) {
            section.document.add(
                value.span(),
                format!("`{key}` on an opaque port says nothing: there are no tokens"),
                Some("set `protocol = \"http\"`, or take it out".to_owned()),
            );
        }
    }
}

fn port(section: &Section<'_, '_>, proofs_on_routes: bool) -> PortTokens {
    let demand = demand(section);
    let public_url = section.parsed("public_url", public_url).map(|at| at.value);
    let nonce = section.boolean("dpop_nonce").is_some_and(|at| at.value);
    let proofs = proofs_on_routes || demand.dpop != Dpop::Off;
    if proofs && !section.has("public_url") {
        section.document.add(
            section.span.clone(),
            "DPoP is taken here, but the port has no `public_url`",
            Some("say by which URL its clients know it, since their proofs name it: public_url = \"https://shop.example\"".to_owned()),
        );
    }
    if nonce && !proofs {
        section.document.add(
            section.span.clone(),
            "`dpop_nonce` without `dpop` asks for nothing",
            Some("set `dpop = \"accept\"` or `dpop = \"require\"`".to_owned()),
        );
    }
    PortTokens {
        places: places(section),
        forward: section.boolean("forward_token").is_none_or(|at| at.value),
        public_url,
        nonce,
        demand,
    }
}

fn demand(section: &Section<'_, '_>) -> Demand {
    let caller = choice(section, "bind", &[("none", false), ("caller", true)]).unwrap_or(false);
    let caller_claim = claim_path(section, "bind_claim");
    if let Some(at) = section.value("bind_claim").filter(|_| !caller) {
        section.document.add(
            at.span(),
            "`bind_claim` without `bind = \"caller\"` binds nothing",
            Some("set `bind = \"caller\"` beside it".to_owned()),
        );
    }
    let dpop = [
        ("off", Dpop::Off),
        ("accept", Dpop::Accept),
        ("require", Dpop::Require),
    ];
    Demand {
        caller,
        caller_claim,
        certificate: section.boolean("require_cnf").is_some_and(|at| at.value),
        dpop: choice(section, "dpop", &dpop).unwrap_or_default(),
    }
}

fn places(section: &Section<'_, '_>) -> TokenPlaces {
    let Some(from) = section.table("token_from") else {
        return TokenPlaces::default();
    };
    if from.names().is_empty() {
        section.document.add(
            from.span.clone(),
            "`token_from` names no place",
            Some("name a cookie, a query parameter or both: { cookie = \"session\" }".to_owned()),
        );
    }
    TokenPlaces {
        cookie: from.parsed("cookie", token_name).map(|at| at.value),
        query: from.parsed("query", token_name).map(|at| at.value),
    }
}

/// The name of a cookie (RFC 6265 section 4.1.1) or of a query parameter: one spelling, on every reader.
fn token_name(text: &str) -> Result<String, Wrong> {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(
        format!("`{}` is not a name for a cookie or parameter", shown(text)),
        "letters, digits, `_`, `-` and `.`, at most 64: \"session\", \"access_token\"",
    ))
}

fn public_url(text: &str) -> Result<HttpUri, Wrong> {
    let plain = !text.contains(['?', '#']) && text.len() <= 1024;
    HttpUri::parse(text).filter(|_| plain).ok_or_else(|| {
        Wrong::new(
            format!("`{}` is not the URL of a service", shown(text)),
            "write scheme, host and port, and a path if clients see one: \"https://shop.example\"",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{ConfigProblem, Mesh, parse_mesh};

    fn parse(port: &str, route: &str) -> Result<Mesh, Vec<ConfigProblem>> {
        let text = format!(
            r#"
            trust_domain = "m.l"
            [[service]]
            name = "shop/orders"
            hosts = ["orders"]
            spiffe_ids = ["spiffe://m.l/orders"]
              [[service.port]]
              port = 8080
              {port}
              [[service.route]]
              name = "place"
              methods = ["POST"]
              path = "/order"
              {route}
            [[issuer]]
            alias = "corp"
            issuer = "https://idp"
            audiences = ["shop"]
            roles = ["roles", ["https://idp.example/a", "roles"]]
            claims.tenant = {{ path = ["org.x", "tenant"], type = "string" }}
            "#
        );
        parse_mesh(Path::new("mesh.toml"), &text)
    }

    fn rules(port: &str, route: &str) -> TokenRules {
        parse(port, route).unwrap().services.remove(0).tokens
    }

    #[test]
    fn what_is_configured_arrives() {
        let rules = rules(
            "token_from = { cookie = \"session\", query = \"access_token\" }\nforward_token = false\nbind = \"caller\"\n\
             dpop = \"accept\"\npublic_url = \"HTTPS://Shop.Example:443/api\"\ndpop_nonce = true",
            "bind = \"caller\"\nbind_claim = [\"https://idp.example/a\", \"by\"]\nrequire_cnf = true\ndpop = \"require\"",
        );
        let port = rules.port(8080);
        assert_eq!(port.places.cookie.as_deref(), Some("session"));
        assert_eq!(port.places.query.as_deref(), Some("access_token"));
        assert!(!port.forward && port.nonce);
        assert_eq!(
            port.public_url.as_ref().unwrap().as_str(),
            "https://shop.example/api"
        );
        let demand = Demand {
            caller: true,
            dpop: Dpop::Accept,
            ..Demand::default()
        };
        assert_eq!(port.demand, demand);
        let by = ClaimPath::Steps(vec!["https://idp.example/a".to_owned(), "by".to_owned()]);
        let demand = Demand {
            caller: true,
            caller_claim: Some(by.clone()),
            certificate: true,
            dpop: Dpop::Require,
        };
        assert_eq!(rules.route("shop/orders#place"), Some(&demand));
        assert_eq!(rules.bind_claims().collect::<Vec<_>>(), [&by]);
    }

    #[test]
    fn without_a_word_everything_is_as_it_was() {
        let rules = rules("", "");
        assert_eq!(**rules.port(8080), PortTokens::default());
        assert_eq!(**rules.port(1), PortTokens::default());
        assert!(rules.port(8080).forward && !rules.has_routes());
        assert!(
            self::rules("bind = \"none\"", "dpop = \"off\"")
                .port(8080)
                .demand
                .is_nothing()
        );
    }

    #[test]
    fn claims_below_names_with_dots_are_found_and_kept_for_every_issuer() {
        let mesh = parse(
            "bind = \"caller\"\nbind_claim = \"cid\"",
            "bind = \"caller\"\nbind_claim = \"cid\"",
        )
        .unwrap();
        let issuer = mesh.issuer_options().remove(0);
        assert_eq!(issuer.bind_claims, ["cid".into()]);
        let steps = |names: [&str; 2]| ClaimPath::Steps(names.map(str::to_owned).to_vec());
        assert_eq!(
            issuer.roles,
            ["roles".into(), steps(["https://idp.example/a", "roles"])]
        );
        assert_eq!(issuer.claims[0].path, steps(["org.x", "tenant"]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_do() {
        for (port, route, words) in [
            ("dpop = \"accept\"", "", "public_url"),
            ("", "dpop = \"require\"", "public_url"),
            ("dpop = \"always\"", "", "off"),
            ("dpop_nonce = true", "", "dpop"),
            ("bind = \"peer\"", "", "caller"),
            ("bind_claim = \"azp\"", "", "bind"),
            ("", "bind_claim = \"azp\"", "bind"),
            ("bind = \"caller\"\nbind_claim = []", "", "path of a claim"),
            ("bind = \"caller\"\nbind_claim = \"a..b\"", "", "path of a claim"),
            ("bind = \"caller\"\nbind_claim = 7", "", "bind_claim"),
            ("token_from = {}", "", "cookie"),
            ("token_from = { header = \"x\" }", "", "header"),
            ("token_from = { cookie = \"a b\" }", "", "cookie"),
            ("token_from = { query = \"a&b\" }", "", "parameter"),
            ("dpop = \"accept\"\npublic_url = \"shop.example\"", "", "https://"),
            ("public_url = \"https://shop.example/?x\"", "", "https://"),
            ("protocol = \"opaque\"\nbind = \"caller\"", "", "opaque"),
            ("protocol = \"opaque\"\nforward_token = false", "", "opaque"),
        ] {
            let problems = parse(port, route).unwrap_err();
            let told = |problem: &ConfigProblem| {
                format!(
                    "{} {}",
                    problem.message,
                    problem.hint.as_deref().unwrap_or_default()
                )
                .contains(words)
            };
            assert!(problems.iter().any(told), "{port} {route}: {problems:?}");
        }
    }
}
