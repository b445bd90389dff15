//! What the mesh file says about a head that was read: paths that only some routes take, and headers that policies read. The
//! head enters and is settled, or the refusal that such a path gets everywhere else.

use super::Context;
use crate::request::{Head, Refusal};
use crate::snapshot::Snapshot;

/// Makes the head what may be decided on: spelled as its route allows, and without trailers that could be taken for what
/// policies read.
///
/// # Errors
/// As [`spelled`].
pub(super) fn settle(ctx: &Context, head: &mut Head) -> Result<(), Refusal> {
    let snapshot = ctx.current.load();
    spelled(ctx, head, &snapshot)?;
    head.withhold(&snapshot.declared);
    Ok(())
}

/// Judges how the path of a request is spelled.
///
/// # Errors
/// Its route does not allow it, or it is of no declared route.
pub(super) fn spelled(ctx: &Context, head: &Head, snapshot: &Snapshot) -> Result<(), Refusal> {
    let own = snapshot.mesh.service(&ctx.options.service);
    head.spelled(
        // By the router and the path of the decision.
        |path| snapshot.policies.route_of(&head.method, path),
        |route| own.map(|own| own.spellings(route)).unwrap_or_default(),
    )
}
