//! What ends something that was let in: its time, its user's time, or a decision that would be another one today.

use std::time::SystemTime;

use super::caller::{User, as_user, at_seconds};
use super::{Context, Fallen, Secured, time_until};
use crate::authz::{self, Decision, Verdict};
use crate::snapshot::Snapshot;

/// Why something open is ended.
pub(super) enum End {
    /// An SVID that it rests on ends.
    Svid,
    /// The user's token ends.
    Token,
    /// The user's token would not be taken today: its key or its issuer is gone, or it must be bound to its sender.
    Revoked,
    /// Under the bundles or the identity of now the peer would not be let in.
    Fallen(Fallen),
    /// The port is not declared any more, or not for a peer like this.
    PortChanged,
    /// The service that was called is not in the mesh any more, or must prove another identity.
    NotExpected,
    /// The sidecar ends, and the time of its drain is over.
    Drained,
    /// Decided again after a change, it is denied.
    Denied(Box<Decision>),
}

labels!(End {
    Self::Svid => "svid_expired",
    Self::Token => "token_expired",
    Self::Revoked => "token_revoked",
    Self::PortChanged => "port_changed",
    Self::NotExpected => "peer_not_expected",
    Self::Drained => "drained",
    Self::Denied(_) => "denied_after_change",
    Self::Fallen(Fallen::Revoked) => "revoked",
    Self::Fallen(Fallen::Distrusted) => "peer_distrusted",
});

/// What bounds something that was let in.
pub(super) struct Bounds<'a> {
    /// The generation of the snapshot that it was decided on.
    pub(super) decided: u64,
    /// The user that it was decided for.
    pub(super) user: Option<User<'a>>,
}

/// Resolves when what was let in must end. `again` decides it on a snapshot as it was decided first.
pub(super) async fn ended(
    ctx: &Context,
    secured: &Secured,
    bounds: Bounds<'_>,
    again: impl Fn(&Snapshot, Option<&authz::User>) -> Decision,
) -> End {
    let mut changes = ctx.current.changes();
    let Bounds {
        mut decided,
        mut user,
    } = bounds;
    let begun = SystemTime::now();
    let hard = secured.validity.hard;
    let mut due_now = false;
    loop {
        // Looked at before waiting: a change between the first decision and the subscription is not lost.
        if ctx.drain.is_over() {
            return End::Drained;
        }
        let snapshot = ctx.current.load();
        if snapshot.generation != decided || due_now {
            decided = snapshot.generation;
            if let Err(end) = changed(ctx, secured, user.as_mut(), (&snapshot, &again)).await {
                return end;
            }
        }
        let verified = user.as_ref().map(|user| &user.verified);
        let token = verified.map(|user| at_seconds(ctx.authn.open_until(user, begun)));
        let until = token.map_or(hard, |token| token.min(hard));
        // An issuer that vouches for a token only so long is asked again; until it said yes, nothing is sure.
        let due = verified.and_then(|user| user.due).map(at_seconds);
        due_now = due.is_some_and(|due| due <= until);
        let until = due.map_or(until, |due| due.min(until));
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    // Nobody is left who could say what holds.
                    return End::Svid;
                }
                due_now = false;
            }
            () = tokio::time::sleep(time_until(until)) => if !due_now {
                return if token.is_some_and(|token| token <= hard) { End::Token } else { End::Svid };
            }
        }
    }
}

/// Why it would not be let in under `snapshot`, if it would not. Notes what its user's token proves today.
async fn changed(
    ctx: &Context,
    secured: &Secured,
    user: Option<&mut User<'_>>,
    (snapshot, again): (&Snapshot, impl Fn(&Snapshot, Option<&authz::User>) -> Decision),
) -> Result<(), End> {
    let now = SystemTime::now();
    if !secured.still_admitted(ctx) {
        return Err(End::PortChanged);
    }
    secured.still_trusted(snapshot, now).map_err(End::Fallen)?;
    let user = match user {
        None => None,
        // As its issuer is configured now, the same token may prove something else.
        Some(user) => {
            user.verified = user.proven_again(ctx, snapshot, now).await.ok_or(End::Revoked)?;
            Some(as_user(&user.verified))
        }
    };
    let decision = again(snapshot, user.as_ref());
    if decision.verdict == Verdict::Deny {
        return Err(End::Denied(Box::new(decision)));
    }
    Ok(())
}
