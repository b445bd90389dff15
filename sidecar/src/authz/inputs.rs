//! What one decision was made on: of the facts, those that a policy of the slice reads, as values of their own. They go
//! into records, are kept for explanations, and suffice to decide again ([`super::Policies::replay`]). No token, no query,
//! and no header that no policy reads is ever in them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spiffe::SpiffeId;

use super::expr::Uses;
use super::facts::{Facts, HttpFacts, Principal, User, What};
use super::names::Names;
use super::wire::Wire;

/// The longest value that a record holds, in bytes, and the most values of one list.
const MAX_VALUE: usize = 512;
const MAX_VALUES: usize = 64;

/// What one decision was made on. In JSON as `inputs` of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Wire", try_from = "Wire")]
pub struct Inputs {
    /// The service that was called.
    pub service: Arc<str>,
    /// The peer; `None` when it had no certificate.
    pub peer: Option<SpiffeId>,
    /// The port that was called.
    pub port: u16,
    /// Whether the connection was TLS.
    pub tls: bool,
    /// The peer's address.
    pub src_ip: IpAddr,
    /// When, in milliseconds since 1970.
    pub now_millis: i64,
    /// The request, on an http port.
    pub request: Option<RequestInputs>,
    /// What a policy read and this does not hold (any more), as `user.sub` or `claims.tenant`: deciding again on it may
    /// come out otherwise.
    pub withheld: Vec<String>,
}

/// The part of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInputs {
    /// The method.
    pub method: String,
    /// The path as it was decided, without the query. A record leaves it out where a declared route stands for it and no
    /// policy reads it.
    pub path: Option<String>,
    /// The host, when a policy reads it.
    pub host: Option<String>,
    /// The declared route that the path matched, as `<service>#<route>`.
    pub route: Option<Arc<str>>,
    /// The route's parameters that a policy reads.
    pub params: BTreeMap<String, String>,
    /// The declared headers that a policy reads and that were sent.
    pub headers: Vec<(String, Vec<String>)>,
    /// The user, when a policy reads it: fields that none reads are empty.
    pub user: Option<User>,
    /// In a record that hides the subject: what it shows instead.
    pub user_hash: Option<String>,
    /// Whether a policy reads the path, and the subject.
    pub(super) reads: (bool, bool),
}

/// How a record shows the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// By the subject.
    Plain,
    /// By this hash of it.
    Hash(&'a str),
    /// Not at all.
    Hidden,
}

/// What of the facts is read.
pub(super) struct Reading<'a> {
    pub(super) uses: Uses,
    pub(super) names: &'a Names,
}

impl Inputs {
    /// Of these facts what is read. `route` is what the path matched, with its parameters.
    pub(super) fn of(
        service: Arc<str>,
        facts: &Facts<'_>,
        route: Option<(Arc<str>, BTreeMap<String, String>)>,
        reading: &Reading<'_>,
    ) -> Self {
        let request = match &facts.what {
            What::Connect => None,
            What::Http(http) => Some(RequestInputs::of(http, route, reading)),
        };
        Self {
            service,
            peer: match facts.principal {
                Principal::Workload(id) => Some(id.clone()),
                Principal::Plaintext => None,
            },
            port: facts.port,
            tls: facts.tls,
            src_ip: facts.src_ip.to_canonical(),
            now_millis: facts.now_millis,
            request,
            withheld: Vec::new(),
        }
    }

    /// The facts again.
    pub(super) fn with_facts<R>(&self, then: impl FnOnce(&Facts<'_>) -> R) -> R {
        let what = match &self.request {
            None => What::Connect,
            Some(request) => What::Http(HttpFacts {
                method: &request.method,
                path: request.path.as_deref().unwrap_or_default(),
                host: request.host.as_deref().unwrap_or_default(),
                headers: &request.headers,
                user: request.user.as_ref(),
            }),
        };
        then(&Facts {
            principal: self
                .peer
                .as_ref()
                .map_or(Principal::Plaintext, Principal::Workload),
            port: self.port,
            tls: self.tls,
            src_ip: self.src_ip,
            now_millis: self.now_millis,
            what,
        })
    }

    /// The same as a record may hold it: bounded, the user as `subject` says, no path that may hold personal data and
    /// that no policy reads.
    #[must_use]
    pub fn logged(&self, subject: Subject<'_>) -> Self {
        let mut logged = self.clone();
        let mut withheld = std::mem::take(&mut logged.withheld);
        if let Some(request) = &mut logged.request {
            request.show_user(subject, &mut withheld);
            request.bound(&mut withheld);
            if request.route.is_some() && !request.reads.0 {
                request.path = None;
            }
        }
        logged.withheld = withheld;
        logged
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let lists = |list: &[String]| list.iter().map(|text| text.len() + 24).sum::<usize>();
        let request = self.request.as_ref().map_or(0, |request| {
            let headers = request.headers.iter();
            let params = request.params.iter();
            let user = request.user.as_ref().map_or(0, |user| {
                let claims = user
                    .claims
                    .iter()
                    .map(|(name, value)| name.len() + value.weight() + 48);
                lists(&user.roles)
                    + lists(&user.scope)
                    + lists(&user.audience)
                    + lists(&user.amr)
                    + claims.sum::<usize>()
                    + user.issuer.len()
                    + user.subject.len()
                    + 256
            });
            let path = request.path.as_ref().map_or(0, String::len);
            path + user
                + headers
                    .map(|(name, values)| name.len() + lists(values) + 48)
                    .sum::<usize>()
                + params
                    .map(|(name, value)| name.len() + value.len() + 48)
                    .sum::<usize>()
        });
        request + 512
    }
}

impl RequestInputs {
    fn of(
        http: &HttpFacts<'_>,
        route: Option<(Arc<str>, BTreeMap<String, String>)>,
        Reading { uses, names }: &Reading<'_>,
    ) -> Self {
        let (route, params) = match route {
            Some((route, params)) => (Some(route), params),
            None => (None, BTreeMap::new()),
        };
        let headers = http
            .headers
            .iter()
            .filter(|(name, _)| uses.context("headers") && names.headers.has(name));
        Self {
            method: http.method.to_owned(),
            path: Some(http.path.to_owned()),
            host: uses.context("host").then(|| http.host.to_owned()),
            route,
            params: params
                .into_iter()
                .filter(|(name, _)| names.params.has(name))
                .collect(),
            headers: headers.cloned().collect(),
            user: http
                .user
                .filter(|_| uses.of_a_token())
                .map(|user| read_of(user, *uses, names)),
            user_hash: None,
            reads: (names.path, names.subject),
        }
    }

    fn show_user(&mut self, subject: Subject<'_>, withheld: &mut Vec<String>) {
        let Some(user) = &mut self.user else { return };
        match subject {
            Subject::Plain => return,
            Subject::Hash(hash) => {
                // A claim that is the subject by another name would tell it.
                let subject = std::mem::take(&mut user.subject);
                user.claims.retain(|(name, value)| {
                    let tells = !subject.is_empty() && value.holds(&subject);
                    if tells {
                        withheld.push(format!("claims.{name}"));
                    }
                    !tells
                });
                if user.actor.take().is_some() {
                    withheld.push("actor".to_owned());
                }
                self.user_hash = Some(hash.to_owned());
            }
            Subject::Hidden => {
                self.user = None;
                withheld.push("user".to_owned());
                return;
            }
        }
        if self.reads.1 {
            withheld.push("user.sub".to_owned());
        }
    }

    fn bound(&mut self, withheld: &mut Vec<String>) {
        let mut keep = |name: String, fits: bool| {
            if !fits {
                withheld.push(name);
            }
            fits
        };
        let short = |text: &String| text.len() <= MAX_VALUE && !text.chars().any(char::is_control);
        let all = |list: &[String]| list.len() <= MAX_VALUES && list.iter().all(short);
        self.headers
            .retain(|(name, values)| keep(format!("headers.{name}"), all(values)));
        self.params
            .retain(|name, value| keep(format!("params.{name}"), short(value)));
        if !short(&self.method) {
            keep("method".to_owned(), false);
            self.method.clear();
        }
        self.path = self
            .path
            .take()
            .filter(|path| keep("path".to_owned(), short(path)));
        if let Some(user) = &mut self.user {
            user.claims
                .retain(|(name, value)| keep(format!("claims.{name}"), value.fits(short, all)));
            for (name, list) in [
                ("roles", &mut user.roles),
                ("scope", &mut user.scope),
                ("aud", &mut user.audience),
                ("amr", &mut user.amr),
            ] {
                if !all(list) {
                    keep(format!("user.{name}"), false);
                    list.clear();
                }
            }
            for (name, one) in [("azp", &mut user.azp), ("acr", &mut user.acr)] {
                *one = one.take().filter(|one| keep(format!("user.{name}"), short(one)));
            }
            if !short(&user.subject) {
                keep("user.sub".to_owned(), false);
                user.subject.clear();
            }
        }
    }
}

/// The fields of a user that are read; the others are empty.
fn read_of(user: &User, uses: Uses, names: &Names) -> User {
    let list = |name: &str, of: &[String]| if uses.user(name) { of.to_vec() } else { Vec::new() };
    let one = |name: &str, of: &Option<String>| of.clone().filter(|_| uses.user(name));
    let claims = user
        .claims
        .iter()
        .filter(|(name, _)| uses.user("claims") && names.claims.has(name));
    User {
        alias: user.alias.clone(),
        issuer: if uses.user("issuer") {
            user.issuer.clone()
        } else {
            String::new()
        },
        subject: user.subject.clone(),
        audience: list("aud", &user.audience),
        scope: list("scope", &user.scope),
        roles: if names.roles {
            user.roles.clone()
        } else {
            Vec::new()
        },
        azp: one("azp", &user.azp),
        acr: one("acr", &user.acr),
        amr: list("amr", &user.amr),
        auth_time: user.auth_time.filter(|_| uses.user("auth_time")),
        exp: if uses.user("exp") { user.exp } else { 0 },
        actor: user.actor.clone().filter(|_| uses.context("actor")),
        claims: claims.cloned().collect(),
    }
}
