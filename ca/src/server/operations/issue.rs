//! An SVID for an operator: the administration socket has let in nobody but the authority's own user and root, who hold its
//! key anyway. No entry is asked; what is issued is recorded, bounded like that of workloads, and told in the log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use spiffe::SpiffeId;

use crate::admin::Refused;
use crate::audit::Event;
use crate::server::keyring::Keyring;
use crate::server::told;
use crate::workload::{IssueError, Issuer, MAX_AUDIENCE, MAX_AUDIENCES, is_audience};

/// The shortest life that makes sense: clocks differ, and an SVID must be carried somewhere.
const SHORTEST: Duration = Duration::from_secs(2);

/// Whose it is, in the audit log.
const OPERATOR: &str = "operator";

/// What an operator asks for.
pub struct Wanted {
    pub spiffe_id: String,
    pub ttl: Option<u64>,
    pub audience: Vec<String>,
}

/// Issues it.
pub async fn issue(keyring: &Keyring, wanted: Wanted, uid: u32) -> Result<Value, Refused> {
    let trust = keyring.published();
    let id = SpiffeId::new(&wanted.spiffe_id).ok().filter(|id| {
        id.to_string() == wanted.spiffe_id && id.is_member_of(&trust.domain) && !id.path().is_empty()
    });
    let Some(id) = id else {
        let text = wanted.spiffe_id.chars().take(256).collect::<String>();
        return Err(Refused::new(
            format!("`{text}` is not the SPIFFE ID of a workload in {}", trust.domain),
            format!("write {}/PATH", trust.domain.id_string()),
        ));
    };
    let jwt = !wanted.audience.is_empty();
    let (most, key) = match (keyring.lives(), jwt) {
        ((most, _), false) => (most, "svid_ttl"),
        ((_, most), true) => (most, "jwt_svid_ttl"),
    };
    let ttl = wanted.ttl.map_or(most, Duration::from_secs);
    if ttl > most || ttl < SHORTEST {
        return Err(Refused::new(
            format!(
                "a life of {} s is not between {} s and {} s",
                ttl.as_secs(),
                SHORTEST.as_secs(),
                most.as_secs()
            ),
            format!(
                "nothing that is issued lives longer than `{key}` in ca.toml: rotation and revocation count on it"
            ),
        ));
    }
    let now = SystemTime::now();
    if jwt {
        return token(keyring, &id, &wanted.audience, (ttl, now, uid)).await;
    }
    let svid = keyring
        .issue_for(&id, ttl, now)
        .await
        .map_err(|error| unable(&error))?;
    tell(keyring, told::x509(&svid, OPERATOR), uid).await?;
    // The bundle after the SVID: it holds whoever signed.
    let trust = keyring.trust().borrow().clone();
    tracing::info!(uid, %id, serial = svid.serial, ttl = ttl.as_secs(), "an SVID was issued to an operator");
    let der = |all: &[rustls_pki_types::CertificateDer<'_>]| {
        all.iter().map(|one| STANDARD.encode(one)).collect::<Vec<_>>()
    };
    Ok(json!({
        "spiffe_id": id.to_string(),
        "serial": svid.serial,
        "not_after": unix(svid.not_after),
        "chain": der(&svid.chain),
        "key": STANDARD.encode(svid.key.as_slice()),
        "bundle": der(&trust.roots),
    }))
}

async fn token(
    keyring: &Keyring,
    id: &SpiffeId,
    audience: &[String],
    (ttl, now, uid): (Duration, SystemTime, u32),
) -> Result<Value, Refused> {
    // An operator who types one of those has mistyped.
    let odd = |one: &String| one.chars().any(char::is_control);
    if !is_audience(audience) || audience.iter().any(odd) {
        return Err(Refused::new(
            format!(
                "the audience is not 1 to {MAX_AUDIENCES} texts without control characters, {MAX_AUDIENCE} bytes \
                 together in a token"
            ),
            "one audience is best: whoever gets a token can show it to every other one in it",
        ));
    }
    let svid = keyring
        .issue_jwt_for(id, audience, ttl, now)
        .await
        .map_err(|error| unable(&error))?;
    tell(keyring, told::jwt(&svid, audience, OPERATOR), uid).await?;
    tracing::info!(uid, %id, ?audience, ttl = ttl.as_secs(), "a JWT-SVID was issued to an operator");
    Ok(json!({
        "spiffe_id": id.to_string(),
        "not_after": unix(svid.not_after),
        "token": svid.token.as_str(),
    }))
}

/// In the audit log before it leaves: there is the serial number by which it is revoked.
async fn tell(keyring: &Keyring, event: Event, uid: u32) -> Result<(), Refused> {
    let event = Event {
        uid: Some(uid),
        ..event
    };
    keyring.audit().record(&event).await.map_err(|error| Refused {
        internal: true,
        ..Refused::new(error.to_string(), error.hint())
    })
}

fn unable(error: &IssueError) -> Refused {
    Refused::internal(error)
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
