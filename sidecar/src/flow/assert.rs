//! What was allowed, as it may be forwarded: with the signed statement for the application where one is asked for. Without it
//! there is no [`Allowed`], and so nothing that could be forwarded.

use std::sync::Arc;

use super::Context;
use super::caller::{Allowed, Asked, No, Read};
use crate::assertion::{AssertionError, Said, User};
use crate::snapshot::Snapshot;

impl Allowed {
    /// What the decision on `snapshot` allowed.
    ///
    /// # Errors
    /// The answer to the request when a statement is asked for and cannot be made.
    pub(super) fn new(
        ctx: &Context,
        asked: &Asked<'_>,
        read: Read,
        snapshot: Arc<Snapshot>,
    ) -> Result<Self, No> {
        let assertion = statement(ctx, asked, &read, &snapshot).map_err(|error| {
            tracing::error!(id = %asked.id, %error, "no statement for the application: the request is not forwarded");
            No {
                status: 503,
                code: "assertion_failed",
                detail: format!("the statement for the application cannot be made: {error}"),
                extra: vec![],
            }
        })?;
        Ok(Self {
            read,
            snapshot,
            assertion,
        })
    }
}

fn statement(
    ctx: &Context,
    asked: &Asked<'_>,
    read: &Read,
    snapshot: &Snapshot,
) -> Result<Option<String>, AssertionError> {
    let Some(signer) = &ctx.assertion else {
        return Ok(None);
    };
    let tls = snapshot.tls.as_ref().map_err(|_| AssertionError::NoIdentity)?;
    let head = &asked.head;
    let said = Said {
        issuer: &tls.identity().id,
        caller: asked.secured.peer.as_ref().map(|peer| &peer.id),
        user: read.verified.as_deref().map(|user| User {
            issuer: &user.issuer,
            subject: &user.subject,
            roles: &user.roles,
            actors: &user.actors,
        }),
        decision: &asked.id,
        request: (&head.method, &head.path, &head.host),
    };
    signer.sign(&said, asked.at).map(Some)
}
