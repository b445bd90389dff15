//! What a rotation waits for, or would break, as JSON with a sentence for people.

use serde_json::{Value, json};

use crate::admin::{Kind, Refused};
use crate::authority::slot::{Alive, Reason};
use crate::store::AuthorityKind;

pub fn kind_of(kind: Kind) -> AuthorityKind {
    match kind {
        Kind::X509 => AuthorityKind::X509,
        Kind::Jwt => AuthorityKind::Jwt,
    }
}

pub fn name(kind: AuthorityKind) -> &'static str {
    match kind {
        AuthorityKind::X509 => "x509",
        AuthorityKind::Jwt => "jwt",
    }
}

/// An intermediate that cannot be taken back here.
pub fn vouched(id: &str) -> Refused {
    Refused::new(
        format!(
            "`{id}`: the root that it was signed by stays in the bundle for another authority, and vouches for it: only the \
             organisation can take an intermediate back"
        ),
        "prepare an authority under another root, rotate, and have the intermediate revoked by who signed it",
    )
}

/// What is waited for.
pub fn waits(reasons: &[Reason], kind: AuthorityKind, now: i64) -> Vec<Value> {
    reasons
        .iter()
        .map(|reason| value(reason, now, wait(reason, kind)))
        .collect()
}

/// What is broken by doing it now.
pub fn breaks(reasons: &[Reason], kind: AuthorityKind, now: i64) -> Vec<Value> {
    reasons
        .iter()
        .map(|reason| value(reason, now, damage(reason, kind)))
        .collect()
}

/// The same for a refusal: one line.
pub fn line(reasons: &[Reason], kind: AuthorityKind, now: i64) -> String {
    let one = |reason: &Reason| {
        let left = reason.until().map_or(String::new(), |until| {
            format!(" ({} s at most)", (until - now).max(0))
        });
        format!("{}{left}", damage(reason, kind))
    };
    reasons.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// How long all of them last at most, where that is known of each.
pub fn seconds(reasons: &[Reason], now: i64) -> Option<i64> {
    let each: Option<Vec<i64>> = reasons.iter().map(Reason::until).collect();
    each?.into_iter().max().map(|until| (until - now).max(0))
}

fn value(reason: &Reason, now: i64, text: String) -> Value {
    let (why, count) = match reason {
        Reason::Unpublished => ("unpublished", None),
        Reason::Unaware(alive) => ("svids_sent_without_it", Some(alive.count)),
        Reason::Unread { streams, .. } => ("streams_not_sent_it", Some(*streams)),
        Reason::Polls { .. } => ("pollers", None),
        Reason::Signed(alive) => ("signed_alive", Some(alive.count)),
        Reason::Signing => ("signing", None),
        Reason::Held => ("held", None),
    };
    json!({
        "why": why,
        "count": count,
        "until": reason.until(),
        "seconds": reason.until().map(|until| (until - now).max(0)),
        "text": text,
    })
}

fn wait(reason: &Reason, kind: AuthorityKind) -> String {
    match reason {
        Reason::Unpublished => "it is not in the bundle yet".to_owned(),
        Reason::Unaware(Alive { count, .. }) => {
            format!("SVIDs are alive whose holders were not sent it: {count}")
        }
        Reason::Unread { streams, .. } => format!("streams of bundles that were not sent it: {streams}"),
        Reason::Polls { .. } => "those who poll the bundle have three refresh hints to fetch it".to_owned(),
        Reason::Signed(Alive { count, .. }) => match kind {
            AuthorityKind::X509 => format!("SVIDs are alive that the old one signed: {count}"),
            AuthorityKind::Jwt => "JWT-SVIDs may be alive that the old one signed".to_owned(),
        },
        Reason::Signing => "the old one is signing right now".to_owned(),
        Reason::Held => "an operator prepared it alone, and has not activated it".to_owned(),
    }
}

fn damage(reason: &Reason, kind: AuthorityKind) -> String {
    match reason {
        Reason::Unaware(Alive { count, .. }) => format!(
            "SVIDs are alive whose holders were not sent the new authority: {count}; these refuse every peer with a new SVID \
             until they are sent it"
        ),
        Reason::Unread { streams, .. } => format!(
            "streams of bundles that were not sent the new authority: {streams}; their readers refuse what it signs until \
             they are sent it"
        ),
        Reason::Polls { .. } => {
            "those who poll the bundle may not have fetched the new authority: they refuse what it signs until they do"
                .to_owned()
        }
        Reason::Signed(Alive { count, .. }) => match kind {
            AuthorityKind::X509 => format!(
                "SVIDs are alive that the old authority signed: {count}; peers refuse them from now on; open streams get \
                 new ones at once, other holders must fetch anew"
            ),
            AuthorityKind::Jwt => {
                "JWT-SVIDs may be alive that the old key signed: they are refused from now on".to_owned()
            }
        },
        Reason::Unpublished | Reason::Signing | Reason::Held => wait(reason, kind),
    }
}
