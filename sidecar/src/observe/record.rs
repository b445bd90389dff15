//! The record of one request or one connection: what was established about it enters, one line of JSON leaves. Tokens,
//! cookies, query strings and bodies have no field here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use spiffe::SpiffeId;
use time::OffsetDateTime;
use time::format_description::well_known::iso8601::{
    Config, EncodedConfig, FormattedComponents, Iso8601, TimePrecision,
};

use crate::authz::Inputs;

use super::denials::Made;
use super::text::Text;
use super::trace::TraceParent;
use super::user::UserName;

/// One request, or one connection.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// When it ended.
    #[serde(serialize_with = "timestamp")]
    pub ts: SystemTime,
    /// What it is.
    pub kind: Kind,
    /// Which way it went.
    pub direction: Direction,
    /// The opaque id that an answer names, by which a denial is looked up ([`decision_id`]).
    pub request_id: Text,
    /// Where it stands in its trace: `trace_id` and `span_id`.
    #[serde(flatten, serialize_with = "trace")]
    pub trace: Option<TraceParent>,
    /// Who called.
    pub src: Source,
    /// Who was called.
    pub dst: Destination,
    /// What was proven: the label that metrics carry too.
    pub identity_state: Proven,
    /// How the connection is protected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// For whom, when a valid token said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// What was asked and answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// What was carried, on an opaque connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// What was decided, and why. Absent only when no decision was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// What the decision was made on: of a denial, and where a policy asks for a record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Box<Inputs>>,
    /// How long the stages took.
    pub timing: Timing,
    /// How often it was tried again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// What failed after the decision, or instead of it: a stable label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// The failure in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Text>,
    /// Stable labels of what was remarkable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<&'static str>,
    /// Whether it was ended or answered by us: then `hopguard explain` can look it up.
    #[serde(skip)]
    pub by_us: bool,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One HTTP request.
    Request,
    /// One connection.
    Connection,
}

/// Seen from the application beside the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To it.
    Inbound,
    /// From it.
    Outbound,
}

impl Direction {
    /// The name in records and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Which of the two identities were proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Proven {
    /// Workload and user.
    #[serde(rename = "mtls+user")]
    WorkloadAndUser,
    /// The workload.
    #[serde(rename = "mtls")]
    Workload,
    /// The user alone, on a plaintext or public port.
    #[serde(rename = "user")]
    User,
    /// Neither.
    #[serde(rename = "none")]
    Nothing,
}

impl Proven {
    /// From what was proven.
    pub fn of(workload: bool, user: bool) -> Self {
        match (workload, user) {
            (true, true) => Self::WorkloadAndUser,
            (true, false) => Self::Workload,
            (false, true) => Self::User,
            (false, false) => Self::Nothing,
        }
    }

    /// The name in records and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::WorkloadAndUser => "mtls+user",
            Self::Workload => "mtls",
            Self::User => "user",
            Self::Nothing => "none",
        }
    }
}

/// Who called.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    /// Address and port of the socket's peer; never taken from a header.
    pub addr: Text,
    /// The proven SPIFFE ID; absent on plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<Text>,
    /// Its trust domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<Text>,
    /// When the SVID that proved it ends.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_timestamp")]
    pub svid_not_after: Option<SystemTime>,
}

impl Source {
    /// A caller without a proven identity.
    pub fn plain(addr: impl Into<Text>) -> Self {
        Self {
            addr: addr.into(),
            spiffe_id: None,
            trust_domain: None,
            svid_not_after: None,
        }
    }

    /// A caller that proved `id`.
    pub fn proven(addr: impl Into<Text>, id: &SpiffeId, not_after: SystemTime) -> Self {
        Self {
            addr: addr.into(),
            spiffe_id: Some(Text::from(id.to_string())),
            trust_domain: Some(Text::from(id.trust_domain_name().to_owned())),
            svid_not_after: Some(not_after),
        }
    }
}

/// Who was called.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Destination {
    /// Address and port; absent when it was never known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<Text>,
    /// The service of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Text>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The SPIFFE ID that it proved (outbound), or that it has (inbound).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<Text>,
    /// When the SVID that proved it ends (outbound).
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_timestamp")]
    pub svid_not_after: Option<SystemTime>,
}

/// How the connection is protected.
#[derive(Clone, Debug, Serialize)]
pub struct Tls {
    /// `hbone`, `port` (mTLS on the application's port) or `public`.
    pub mode: &'static str,
    /// The protocol's version.
    pub version: &'static str,
    /// The key exchange group.
    pub kx: &'static str,
    /// Never true: sessions are not resumed, and a record says so.
    pub resumed: bool,
}

/// For whom.
#[derive(Clone, Debug, Serialize)]
pub struct User {
    /// What the mode of the log shows of the user.
    #[serde(flatten)]
    pub name: UserName,
    /// Authentication context class (OpenID Connect Core 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr: Option<Text>,
    /// Authentication methods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<Text>,
    /// Scopes of the token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Text>,
    /// The party that the token was issued to (`azp`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Text>,
    /// Who acts for the user, the present actor first; shown as the user is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub act: Vec<UserName>,
}

/// What was asked and answered. Sizes in bytes, of bodies.
#[derive(Clone, Debug, Serialize)]
pub struct Http {
    /// The method.
    pub method: Text,
    /// The declared route; with it, the path (which may hold personal data) is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Text>,
    /// The path as it was decided, without the query; only where no route is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Text>,
    /// The host, as it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Text>,
    /// The answer's status, from the application or from the sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What a gRPC call was told by the sidecar in its place: on the wire the status is then 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// `HTTP/1.1`, `HTTP/1.0`.
    pub proto: &'static str,
    /// Of the request.
    pub req_bytes: u64,
    /// Of the answer.
    pub resp_bytes: u64,
}

/// What was carried. Bytes as the application sees them.
#[derive(Clone, Debug, Serialize)]
pub struct Tcp {
    /// From the caller.
    pub bytes_in: u64,
    /// To the caller.
    pub bytes_out: u64,
    /// Why it ended: a stable label.
    pub close: &'static str,
}

/// What was decided, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// A stable label.
    pub reason: &'static str,
    /// The `@id`s of the rules that decided: `rule` is the first, `rules` are all where there are several.
    #[serde(flatten, serialize_with = "rules")]
    pub rules: Vec<Text>,
    /// On a denial without a rule: the permit that was nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<Need>,
    /// Shadow rules that would have denied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<Text>,
    /// What the shadow set would have answered, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would: Option<Would>,
    /// The `@reason` of the rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
    /// Whether a rule that decided asks for the record (`@audit`): it is kept whatever is sampled.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// The version of the policy set.
    pub policy_version: Text,
    /// Rules that failed to evaluate; a failing forbid denies, a failing permit does not permit.
    #[serde(skip_serializing_if = "is_zero")]
    pub errors: u32,
    /// What it was made on and with.
    #[serde(skip)]
    pub made: Option<Made>,
}

/// What the shadow set would have answered.
#[derive(Clone, Debug, Serialize)]
pub struct Would {
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// A stable label.
    pub reason: &'static str,
    /// The `@id`s of the rules that would have decided.
    #[serde(flatten, serialize_with = "rules")]
    pub rules: Vec<Text>,
    /// The version of the shadow set.
    pub policy_version: Text,
}

/// The permit that would have been needed.
#[derive(Clone, Debug, Serialize)]
pub struct Need {
    /// Its `@id`.
    pub rule: Text,
    /// What it says.
    pub text: Text,
}

/// How long the stages took; in JSON seconds, with microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Timing {
    /// The TLS handshake.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub tls: Option<Duration>,
    /// The user's token.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub token: Option<Duration>,
    /// The decision.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub policy: Option<Duration>,
    /// The connect to the application or the peer.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub upstream_connect: Option<Duration>,
    /// Until the answer's first byte.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub ttfb: Option<Duration>,
    /// All of it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub total: Option<Duration>,
}

impl Record {
    /// A record with what every one has; the rest is filled in as it becomes known.
    pub fn new(kind: Kind, direction: Direction, request_id: impl Into<Text>, src: Source) -> Self {
        Self {
            ts: UNIX_EPOCH,
            kind,
            direction,
            request_id: request_id.into(),
            trace: None,
            src,
            dst: Destination::default(),
            identity_state: Proven::Nothing,
            tls: None,
            user: None,
            http: None,
            tcp: None,
            decision: None,
            inputs: None,
            timing: Timing::default(),
            retries: 0,
            error: None,
            detail: None,
            flags: Vec::new(),
            by_us: false,
        }
    }
}

/// A new opaque id for a decision: 128 random bits, 32 hex digits.
pub fn decision_id() -> Arc<str> {
    hex::encode(unique::<16>()).into()
}

/// Random bytes; `None` when the system has none.
pub(super) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut out = [0; N];
    aws_lc_rs::rand::fill(&mut out).ok().map(|()| out)
}

/// Bytes that are not used twice, for ids that join records; never all zero. Random, and without randomness counted.
pub(super) fn unique<const N: usize>() -> [u8; N] {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    random().filter(|bytes| *bytes != [0; N]).unwrap_or_else(|| {
        let mut out = [0; N];
        let count = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        for (to, from) in out.iter_mut().rev().zip(count.iter().rev()) {
            *to = *from;
        }
        out
    })
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

const MILLIS: EncodedConfig = Config::DEFAULT
    .set_formatted_components(FormattedComponents::DateTimeOffset)
    .set_time_precision(TimePrecision::Second {
        decimal_digits: std::num::NonZeroU8::new(3),
    })
    .encode();

/// RFC 3339 in UTC with milliseconds.
fn timestamp<S: Serializer>(ts: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let text = OffsetDateTime::from(*ts).format(&Iso8601::<MILLIS>);
    serializer.serialize_str(&text.map_err(serde::ser::Error::custom)?)
}

fn maybe_timestamp<S: Serializer>(ts: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match ts {
        Some(ts) => timestamp(ts, serializer),
        None => serializer.serialize_none(),
    }
}

fn trace<S: Serializer>(trace: &Option<TraceParent>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Ids {
        trace_id: String,
        span_id: String,
    }
    let ids = trace.map(|trace| Ids {
        trace_id: trace.trace_id(),
        span_id: trace.span_id(),
    });
    ids.serialize(serializer)
}

fn rules<S: Serializer>(rules: &[Text], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Rules<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<&'a Text>,
        #[serde(skip_serializing_if = "<[Text]>::is_empty")]
        rules: &'a [Text],
    }
    Rules {
        rule: rules.first(),
        rules: if rules.len() > 1 { rules } else { &[] },
    }
    .serialize(serializer)
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        // Rounded to what a clock can tell, so that a line holds no digits without meaning.
        Some(duration) => {
            let micros = u32::try_from(duration.as_micros()).map_or(duration.as_secs_f64() * 1e6, f64::from);
            serializer.serialize_f64(micros.round() / 1e6)
        }
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_with_both_identities_nested() {
        let id = SpiffeId::new("spiffe://mesh.local/ns/shop/sa/web").unwrap();
        let not_after = UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let mut record = Record::new(
            Kind::Request,
            Direction::Inbound,
            decision_id(),
            Source::proven("10.0.0.1:4711".to_owned(), &id, not_after),
        );
        record.ts = UNIX_EPOCH + Duration::from_millis(1_794_999_999_120);
        record.trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        record.identity_state = Proven::of(true, true);
        record.http = Some(Http {
            method: "GET".into(),
            route: Some("getOrder".into()),
            path: None,
            host: Some("orders\n\"evil".to_owned().into()),
            status: Some(200),
            grpc_status: None,
            proto: "HTTP/1.1",
            req_bytes: 0,
            resp_bytes: 12,
        });
        record.decision = Some(Decision {
            verdict: "allow",
            reason: "allowed",
            rules: vec!["web-reads".into()],
            needs: None,
            shadow: vec![],
            would: None,
            text: None,
            audit: false,
            policy_version: "abc".into(),
            errors: 0,
            made: None,
        });
        record.timing.total = Some(Duration::from_nanos(1_234_999));
        let line = serde_json::to_string(&record).unwrap();
        assert!(!line.contains('\n'));
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["ts"], "2026-11-18T11:06:39.120Z");
        assert_eq!(json["kind"], "request");
        assert_eq!(json["direction"], "inbound");
        assert_eq!(json["identity_state"], "mtls+user");
        assert_eq!(json["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(json["span_id"], "00f067aa0ba902b7");
        assert_eq!(json["request_id"].as_str().unwrap().len(), 32);
        assert_eq!(json["src"]["spiffe_id"], "spiffe://mesh.local/ns/shop/sa/web");
        assert_eq!(json["src"]["trust_domain"], "mesh.local");
        assert_eq!(json["src"]["svid_not_after"], "2026-11-18T11:06:40.000Z");
        assert_eq!(json["http"]["host"], "orders\u{fffd}\"evil");
        assert_eq!(json["decision"]["rule"], "web-reads");
        assert!(json["decision"].get("rules").is_none());
        assert_eq!(json["timing"]["total"], 0.001234);
        assert!(json.get("user").is_none() && json.get("tcp").is_none());
    }

    #[test]
    fn several_rules_are_all_told_and_none_is_not_told() {
        let with = |rules: Vec<Text>| {
            let decision = Decision {
                verdict: "deny",
                reason: "forbidden",
                rules,
                needs: None,
                shadow: vec![],
                would: None,
                text: None,
                audit: false,
                policy_version: "abc".into(),
                errors: 0,
                made: None,
            };
            serde_json::to_value(&decision).unwrap()
        };
        let two = with(vec!["a".into(), "b".into()]);
        assert_eq!(two["rule"], "a");
        assert_eq!(two["rules"], serde_json::json!(["a", "b"]));
        let none = with(vec![]);
        assert!(none.get("rule").is_none() && none.get("rules").is_none());
    }

    #[test]
    fn ids_are_not_used_twice() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| decision_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(
            ids.iter()
                .all(|id| id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()))
        );
    }

    #[test]
    fn a_user_appears_as_its_log_mode_says() {
        let user = User {
            name: UserName {
                iss: "corp".into(),
                hash: Some("h1:00".into()),
                sub: None,
            },
            acr: None,
            amr: vec![],
            scopes: vec!["orders:read".into()],
            client_id: None,
            act: vec![],
        };
        assert_eq!(
            serde_json::to_string(&user).unwrap(),
            r#"{"iss":"corp","hash":"h1:00","scopes":["orders:read"]}"#
        );
    }
}
