//! A decision without traffic: a caller, a user and a request enter, what a sidecar would answer leaves, with its reasons.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
use spiffe::SpiffeId;

use crate::authn::VerifiedUser;
use crate::authz::{
    self, Explanation, Facts, HttpFacts, Policies, PolicyProblem, Principal, Subject, Verdict, What,
};
use crate::config::Mesh;
use crate::flow::as_user;
use crate::request::{Head, Limits, parse_head};
use crate::services::Mode;

use super::advice::advice;
use super::target::{Asked, Target};

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
    /// For whom.
    pub user: Option<&'a VerifiedUser>,
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
    /// Why it would be refused before a policy is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
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
    let target = question.target;
    let policies = authz::load(&mesh.authz_model(), files, &target.service.name)?;
    if question.peer.is_none() && target.port.mode == Mode::Strict {
        let detail = "the port takes mutual TLS only";
        return Ok(Answer::refused(question, 403, "plaintext_on_strict_port", detail));
    }
    let head = match &target.asked {
        Asked::Connection => return Ok(decided(&policies, question, What::Connect)),
        Asked::Request { method, path } => head(question, method, path),
    };
    let head = match head {
        Ok(head) => head,
        Err((status, code, detail)) => return Ok(Answer::refused(question, status, code, &detail)),
    };
    let spelled = head.spelled(
        |path| policies.route_of(&head.method, path),
        |route| target.service.spellings(route),
    );
    let headers = match spelled.and_then(|()| head.declared(&mesh.declared_headers())) {
        Ok(headers) => headers,
        Err(refusal) => {
            return Ok(Answer::refused(
                question,
                refusal.status,
                refusal.code,
                &refusal.detail,
            ));
        }
    };
    let user = question.user.map(as_user);
    let answer = |path| {
        let http = HttpFacts {
            method: &head.method,
            path,
            host: &head.host,
            headers: &headers,
            user: user.as_ref(),
        };
        decided(&policies, question, What::Http(http))
    };
    let first = answer(&head.path);
    // As the sidecar: each path that the application may take it for must be allowed.
    let other = head.bare_path.as_deref().filter(|_| first.allowed).map(answer);
    Ok(other.filter(|other| !other.allowed).unwrap_or(first))
}

/// The request as the sidecar would read it.
fn head(question: &Question<'_>, method: &str, path: &str) -> Result<Head, (u16, &'static str, String)> {
    let service = question.target.service;
    let host = service.hosts.first().cloned();
    let host = host
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
