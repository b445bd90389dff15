//! Table tests of policies as text: the `*.test.toml` files of a policy folder enter, cases with their places leave.
//! Nothing is decided here. What a test says is checked as strictly as a policy is: a test that cannot mean what it says
//! would pass for protection.

mod reading;
mod request;
mod text;

use std::net::IpAddr;

use spiffe::SpiffeId;

use super::facts::{Facts, HttpFacts, Principal, Reason, User, Verdict, What};
use super::model::Model;
use super::parse::{Parsings, Source};
use super::problem::{Problems, Span};
use reading::Reading;
use text::FileText;

/// The most tests of a set: they run at each load.
const MAX_CASES: usize = 10_000;
/// One test.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) file: usize,
    /// Where its name stands, and where what it expects does.
    pub(super) span: Span,
    pub(super) expects_at: Span,
    pub(super) name: String,
    pub(super) service: String,
    pub(super) expect: Expect,
    peer: Option<SpiffeId>,
    ask: Ask,
}

/// What a test expects.
#[derive(Debug)]
pub(super) struct Expect {
    pub(super) verdict: Verdict,
    /// Policies that must be among those that made the decision.
    pub(super) rules: Vec<String>,
    pub(super) reason: Option<Reason>,
    pub(super) status: Option<u16>,
    /// Exactly the policies in shadow that would have turned it.
    pub(super) shadow: Option<Vec<String>>,
}

#[derive(Debug)]
struct Ask {
    http: Option<Http>,
    port: u16,
    tls: bool,
    src_ip: IpAddr,
    now_millis: i64,
}

#[derive(Debug)]
struct Http {
    method: String,
    path: String,
    host: String,
    /// The path as an application reads it that cuts `;parameters` off.
    bare: Option<String>,
    headers: Vec<(String, Vec<String>)>,
    user: Option<User>,
}

impl Case {
    /// The facts as the sidecar would have them: one for each path that an application may take it for. All must be allowed.
    pub(super) fn readings(&self) -> impl Iterator<Item = Facts<'_>> {
        let http = self.ask.http.as_ref();
        let bare = http.and_then(|http| http.bare.as_deref());
        let path = http.map_or("", |http| &http.path);
        std::iter::once(path).chain(bare).map(|path| self.facts(path))
    }

    fn facts<'a>(&'a self, path: &'a str) -> Facts<'a> {
        Facts {
            principal: self
                .peer
                .as_ref()
                .map_or(Principal::Plaintext, Principal::Workload),
            port: self.ask.port,
            tls: self.ask.tls,
            src_ip: self.ask.src_ip,
            now_millis: self.ask.now_millis,
            what: match &self.ask.http {
                None => What::Connect,
                Some(http) => What::Http(HttpFacts {
                    method: &http.method,
                    path,
                    host: &http.host,
                    headers: &http.headers,
                    user: http.user.as_ref(),
                }),
            },
        }
    }

    /// Whether it is about a request, and for a user.
    pub(super) fn is_http(&self) -> bool {
        self.ask.http.is_some()
    }

    pub(super) fn has_user(&self) -> bool {
        self.ask.http.as_ref().is_some_and(|http| http.user.is_some())
    }
}

/// Reads every test file.
pub(super) fn read(model: &Model, source: &Source<'_>, set: &Parsings, problems: &mut Problems) -> Vec<Case> {
    let mut cases = Vec::new();
    for (file, text) in source.tests() {
        let mut reading = Reading {
            model,
            source,
            set,
            file,
            problems,
        };
        match toml::from_str::<FileText>(text) {
            Ok(text) => cases.extend(reading.file(text)),
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                let hint = "a test has name, peer, request or connect, and expect: see docs/policies.md";
                reading.wrong(span, error.message().to_owned(), Some(hint.to_owned()));
            }
        }
        if cases.len() > MAX_CASES {
            let message = format!("there are more than {MAX_CASES} tests, which would run at each load");
            let hint = "keep the others outside of the policy folder";
            reading.wrong(0..0, message, Some(hint.to_owned()));
            return Vec::new();
        }
    }
    cases
}
