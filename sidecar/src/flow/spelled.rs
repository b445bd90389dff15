//! Paths that only some routes take: a head that was read enters with the snapshot that tells its route, and nothing leaves,
//! or the refusal that such a path gets everywhere else.

use super::Context;
use crate::request::{Head, Refusal};
use crate::snapshot::Snapshot;

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
