//! What a test file means: its tables and the mesh enter, cases leave, or what is wrong and where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use spiffe::SpiffeId;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use toml::{Spanned, Value};

use super::super::facts::{ClaimValue, Reason, User, Verdict};
use super::super::model::{ClaimKind, Model, PortKind, ServiceModel};
use super::super::parse::{Parsings, Source, Wrong};
use super::super::problem::{Problems, Span};
use super::super::rules::nearest;
use super::text::{CaseText, ConnectText, FileText, RequestText, UserRef, UserText, Words};
use super::{Ask, Case, Expect};

/// When a test happens that does not say when: 2026-01-01T00:00:00Z. A test that depends on the day it runs on would refuse
/// tomorrow what it took today.
const NOW_MILLIS: i64 = 1_767_225_600_000;
/// The life of a test's user, in seconds.
const LIFE: i64 = 600;
/// From where a test calls that does not say from where (RFC 5737: for documentation).
const SRC_IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// One file while it is read.
pub(super) struct Reading<'r, 'f, 'p> {
    pub(super) model: &'r Model,
    pub(super) source: &'r Source<'f>,
    pub(super) set: &'r Parsings,
    pub(super) file: usize,
    pub(super) problems: &'p mut Problems,
}

impl Reading<'_, '_, '_> {
    pub(super) fn wrong(&mut self, at: Range<usize>, message: String, hint: Option<String>) {
        let wrong: Wrong = (message, hint);
        self.source.problem(self.problems, self.file, span(at), wrong);
    }

    pub(super) fn file(&mut self, text: FileText) -> Vec<Case> {
        let mut names = BTreeSet::new();
        let mut cases = Vec::new();
        for test in text.test {
            let name = test.name.get_ref();
            if name.is_empty() || name.chars().any(char::is_control) || name.len() > 300 {
                let message = "a test's name is one line of 1 to 300 bytes".to_owned();
                self.wrong(test.name.span(), message, None);
            } else if !names.insert(name.clone()) {
                let message = format!("a test of the name `{name}` is there twice");
                self.wrong(test.name.span(), message, Some("say what differs".to_owned()));
            }
            cases.extend(self.case(test, &text.user));
        }
        cases
    }

    /// `None` when something was wrong and said.
    fn case(&mut self, mut test: CaseText, users: &BTreeMap<String, UserText>) -> Option<Case> {
        let peer = self.peer(&test.peer)?;
        let (service, ask) = match (test.request.take(), test.connect.take()) {
            (Some(request), None) => self.request(request.into_inner(), test.user.as_ref(), users, &peer)?,
            (None, Some(connect)) => self.connect(connect.into_inner(), test.user.as_ref(), &peer)?,
            _ => {
                let message = "a test asks for one thing: `request` or `connect`".to_owned();
                self.wrong(test.name.span(), message, None);
                return None;
            }
        };
        let expect = self.expect(&test, &ask)?;
        Some(Case {
            file: self.file,
            span: span(test.name.span()),
            expects_at: span(test.expect.span()),
            name: test.name.into_inner(),
            service,
            expect,
            peer,
            ask,
        })
    }

    /// The peer: a service of the mesh file (by its first identity), a SPIFFE ID, or `plaintext`.
    fn peer(&mut self, peer: &Spanned<String>) -> Option<Option<SpiffeId>> {
        let text = peer.get_ref();
        if text == "plaintext" {
            return Some(None);
        }
        if text.starts_with("spiffe://") {
            return match SpiffeId::new(text) {
                Ok(id) => Some(Some(id)),
                Err(error) => {
                    self.wrong(peer.span(), format!("`{text}` is not a SPIFFE ID: {error}"), None);
                    None
                }
            };
        }
        match self.service(peer)?.spiffe_ids.first() {
            Some(id) => Some(Some(id.clone())),
            None => {
                let message = format!("the service `{text}` has no `spiffe_ids`");
                self.wrong(peer.span(), message, Some("name the SPIFFE ID itself".to_owned()));
                None
            }
        }
    }

    pub(super) fn service(&mut self, name: &Spanned<String>) -> Option<&ServiceModel> {
        let model = self.model;
        let found = model
            .services
            .iter()
            .find(|service| service.name == *name.get_ref());
        if found.is_none() {
            let all: Vec<&str> = model
                .services
                .iter()
                .map(|service| service.name.as_str())
                .collect();
            let message = format!("service `{}` is not in the mesh file", name.get_ref());
            self.wrong(name.span(), message, nearest(name.get_ref(), &all));
        }
        found
    }

    fn request(
        &mut self,
        text: RequestText,
        user: Option<&Spanned<UserRef>>,
        users: &BTreeMap<String, UserText>,
        peer: &Option<SpiffeId>,
    ) -> Option<(String, Ask)> {
        let port = self.port(&text.service, PortKind::Http, text.port)?;
        let now_millis = self.time(text.time.as_ref())?;
        self.mode(&text.service, port, (peer, text.tls))?;
        let user = match user {
            Some(user) => Some(self.user_ref(user, users, now_millis)?),
            None => None,
        };
        let (tls, src_ip) = (
            text.tls.unwrap_or(peer.is_some()),
            self.address(text.src_ip.as_ref())?,
        );
        let (service, http) = self.http(text, user)?;
        let ask = Ask {
            http: Some(http),
            port,
            tls,
            src_ip,
            now_millis,
        };
        Some((service, ask))
    }

    fn connect(
        &mut self,
        text: ConnectText,
        user: Option<&Spanned<UserRef>>,
        peer: &Option<SpiffeId>,
    ) -> Option<(String, Ask)> {
        if let Some(user) = user {
            let message = "a connection has no user: only requests carry tokens".to_owned();
            self.wrong(user.span(), message, Some("take `user` away".to_owned()));
            return None;
        }
        let port = self.port(&text.service, PortKind::Opaque, text.port)?;
        self.mode(&text.service, port, (peer, text.tls))?;
        let ask = Ask {
            http: None,
            port,
            tls: text.tls.unwrap_or(peer.is_some()),
            src_ip: self.address(text.src_ip.as_ref())?,
            now_millis: self.time(text.time.as_ref())?,
        };
        Some((text.service.into_inner(), ask))
    }

    /// The port: the one that is named, else the service's first one of the kind.
    fn port(&mut self, service: &Spanned<String>, kind: PortKind, port: Option<u16>) -> Option<u16> {
        let mut ports = self.service(service)?.ports.iter();
        let found = ports.find(|(number, of)| *of == kind && port.is_none_or(|port| port == *number));
        if let Some((number, _)) = found {
            return Some(*number);
        }
        let (what, hint) = match kind {
            PortKind::Http => ("http port", "an opaque port is asked with `connect`"),
            PortKind::Opaque => ("opaque port", "an http port is asked with `request`"),
        };
        let number = port.map_or_else(String::new, |port| format!(" {port}"));
        let message = format!("the service `{}` has no {what}{number}", service.get_ref());
        self.wrong(service.span(), message, Some(hint.to_owned()));
        None
    }

    fn address(&mut self, text: Option<&Spanned<String>>) -> Option<IpAddr> {
        let Some(text) = text else { return Some(SRC_IP) };
        let parsed = text.get_ref().parse().ok();
        if parsed.is_none() {
            let message = format!("`{}` is not an IP address", text.get_ref());
            self.wrong(text.span(), message, None);
        }
        parsed
    }

    /// A time in milliseconds since 1970.
    pub(super) fn time(&mut self, value: Option<&Spanned<Value>>) -> Option<i64> {
        let Some(value) = value else {
            return Some(NOW_MILLIS);
        };
        let text = match value.get_ref() {
            Value::String(text) => text.clone(),
            Value::Datetime(at) => at.to_string(),
            _ => String::new(),
        };
        let parsed = OffsetDateTime::parse(&text, &Rfc3339).ok();
        let millis = parsed.and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
        if millis.is_none() {
            let hint = "for example \"2026-12-31T12:00:00Z\"";
            self.wrong(
                value.span(),
                "this is no time with date and zone".to_owned(),
                Some(hint.to_owned()),
            );
        }
        millis
    }

    fn user_ref(
        &mut self,
        user: &Spanned<UserRef>,
        users: &BTreeMap<String, UserText>,
        now_millis: i64,
    ) -> Option<User> {
        match user.get_ref() {
            UserRef::Inline(text) => self.user(text, now_millis),
            UserRef::Named(name) => match users.get(name) {
                Some(text) => self.user(text, now_millis),
                None => {
                    let all: Vec<&str> = users.keys().map(String::as_str).collect();
                    let message = format!("there is no [user.{name}] in this file");
                    self.wrong(user.span(), message, nearest(name, &all));
                    None
                }
            },
        }
    }

    fn user(&mut self, text: &UserText, now_millis: i64) -> Option<User> {
        let alias = text.issuer.get_ref();
        let model = self.model;
        let Some(issuer) = model.issuers.iter().find(|issuer| issuer.alias == *alias) else {
            let all: Vec<&str> = model.issuers.iter().map(|issuer| issuer.alias.as_str()).collect();
            let message = format!("issuer `{alias}` is not in the mesh file");
            self.wrong(text.issuer.span(), message, nearest(alias, &all));
            return None;
        };
        self.like_a_token(text, issuer, now_millis)?;
        let mut claims = Vec::new();
        for (name, value) in &text.claims {
            let Some((_, kind)) = issuer.claims.iter().find(|(declared, _)| declared == name) else {
                let all: Vec<&str> = issuer.claims.iter().map(|(name, _)| name.as_str()).collect();
                let message = format!("claim `{name}` is not mapped for issuer `{alias}`");
                self.wrong(value.span(), message, nearest(name, &all));
                return None;
            };
            let Some(claim) = claim(*kind, value.get_ref()) else {
                let message = format!("claim `{name}` is {}", kind_in_words(*kind));
                self.wrong(value.span(), message, None);
                return None;
            };
            claims.push((name.clone(), claim));
        }
        let seconds = |millis: Option<i64>| millis.map(|millis| millis.div_euclid(1000));
        let auth_time = match &text.auth_time {
            Some(at) => seconds(Some(self.time(Some(at))?)),
            None => None,
        };
        let exp = match &text.exp {
            Some(at) => self.time(Some(at))?.div_euclid(1000),
            None => now_millis.div_euclid(1000).saturating_add(LIFE),
        };
        Some(User {
            alias: alias.clone(),
            issuer: issuer.issuer.clone(),
            subject: text.sub.clone().unwrap_or_else(|| "test".to_owned()),
            // A token that was taken names one of them.
            audience: match text.aud.0.as_slice() {
                [] => issuer.audiences.iter().take(1).cloned().collect(),
                named => named.to_vec(),
            },
            scope: text
                .scope
                .0
                .iter()
                .flat_map(|list| list.split_whitespace())
                .map(str::to_owned)
                .collect(),
            roles: text.roles.0.clone(),
            azp: text.azp.clone(),
            acr: text.acr.clone(),
            amr: text.amr.0.clone(),
            auth_time,
            exp,
            actor: text.actor.clone(),
            claims,
        })
    }

    fn expect(&mut self, test: &CaseText, ask: &Ask) -> Option<Expect> {
        let verdict = &test.expect;
        let expected = match verdict.get_ref().as_str() {
            "allow" => Verdict::Allow,
            "deny" => Verdict::Deny,
            _ => {
                let message = "a test expects \"allow\" or \"deny\"".to_owned();
                self.wrong(verdict.span(), message, None);
                return None;
            }
        };
        let reason = match &test.reason {
            Some(text) => Some(self.reason(text)?),
            None => None,
        };
        if let Some(status) = &test.status
            && (ask.http.is_none() || expected == Verdict::Allow || !matches!(status.get_ref(), 401 | 403))
        {
            let message = "a status is 401 or 403, of a request that is denied".to_owned();
            self.wrong(status.span(), message, None);
            return None;
        }
        Some(Expect {
            verdict: expected,
            rules: self.ids(test.rule.as_ref())?.unwrap_or_default(),
            reason,
            status: test.status.as_ref().map(|status| *status.get_ref()),
            shadow: self.ids(test.shadow.as_ref())?,
        })
    }

    fn reason(&mut self, text: &Spanned<String>) -> Option<Reason> {
        let found = Reason::ALL.iter().find(|reason| reason.label() == text.get_ref());
        if found.is_none() {
            let all = Reason::ALL.map(Reason::label);
            let message = format!("`{}` is no reason", text.get_ref());
            self.wrong(
                text.span(),
                message,
                Some(format!("there are: {}", all.join(", "))),
            );
        }
        found.copied()
    }

    /// Ids of policies, each of which must be there.
    fn ids(&mut self, words: Option<&Spanned<Words>>) -> Option<Option<Vec<String>>> {
        let Some(words) = words else { return Some(None) };
        let set = self.set;
        if let Some(unknown) = words.get_ref().0.iter().find(|id| !set.contains_key(*id)) {
            let all: Vec<&str> = set.keys().map(String::as_str).collect();
            let message = format!("there is no policy `@id(\"{unknown}\")`");
            self.wrong(words.span(), message, nearest(unknown, &all));
            return None;
        }
        let mut ids = words.get_ref().0.clone();
        ids.sort_unstable();
        Some(Some(ids))
    }
}

fn span(range: Range<usize>) -> Span {
    Span {
        start: range.start,
        end: range.end,
    }
}

fn claim(kind: ClaimKind, value: &Value) -> Option<ClaimValue> {
    Some(match (kind, value) {
        (ClaimKind::String, Value::String(text)) => ClaimValue::String(text.clone()),
        (ClaimKind::Strings, Value::String(text)) => ClaimValue::Strings(vec![text.clone()]),
        (ClaimKind::Strings, Value::Array(list)) => {
            let texts = list.iter().map(|value| value.as_str().map(str::to_owned));
            ClaimValue::Strings(texts.collect::<Option<_>>()?)
        }
        (ClaimKind::Long, Value::Integer(number)) => ClaimValue::Long(*number),
        (ClaimKind::Bool, Value::Boolean(truth)) => ClaimValue::Bool(*truth),
        _ => return None,
    })
}

fn kind_in_words(kind: ClaimKind) -> &'static str {
    match kind {
        ClaimKind::String => "a text",
        ClaimKind::Strings => "a list of texts",
        ClaimKind::Long => "a whole number",
        ClaimKind::Bool => "true or false",
    }
}
