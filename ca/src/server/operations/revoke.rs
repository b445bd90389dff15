//! Revoking by an operator, and what is revoked.

use std::time::SystemTime;

use serde_json::{Value, json};
use spiffe::SpiffeId;

use super::words;
use crate::admin::{Refused, Revoke, Target};
use crate::server::keyring::{Ended, Keyring, Refusal};
use crate::server::seconds;
use crate::store::AuthorityKind;

/// A reason is a line for people.
const MAX_REASON: usize = 200;

/// What revoking the identity of the bundle endpoint means.
const ENDPOINT: &str = "it is the identity of this authority's bundle endpoint, which shows no certificate as long as it is \
                        revoked: nobody can fetch the bundle there; `--lift` ends that";

/// Does it, or with `dry_run` says what it would do.
pub async fn revoke(keyring: &Keyring, asked: &Revoke, uid: u32) -> Result<Value, Refused> {
    if asked.reason.len() > MAX_REASON || asked.reason.chars().any(char::is_control) {
        let message = format!("the reason is not one line of at most {MAX_REASON} bytes");
        return Err(Refused::new(message, "say in a few words why"));
    }
    let now = SystemTime::now();
    match &asked.target {
        Target::Identity(id) => identity(keyring, asked, &ours(keyring, id)?, (uid, now)).await,
        Target::Serial(serial) => one(keyring, asked, serial, (uid, now)).await,
        Target::Authority(id) => authority(keyring, asked, id, (uid, now)).await,
    }
}

/// All that is revoked now.
pub fn revoked(keyring: &Keyring) -> Value {
    let (identities, serials) = keyring.revoked_now(SystemTime::now());
    let identities: Vec<Value> = identities
        .iter()
        .map(|one| json!({"spiffe_id": one.spiffe_id, "reason": one.reason, "since": one.since}))
        .collect();
    let serials: Vec<Value> = serials
        .iter()
        .map(|one| {
            json!({
                "serial": one.serial, "spiffe_id": one.spiffe_id, "authority": one.authority, "reason": one.reason,
                "since": one.since, "not_after": one.not_after,
            })
        })
        .collect();
    json!({"identities": identities, "certificates": serials})
}

fn ours(keyring: &Keyring, text: &str) -> Result<SpiffeId, Refused> {
    let domain = &keyring.published().domain;
    let id = SpiffeId::new(text).map_err(|error| {
        Refused::new(
            format!("`{text}` is no SPIFFE ID: {error}"),
            "write spiffe://DOMAIN/PATH",
        )
    })?;
    // One that would be read as another one was meant otherwise (S-3).
    if id.to_string() != text {
        let hint = format!("write {id}");
        return Err(Refused::new(
            format!("`{text}` is no SPIFFE ID in its one form"),
            hint,
        ));
    }
    if !id.is_member_of(domain) || id.path().is_empty() {
        let hint = format!("this authority speaks for spiffe://{domain}/...");
        return Err(Refused::new(
            format!("`{id}` is not an identity of this trust domain"),
            hint,
        ));
    }
    Ok(id)
}

async fn identity(
    keyring: &Keyring,
    asked: &Revoke,
    id: &SpiffeId,
    (uid, now): (u32, SystemTime),
) -> Result<Value, Refused> {
    if asked.lift {
        return lift(keyring, asked, id, uid).await;
    }
    let jwt_until = seconds(now + keyring.jwt_svid_ttl());
    let mut answer = json!({"identity": id.to_string(), "jwt_until": jwt_until, "dry_run": asked.dry_run});
    let ended = if asked.dry_run {
        keyring.would_revoke(id, now).await
    } else {
        tracing::warn!(uid, spiffe_id = %id, reason = asked.reason, "an operator revokes an identity");
        keyring.revoke_identity(id, &asked.reason, now).await
    };
    add(&mut answer, &ended.map_err(|error| Refused::internal(&error))?);
    if keyring.is_endpoint(id)
        && let Some(answer) = answer.as_object_mut()
    {
        answer.insert("warning".to_owned(), json!(ENDPOINT));
    }
    Ok(answer)
}

async fn lift(keyring: &Keyring, asked: &Revoke, id: &SpiffeId, uid: u32) -> Result<Value, Refused> {
    let (identities, _) = keyring.revoked_now(SystemTime::now());
    let name = id.to_string();
    if !identities.iter().any(|one| one.spiffe_id == name) {
        let hint = "`hopguard ca revoke --list` says what is revoked";
        return Err(Refused::new(format!("`{id}` is not revoked"), hint));
    }
    if !asked.dry_run {
        tracing::warn!(uid, spiffe_id = %id, reason = asked.reason, "an operator lifts a revocation");
        let lifted = keyring.lift(id).await;
        lifted.map_err(|error| Refused::internal(&error))?;
    }
    Ok(json!({"lifted": name, "dry_run": asked.dry_run}))
}

async fn one(
    keyring: &Keyring,
    asked: &Revoke,
    serial: &str,
    (uid, now): (u32, SystemTime),
) -> Result<Value, Refused> {
    if asked.lift {
        let message = "a certificate that was taken back stays so";
        return Err(Refused::new(
            message,
            "its holder was given another one at once; lifting is for identities",
        ));
    }
    // As certificates print it: colons, capitals, leading zeros; and as openssl does.
    let digits = serial.strip_prefix("0x").or_else(|| serial.strip_prefix("0X"));
    let plain: String = digits
        .unwrap_or(serial)
        .chars()
        .filter(|c| *c != ':')
        .flat_map(char::to_lowercase)
        .collect();
    let plain = format!("{}{plain}", "0".repeat(plain.len() % 2));
    let bytes = hex::decode(&plain).map_err(|_| {
        Refused::new(
            format!("`{serial}` is no serial number"),
            "write it in hexadecimal, as `hopguard svid inspect` does",
        )
    })?;
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let plain = hex::encode(bytes.get(start..).unwrap_or_default());
    if plain.is_empty() {
        let message = format!("`{serial}` is no serial number: no certificate has the number zero");
        return Err(Refused::new(
            message,
            "write it in hexadecimal, as `hopguard svid inspect` does",
        ));
    }
    let found = keyring
        .living(&plain, now)
        .await
        .map_err(|error| Refused::internal(&error))?;
    let Some(found) = found else {
        let message = format!("no SVID with the serial number {plain} is alive");
        return Err(Refused::new(
            message,
            "an expired one needs no revoking; `hopguard svid inspect` prints serial numbers",
        ));
    };
    if !asked.dry_run {
        tracing::warn!(
            uid,
            serial = plain,
            spiffe_id = found.spiffe_id,
            reason = asked.reason,
            "an operator revokes an SVID"
        );
        let done = keyring.revoke_serial(&found, &asked.reason, now).await;
        done.map_err(|error| Refused::internal(&error))?;
    }
    Ok(json!({
        "serial": plain, "spiffe_id": found.spiffe_id, "svids": 1, "until": found.not_after, "left_out": 0,
        "dry_run": asked.dry_run,
    }))
}

async fn authority(
    keyring: &Keyring,
    asked: &Revoke,
    id: &str,
    (uid, now): (u32, SystemTime),
) -> Result<Value, Refused> {
    if asked.lift {
        let message = "an authority that left the bundle does not come back";
        return Err(Refused::new(message, "`hopguard ca rotate` makes another one"));
    }
    if !asked.dry_run {
        tracing::warn!(
            uid,
            authority = id,
            force = asked.force,
            reason = asked.reason,
            "an operator revokes an authority"
        );
    }
    let ended = keyring
        .revoke_authority(id, (asked.force, asked.dry_run), now)
        .await;
    let ended = ended.map_err(|refusal| match refusal {
        Refusal::Failed(error) => Refused::internal(&error),
        Refusal::Vouched(id) => words::vouched(&id),
        Refusal::Unsucceeded(kind) => unsucceeded(id, kind),
        Refusal::Nothing(why) => Refused::new(
            format!("`{id}`: {why}"),
            "`hopguard ca status` lists the authorities",
        ),
        Refusal::Breaks { id, .. } => Refused::new(format!("`{id}` would break somebody"), ""),
    })?;
    let mut answer = json!({"authority": id, "successor": ended.successor, "dry_run": asked.dry_run});
    add(&mut answer, &ended);
    Ok(answer)
}

/// It signs, and nobody was told of another one.
fn unsucceeded(id: &str, kind: AuthorityKind) -> Refused {
    let (meets, flag) = match kind {
        AuthorityKind::X509 => ("SVIDs of a root", ""),
        AuthorityKind::Jwt => ("JWT-SVIDs of a key", "--kind jwt "),
    };
    Refused::new(
        format!(
            "`{id}`: it is the active one and no other is prepared: peers would meet {meets} that they were not sent yet"
        ),
        format!(
            "`hopguard ca rotate {flag}--step prepare` first, then revoke; or --force, when the key was stolen"
        ),
    )
}

fn add(answer: &mut Value, ended: &Ended) {
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("svids".to_owned(), json!(ended.svids));
        answer.insert("until".to_owned(), json!(ended.until));
        answer.insert("left_out".to_owned(), json!(ended.left_out));
    }
}
