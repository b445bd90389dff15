//! Who asks, for whom, and for what: a request's head enters, the facts of its decision leave, or the answer that it gets
//! instead; and, once it is allowed, its head as the application is to see it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::inbound::principal;
use super::spelled::spelled;
use super::tell::millis;
use super::token::{Kept, Refused, Shown, still_bound, token};
use super::{Context, Secured};
use crate::assertion;
use crate::authn::{ClaimValue, VerifiedUser, renewable};
use crate::authz::{self, Decision, Facts, HttpFacts, Policies, Reason, Verdict, What};
use crate::observe::{TraceParent, decision_id};
use crate::request::{Head, Refusal};
use crate::snapshot::Snapshot;

/// The header that tells the application who the user is, as proven: JSON with `iss`, `sub` and `roles`, and `act` when
/// somebody acts for the user. Whatever came under its name from outside was stripped.
const USER_HEADER: &str = "x-hopguard-user";
/// The header that tells the application who the calling workload is, as Envoy writes it.
const PEER_HEADER: &str = "x-forwarded-client-cert";

/// One request and what is known of it so far.
pub(super) struct Asked<'a> {
    pub(super) secured: &'a Secured,
    pub(super) head: Head,
    pub(super) started: Instant,
    pub(super) at: SystemTime,
    pub(super) trace: TraceParent,
    pub(super) id: Arc<str>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(secured: &'a Secured, head: Head) -> Self {
        let trace = TraceParent::continued(head.header("traceparent"));
        Self {
            secured,
            head,
            started: Instant::now(),
            at: SystemTime::now(),
            trace,
            id: decision_id(),
        }
    }

    /// The decision, on every path that the application may take the request for: each must be allowed.
    pub(super) fn decide(
        &self,
        policies: &Policies,
        at: SystemTime,
        user: Option<&authz::User>,
        headers: &[(String, Vec<String>)],
    ) -> Decision {
        let decision = policies.decide(&self.facts(&self.head.path, at, user, headers));
        match &self.head.bare_path {
            Some(bare) if decision.verdict == Verdict::Allow => {
                let other = policies.decide(&self.facts(bare, at, user, headers));
                if other.verdict == Verdict::Allow {
                    decision
                } else {
                    other
                }
            }
            _ => decision,
        }
    }

    fn facts<'b>(
        &'b self,
        path: &'b str,
        at: SystemTime,
        user: Option<&'b authz::User>,
        headers: &'b [(String, Vec<String>)],
    ) -> Facts<'b> {
        Facts {
            principal: principal(self.secured),
            port: self.secured.port.port,
            tls: self.secured.tls.is_some(),
            src_ip: self.secured.src.ip(),
            now_millis: millis(at),
            what: What::Http(HttpFacts {
                method: &self.head.method,
                path,
                host: &self.head.host,
                headers,
                user,
            }),
        }
    }
}

/// A request as far as it was read for the decision.
pub(super) struct Read {
    pub(super) verified: Option<Arc<VerifiedUser>>,
    pub(super) user: Option<authz::User>,
    pub(super) headers: Vec<(String, Vec<String>)>,
    /// The token, as far as others than its user are concerned.
    pub(super) shown: Shown,
}

impl Read {
    /// The answer to what was denied: it asks for what would be taken here.
    pub(super) fn denial(&self, decision: &Decision) -> No {
        let no = denial(decision, self.user.is_some());
        match no.status {
            401 => No {
                extra: self.shown.asks.plain(),
                ..no
            },
            403 if !decision.scopes.is_empty() => No {
                code: "insufficient_scope",
                detail: "the policy needs a scope that the token does not have".to_owned(),
                extra: self.shown.asks.scopes(self.shown.key.is_some(), &decision.scopes),
                ..no
            },
            _ => no,
        }
    }
}

/// What a decision allowed, and on what.
pub(super) struct Allowed {
    pub(super) read: Read,
    pub(super) snapshot: Arc<Snapshot>,
    /// The signed statement for the application, where one is asked for.
    pub(super) assertion: Option<String>,
}

/// A request that is answered by us.
pub(super) struct No {
    /// The status.
    pub(super) status: u16,
    /// A stable label.
    pub(super) code: &'static str,
    /// A sentence for people.
    pub(super) detail: String,
    pub(super) extra: Vec<(&'static str, String)>,
}

impl No {
    /// What the client is told. Why something behind us failed (addresses, paths, the words of an identity provider) is for
    /// the record and for `explain`: whoever asks may be nobody to tell.
    pub(super) fn told(&self) -> &str {
        match (self.status, self.code) {
            (500.., "issuer_unavailable") => "the token cannot be judged now",
            (500.., _) => self.detail.split(": ").next().unwrap_or_default(),
            _ => &self.detail,
        }
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self {
            status: refusal.status,
            code: refusal.code,
            detail: refusal.detail,
            extra: vec![],
        }
    }
}

/// The user that something open was decided for, and the token that proved it.
pub(super) type User<'a> = Kept<'a>;

impl User<'_> {
    /// What the token proves today: nothing when its key or its issuer is gone, or when it must now be bound to its sender
    /// and is not; and possibly something else when its issuer was configured anew.
    pub(super) async fn proven_again(
        &self,
        ctx: &Context,
        snapshot: &Snapshot,
        now: SystemTime,
    ) -> Option<Arc<VerifiedUser>> {
        let verified = match ctx.authn.recheck(&self.verified, now) {
            Ok(()) => Arc::clone(&self.verified),
            Err(rejection) if renewable(&rejection) => self.verified_again(ctx, now).await?,
            Err(_) => return None,
        };
        still_bound(ctx, self.asked, (&verified, self.shown.key), snapshot).then_some(verified)
    }
}

impl Asked<'_> {
    /// The user of this request, as it was read.
    pub(super) fn user<'b>(&'b self, read: &'b Read) -> Option<User<'b>> {
        Some(Kept {
            verified: read.verified.clone()?,
            asked: self,
            shown: &read.shown,
        })
    }
}

pub(super) async fn read(ctx: &Context, asked: &Asked<'_>, snapshot: &Snapshot) -> Result<Read, Refused> {
    if !asked.secured.still_admitted(ctx) {
        let detail = "the port is not declared any more, or takes no such connection any more".to_owned();
        return Err(No {
            status: 403,
            code: "port_changed",
            detail,
            extra: vec![],
        }
        .into());
    }
    if let Err(fallen) = asked.secured.still_trusted(snapshot, asked.at) {
        return Err(No {
            status: 403,
            code: fallen.label(),
            detail: fallen.to_string(),
            extra: vec![],
        }
        .into());
    }
    if !fronts(ctx, asked, snapshot) {
        let detail = "this sidecar does not stand before a service of that host".to_owned();
        return Err(No {
            status: 404,
            code: "unknown_host",
            detail,
            extra: vec![],
        }
        .into());
    }
    // Again: the route may allow less in this snapshot than in the one that the head was judged by.
    spelled(ctx, &asked.head, snapshot).map_err(No::from)?;
    let headers = asked.head.declared(&snapshot.declared).map_err(No::from)?;
    let shown = token(ctx, asked, snapshot).await?;
    let verified = shown.verified.clone();
    let user = verified.as_deref().map(as_user);
    Ok(Read {
        verified,
        user,
        headers,
        shown,
    })
}

/// Whether the request is for the service that this sidecar stands before, by one of its names or addresses. Without a
/// host (HTTP/1.0) there is nothing that could be meant instead.
fn fronts(ctx: &Context, asked: &Asked<'_>, snapshot: &Snapshot) -> bool {
    let host = asked.head.host.as_str();
    if host.is_empty() {
        return true;
    }
    let literal = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(address) = literal.parse::<std::net::IpAddr>() {
        return address.to_canonical() == asked.secured.app.ip()
            || ctx
                .services
                .table()
                .addresses_of(&ctx.options.service)
                .contains(&address.to_canonical());
    }
    snapshot
        .mesh
        .service(&ctx.options.service)
        .is_some_and(|service| service.hosts.iter().any(|known| known == host))
}

pub(super) fn denial(decision: &Decision, has_user: bool) -> No {
    if decision.user_would_help && !has_user {
        let extra = vec![("www-authenticate", "Bearer realm=\"hopguard\"".to_owned())];
        let detail = "a user's token is needed here".to_owned();
        return No {
            status: 401,
            code: Reason::UserRequired.label(),
            detail,
            extra,
        };
    }
    No {
        status: 403,
        code: decision.reason.label(),
        detail: "the policy does not allow this".to_owned(),
        extra: vec![],
    }
}

/// The head as the application gets it: identity headers from outside stripped, what was proven written.
pub(super) fn rewritten(asked: &Asked<'_>, allowed: &Allowed) -> Vec<u8> {
    let add = added(asked, allowed);
    let add: Vec<(&str, &str)> = add.iter().map(|(name, value)| (*name, value.as_str())).collect();
    passed_on(asked, allowed).forward_bytes(&add)
}

/// The head that is passed on: without the token, where the application shall not be able to use it.
pub(super) fn passed_on<'a>(asked: &'a Asked<'_>, allowed: &Allowed) -> Cow<'a, Head> {
    let tokens = &allowed.read.shown.port;
    if tokens.forward {
        Cow::Borrowed(&asked.head)
    } else {
        Cow::Owned(asked.head.without_token(&tokens.places))
    }
}

/// What is added to the head that the application gets: what was proven, in headers that are ours to write.
pub(super) fn added(asked: &Asked<'_>, allowed: &Allowed) -> Vec<(&'static str, String)> {
    let mut add: Vec<(&'static str, String)> = vec![("traceparent", asked.trace.to_string())];
    if let (Some(peer), Ok(tls)) = (&asked.secured.peer, &allowed.snapshot.tls) {
        let value = format!(
            "By={};Hash={};URI={}",
            tls.identity().id,
            hex::encode(peer.fingerprint),
            peer.id
        );
        add.push((PEER_HEADER, value));
    }
    if let Some(user) = &allowed.read.verified {
        add.push((USER_HEADER, user_header(user)));
    }
    if let Some(assertion) = &allowed.assertion {
        add.push((assertion::HEADER, assertion.clone()));
    }
    add.push(("x-forwarded-for", asked.secured.src.ip().to_string()));
    add.push((
        "x-forwarded-proto",
        if asked.secured.tls.is_some() {
            "https"
        } else {
            "http"
        }
        .to_owned(),
    ));
    add
}

/// JSON in visible ASCII: what is not is written as `\u` escapes, so that no value can end the header.
fn user_header(user: &VerifiedUser) -> String {
    let mut said = serde_json::json!({"iss": &*user.issuer, "sub": user.subject, "roles": user.roles});
    if let (Some(said), false) = (said.as_object_mut(), user.actors.is_empty()) {
        said.insert("act".to_owned(), user.actors.clone().into());
    }
    let json = said.to_string();
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            ascii.push(c);
        } else {
            let mut units = [0u16; 2];
            for unit in c.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}

pub(super) fn at_seconds(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The user as policies see it.
pub fn as_user(user: &VerifiedUser) -> authz::User {
    authz::User {
        alias: user.alias.to_string(),
        issuer: user.issuer.to_string(),
        subject: user.subject.clone(),
        audience: user.audience.clone(),
        scope: user.scope.clone(),
        roles: user.roles.clone(),
        azp: user.azp.clone(),
        acr: user.acr.clone(),
        amr: user.amr.clone(),
        auth_time: user.auth_time,
        exp: user.exp,
        actor: user.actors.first().cloned(),
        claims: user
            .claims
            .iter()
            .map(|(name, value)| (name.clone(), as_claim(value)))
            .collect(),
    }
}

fn as_claim(value: &ClaimValue) -> authz::ClaimValue {
    match value {
        ClaimValue::String(text) => authz::ClaimValue::String(text.clone()),
        ClaimValue::Strings(texts) => authz::ClaimValue::Strings(texts.clone()),
        ClaimValue::Long(number) => authz::ClaimValue::Long(*number),
        ClaimValue::Bool(truth) => authz::ClaimValue::Bool(*truth),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_not_told_what_lies_behind_us() {
        let told = |status, code, detail: &str| {
            let (detail, extra) = (detail.to_owned(), vec![]);
            let no = No {
                status,
                code,
                detail,
                extra,
            };
            no.told().to_owned()
        };
        let why = "issuer `mine` cannot be asked for the token: POST http://127.0.0.1:9/introspect: no answer in time";
        assert_eq!(
            told(503, "issuer_unavailable", why),
            "the token cannot be judged now"
        );
        let why = "the application does not answer: 10.0.0.7:8080: Connection refused (os error 111)";
        assert_eq!(
            told(503, "connect_refused", why),
            "the application does not answer"
        );
        // What the client did is its own business, and told whole.
        assert_eq!(told(401, "expired", "exp: it has ended"), "exp: it has ended");
    }
}
