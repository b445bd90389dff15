//! A decision without traffic: a caller, a user and a request enter, what a sidecar would answer leaves, with its reasons.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
use spiffe::SpiffeId;

use crate::authn::{Rejection, VerifiedUser};
use crate::authz::{
    self, Explanation, Facts, HttpFacts, Policies, PolicyProblem, Principal, Subject, Verdict, What,
};
use crate::config::{Mesh, MeshService};
use crate::flow::as_user;
use crate::request::{Head, Limits, parse_head};
use crate::services::Mode;

use super::advice::advice;
use super::bound::{Open, open};
use super::target::{Asked, Target};

/// A request that no policy is asked about: status, label and words.
type Unread = (u16, &'static str, String);
/// The headers that policies read.
type Headers = Vec<(String, Vec<String>)>;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The caller; `None` has no certificate.
    pub peer: Option<&'a SpiffeId>,
    /// Whether a caller without a certificate speaks TLS.
    pub tls: bool,
    /// The caller's address.
    pub src_ip: Option<IpAddr>,
    /// Whom it calls, and for what.
    pub target: &'a Target<'a>,
    /// Headers, each as it would be sent.
    pub headers: &'a [(String, String)],
    /// The host of the request, as it would be sent; `None`: the one that the target names, else the service's first.
    pub host: Option<&'a str>,
    /// For whom.
    pub user: Option<&'a VerifiedUser>,
    /// Whether the caller proves what the user's token is bound to.
    pub proven: bool,
    /// When.
    pub at: SystemTime,
}

/// What a sidecar would answer.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// Whether it would be let through.
    pub allowed: bool,
    /// The HTTP status of a refusal; 200 stands for whatever the application answers. None for connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The service and port.
    pub called: String,
    /// The caller.
    pub peer: String,
    /// Why it would be refused before a policy is asked; with `needs`, although the policies allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// What the caller must prove beside: nobody can say without a connection whether it does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// What was asked for and plays no part in the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the decision is made on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<authz::Inputs>,
    /// The decision, policy by policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Explanation>,
    /// What to do.
    pub hint: String,
}

/// A refusal that no policy makes.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    /// The stable label.
    pub code: String,
    /// In words.
    pub detail: String,
}

impl Answer {
    /// Refused before a policy is asked.
    pub fn refused(question: &Question<'_>, status: u16, code: &str, detail: &str) -> Self {
        let http = matches!(question.target.asked, Asked::Request { .. });
        Self {
            allowed: false,
            status: Some(status).filter(|_| http),
            called: called(question.target),
            peer: peer(question),
            refused: Some(Refused {
                code: code.to_owned(),
                detail: detail.to_owned(),
            }),
            needs: Vec::new(),
            notes: Vec::new(),
            inputs: None,
            decision: None,
            hint: advice(code).unwrap_or(detail).to_owned(),
        }
    }
}

/// Decides, as the sidecar of the service would with these files.
///
/// # Errors
/// The problems of the policies.
pub fn ask(
    mesh: &Mesh,
    files: &[(PathBuf, String)],
    question: &Question<'_>,
) -> Result<Answer, Vec<PolicyProblem>> {
    let policies = authz::load(&mesh.authz_model(), files, &question.target.service.name)?;
    let mut answer = answer(mesh, &policies, question);
    answer.notes = ignored(mesh, question);
    Ok(answer)
}

/// What plays no part in the answer although it was asked for.
fn ignored(mesh: &Mesh, question: &Question<'_>) -> Vec<String> {
    if question.target.asked == Asked::Connection {
        let given = question.user.is_some() || !question.headers.is_empty() || question.host.is_some();
        let note = "an opaque port has no requests: token, headers and host play no part";
        return given.then(|| note.to_owned()).into_iter().collect();
    }
    let declared = mesh.declared_headers();
    let unread = question
        .headers
        .iter()
        .filter(|(name, _)| !declared.iter().any(|known| known.name.eq_ignore_ascii_case(name)));
    let known: Vec<&str> = declared.iter().map(|known| known.name.as_str()).collect();
    let known = match known.as_slice() {
        [] => "it has none".to_owned(),
        known => format!("there: {}", known.join(", ")),
    };
    let note = |(name, _): &(String, String)| {
        format!("no policy can read the header `{name}`: it is not in [headers] of the mesh file ({known})")
    };
    unread.map(note).collect()
}

/// Why the connection is not taken at all; with the status, where a request gets one.
fn kept_out(question: &Question<'_>) -> Option<Answer> {
    let mode = question.target.port.mode;
    if question.peer.is_some() {
        return None;
    }
    let refused = |code, detail: &str| Answer::refused(question, 403, code, detail);
    match (mode, question.tls) {
        // Whoever gets no further than the handshake is told nothing.
        (Mode::Strict | Mode::Permissive, true) => Some(Answer {
            status: None,
            ..refused(
                "handshake_failed",
                "only a port with `mode = \"public\"` takes TLS from a caller without a certificate",
            )
        }),
        (Mode::Strict, false) => Some(refused(
            "plaintext_on_strict_port",
            "the port takes mutual TLS only",
        )),
        _ => None,
    }
}

fn answer(mesh: &Mesh, policies: &Policies, question: &Question<'_>) -> Answer {
    if let Some(kept_out) = kept_out(question) {
        return kept_out;
    }
    let target = question.target;
    let (method, path) = match &target.asked {
        Asked::Connection => return decided(policies, question, What::Connect),
        Asked::Request { method, path } => (method, path),
    };
    let read = head(question, method, path).and_then(|head| {
        let headers = readable(mesh, policies, question, &head)?;
        Ok((head, headers))
    });
    let (head, headers) = match read {
        Ok(read) => read,
        Err((status, code, detail)) => return Answer::refused(question, status, code, &detail),
    };
    let open = question.user.map_or(Ok(Vec::new()), |user| {
        open(target, (policies, &head), question.peer, user)
    });
    let open = match open {
        Ok(open) => open,
        Err(Rejection::Invalid { reason, detail }) => {
            return Answer::refused(question, 401, reason, &detail);
        }
        Err(Rejection::Unavailable { detail, .. }) => {
            return Answer::refused(question, 503, "issuer_unavailable", &detail);
        }
    };
    unproven(judged(policies, question, &head, &headers), question, &open)
}

/// What policies allow, unless the caller proves no more than was said.
fn unproven(answer: Answer, question: &Question<'_>, open: &[Open]) -> Answer {
    let answer = Answer {
        needs: open.iter().map(|open| open.what.clone()).collect(),
        ..answer
    };
    let Some(first) = open.first().filter(|_| answer.allowed && !question.proven) else {
        return answer;
    };
    Answer {
        allowed: false,
        status: Some(401),
        refused: Some(Refused {
            code: first.code.to_owned(),
            detail: format!("it is allowed only with {}", answer.needs.join(", and ")),
        }),
        hint: "the policies allow it, and the token is taken from nobody who does not prove that it is theirs: ask with \
               --proven for a client that does"
            .to_owned(),
        ..answer
    }
}

/// The headers that policies read, when the request is one that goes on to them.
fn readable(
    mesh: &Mesh,
    policies: &Policies,
    question: &Question<'_>,
    head: &Head,
) -> Result<Headers, Unread> {
    let service = question.target.service;
    if !fronts(service, &head.host) {
        let detail = format!(
            "{} does not stand before the host `{}`; its hosts: {}",
            service.name,
            head.host,
            service.hosts.join(", ")
        );
        return Err((404, "unknown_host", detail));
    }
    let spelled = head.spelled(
        |path| policies.route_of(&head.method, path),
        |route| service.spellings(route),
    );
    let read = spelled.and_then(|()| head.declared(&mesh.declared_headers()));
    read.map_err(|refusal| (refusal.status, refusal.code, refusal.detail))
}

/// Whether the host is one of the service's names or addresses. Of a service without addresses nobody knows here which one
/// its pod has.
fn fronts(service: &MeshService, host: &str) -> bool {
    let literal = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    match literal.parse::<IpAddr>() {
        Ok(address) => service.addresses.is_empty() || service.addresses.contains(&address.to_canonical()),
        Err(_) => host.is_empty() || service.hosts.iter().any(|known| known == host),
    }
}

fn judged(
    policies: &Policies,
    question: &Question<'_>,
    head: &Head,
    headers: &[(String, Vec<String>)],
) -> Answer {
    let user = question.user.map(as_user);
    let answer = |path| {
        let http = HttpFacts {
            method: &head.method,
            path,
            host: &head.host,
            headers,
            user: user.as_ref(),
        };
        decided(policies, question, What::Http(http))
    };
    let first = answer(&head.path);
    // As the sidecar: each path that the application may take it for must be allowed.
    let other = head.bare_path.as_deref().filter(|_| first.allowed).map(answer);
    other.filter(|other| !other.allowed).unwrap_or(first)
}

/// The request as the sidecar would read it.
fn head(question: &Question<'_>, method: &str, path: &str) -> Result<Head, Unread> {
    let service = question.target.service;
    let named = question.host.or(question.target.host.as_deref());
    let named = named.or_else(|| service.hosts.first().map(String::as_str));
    let host = named
        .map(str::to_owned)
        .or_else(|| service.addresses.first().map(host_of))
        .unwrap_or_default();
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in question.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    match parse_head(text.as_bytes(), &Limits::default()) {
        // What is left over would be a second request.
        Ok(Some(head)) if head.len == text.len() => Ok(head),
        Ok(_) => Err((400, "bad_target", "it is no request".to_owned())),
        Err(refusal) => Err((refusal.status, refusal.code, refusal.detail)),
    }
}

fn host_of(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

fn decided(policies: &Policies, question: &Question<'_>, what: What<'_>) -> Answer {
    let since = question
        .at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let facts = Facts {
        principal: question.peer.map_or(Principal::Plaintext, Principal::Workload),
        port: question.target.port.port,
        tls: question.peer.is_some() || question.tls,
        src_ip: question.src_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        now_millis: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        what,
    };
    let decision = policies.decide(&facts);
    let allowed = decision.verdict == Verdict::Allow;
    let inputs = policies.inputs(&facts);
    let explained = inputs
        .as_ref()
        .and_then(|inputs| policies.explain(inputs, None).ok());
    Answer {
        allowed,
        status: match what {
            What::Connect => None,
            What::Http(_) if allowed => Some(200),
            What::Http(http) if decision.user_would_help && http.user.is_none() => Some(401),
            What::Http(_) => Some(403),
        },
        called: called(question.target),
        peer: peer(question),
        refused: None,
        needs: Vec::new(),
        notes: Vec::new(),
        hint: explained.as_ref().map_or_else(
            || "there are no policies: everything is denied".to_owned(),
            |explained| explained.hint.clone(),
        ),
        inputs: inputs.map(|inputs| inputs.logged(Subject::Plain)),
        decision: explained,
    }
}

fn called(target: &Target<'_>) -> String {
    format!("{}:{}", target.service.name, target.port.port)
}

fn peer(question: &Question<'_>) -> String {
    question
        .peer
        .map_or_else(|| "plaintext".to_owned(), ToString::to_string)
}
