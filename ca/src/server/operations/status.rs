//! `status`: what is in force, what a rotation waits for, and how long the mesh lives without this process.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::{Operations, words};
use crate::admin::Refused;
use crate::authority::slot::{Next, Step};
use crate::server::keyring::Outlook;
use crate::server::seconds;
use crate::store::{AliveGroup, AuthorityKind, AuthorityRecord, AuthorityState};
use crate::workload::Carries;

/// What the open streams tell.
#[derive(Default)]
struct Seen {
    svids: u64,
    bundles: u64,
    jwt_bundles: u64,
    opening: u64,
    /// SVIDs that these streams hold now, and who loses its first.
    held: u64,
    first_out: Option<(String, i64)>,
    behind: u64,
}

impl Operations {
    pub(super) async fn status(&self, now: SystemTime) -> Result<Value, Refused> {
        let failed = |error: crate::server::CaError| Refused::internal(&error);
        let alive = self.keyring.alive(now).await.map_err(failed)?;
        let trust = self.keyring.published();
        let records = self.keyring.records().await;
        let seen = self.seen(trust.sequence, now);
        let mut rotation = Vec::new();
        for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
            let outlook = self.keyring.outlook(kind, now).await.map_err(failed)?;
            rotation.push(rotation_of(kind, &outlook, seconds(now)));
        }
        let authorities: Vec<Value> = records
            .iter()
            .map(|record| authority(record, &alive, seconds(now)))
            .collect();
        Ok(json!({
            "trust_domain": trust.domain.as_str(),
            "sequence": trust.sequence,
            "refresh_hint_seconds": trust.refresh_hint.as_secs(),
            "entries": self.registry.entries.borrow().len(),
            "authorities": authorities,
            "rotation": rotation,
            "streams": {
                "svids": seen.svids, "bundles": seen.bundles, "jwt_bundles": seen.jwt_bundles,
                "opening": seen.opening, "behind": seen.behind,
            },
            "svids_alive": alive.iter().map(|group| group.count).sum::<u64>(),
            "survival": survival(&seen, &alive, &records, seconds(now)),
            "admin_socket": self.socket,
            "now": seconds(now),
        }))
    }

    fn seen(&self, sequence: u64, now: SystemTime) -> Seen {
        let mut seen = Seen::default();
        self.streams.each(|open| {
            match open.carries {
                Some(Carries::Svids) => seen.svids += 1,
                Some(Carries::Bundles) => seen.bundles += 1,
                Some(Carries::JwtBundles) => seen.jwt_bundles += 1,
                None => seen.opening += 1,
            }
            if open.carries.is_some() && open.sent < sequence {
                seen.behind += 1;
            }
            seen.held += u64::try_from(
                open.handed
                    .iter()
                    .filter(|one| seconds(one.not_after) >= seconds(now))
                    .count(),
            )
            .unwrap_or_default();
            if let Some((id, end)) = &open.first_out {
                let end = seconds(*end);
                if seen.first_out.as_ref().is_none_or(|(_, first)| end < *first) {
                    seen.first_out = Some((id.clone(), end));
                }
            }
        });
        seen
    }
}

fn authority(record: &AuthorityRecord, alive: &[AliveGroup], now: i64) -> Value {
    let state = match record.state {
        AuthorityState::Prepared => "prepared",
        AuthorityState::Active => "active",
        AuthorityState::Retired => "retired",
        AuthorityState::Discarded => "discarded",
    };
    let signed: u64 = alive
        .iter()
        .filter(|group| group.authority == record.id)
        .map(|group| group.count)
        .sum();
    let x509 = record.kind == AuthorityKind::X509;
    json!({
        "kind": words::name(record.kind),
        "id": record.id,
        "state": state,
        "held": record.held,
        "since": record.since,
        "published": record.published,
        "age_seconds": (now - record.published).max(0),
        "not_after": record.not_after,
        "seconds_left": record.not_after - now,
        "svids_alive": x509.then_some(signed),
        "tokens_until": (!x509).then_some(record.until),
    })
}

fn rotation_of(kind: AuthorityKind, outlook: &Outlook, now: i64) -> Value {
    let step = |step: &Step| match step {
        Step::Prepare => ("prepare", None),
        Step::Publish(id) => ("publish", Some(id.clone())),
        Step::Activate(id) => ("activate", Some(id.clone())),
        Step::Remove(id) => ("retire", Some(id.clone())),
    };
    let name = words::name(kind);
    match &outlook.next {
        Next::Do(due) => {
            let (step, authority) = step(due);
            json!({"kind": name, "state": "due", "step": step, "authority": authority})
        }
        Next::Wait { step: due, reasons } => {
            let (step, authority) = step(due);
            json!({
                "kind": name, "state": "waits", "step": step, "authority": authority,
                "waits_for": words::waits(reasons, kind, now), "seconds": words::seconds(reasons, now),
            })
        }
        Next::Rest { prepare_at } => json!({
            "kind": name, "state": "rests", "prepare_at": prepare_at,
            "seconds": prepare_at.map(|at| (at - now).max(0)),
        }),
    }
}

/// What happens when this process dies now and never comes back: nobody gets a new SVID, and each identity is out when its
/// last SVID ends. For a workload with an open stream that is the SVID that it was sent last; of others only their SVIDs
/// are known, so they count for the last moment, not for the first.
fn survival(seen: &Seen, alive: &[AliveGroup], records: &[AuthorityRecord], now: i64) -> Value {
    let first = seen.first_out.as_ref();
    let last = alive.iter().map(|group| group.last).max();
    let count: u64 = alive.iter().map(|group| group.count).sum();
    let root = records
        .iter()
        .filter(|record| record.kind == AuthorityKind::X509)
        .filter(|record| {
            record.state == AuthorityState::Active || alive.iter().any(|group| group.authority == record.id)
        })
        .map(|record| record.not_after)
        .min();
    let left = |at: Option<i64>| at.map(|at| (at - now).max(0));
    let first_at = first
        .map(|(_, at)| *at)
        .or_else(|| alive.iter().map(|group| group.first).min());
    let first_at = match (first_at, root) {
        (Some(first), Some(root)) => Some(first.min(root)),
        (first, _) => first,
    };
    json!({
        "first_out": first_at,
        "first_out_seconds": left(first_at),
        "first_out_id": first.map(|(id, _)| id),
        "last_out": last,
        "last_out_seconds": left(last),
        "root_ends": root,
        "root_ends_seconds": left(root),
        "streams_counted": seen.svids,
        "svids_of_streams": seen.held.min(count),
        "svids_without_stream": count.saturating_sub(seen.held),
    })
}
