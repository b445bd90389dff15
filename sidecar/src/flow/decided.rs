//! The decision on one request, the same whatever version it came by: a head that was read enters, what it is allowed on
//! leaves, or the answer that it gets instead. It moves no byte.

use super::Context;
use super::caller::{Allowed, Asked, No, read};
use super::tell_request::RequestStory;
use crate::authz::Verdict;

/// Reads who asks, decides, and tells the story so far.
pub(super) async fn decided(
    ctx: &Context,
    asked: &Asked<'_>,
    story: RequestStory,
) -> Result<(RequestStory, Allowed), (RequestStory, No)> {
    let snapshot = ctx.current.load();
    let read = match read(ctx, asked, &snapshot).await {
        Ok(read) => read,
        Err(refused) => return Err((story.named(ctx, refused.named.as_deref()), refused.no)),
    };
    let token = asked.started.elapsed();
    let decision = asked.decide(&snapshot.policies, asked.at, read.user.as_ref(), &read.headers);
    let policy = asked.started.elapsed().saturating_sub(token);
    let story = story
        .user(ctx, read.verified.as_deref())
        .decision(&decision, &snapshot)
        .stages(token, policy);
    if decision.verdict == Verdict::Deny {
        let no = read.denial(&decision);
        return Err((story, no));
    }
    match Allowed::new(ctx, asked, read, snapshot) {
        Ok(allowed) => Ok((story, allowed)),
        Err(no) => Err((story, no)),
    }
}
