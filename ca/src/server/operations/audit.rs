//! What operators ask for is written to the audit log before it is done, and how it ended after.

use serde_json::Value;

use crate::admin::{Refused, Request};
use crate::audit::{Audit, Event};

/// A longer text in a request is told by its length.
const MAX_TEXT: usize = 256;
/// Of a longer list in a request the rest is told by its number.
const MAX_VALUES: usize = 64;

/// The request as the log has it; nothing for one that only reads.
pub fn of(request: &Request, uid: u32) -> Option<Event> {
    match request {
        Request::Status
        | Request::Revoked
        | Request::EntryList
        | Request::EntryShow { .. }
        | Request::EntryPlan { .. }
        | Request::EntrySettled { .. }
        | Request::Why { .. } => return None,
        Request::Backup
        | Request::IssueSvid { .. }
        | Request::Rotate { .. }
        | Request::Revoke(_)
        | Request::Csr
        | Request::Import { .. } => {}
    }
    let mut detail = serde_json::to_value(request).unwrap_or_default();
    shorten(&mut detail);
    Some(Event {
        uid: Some(uid),
        detail: Some(detail),
        ..Event::new("operator", "asked")
    })
}

/// Writes that it will be done.
///
/// # Errors
/// When it cannot be written: then it is not done. Taking trust away is: a full disk must not protect a thief.
pub async fn before(audit: &Audit, request: &Request, event: Option<&Event>) -> Result<(), Refused> {
    let Some(event) = event else { return Ok(()) };
    match audit.record(event).await {
        Ok(()) => Ok(()),
        Err(error) if takes_back(request) => {
            let asked = event.detail.clone().unwrap_or_default();
            tracing::error!(
                %error, uid = event.uid, %asked,
                "A REVOCATION IS MISSING IN THE AUDIT LOG: it is done all the same"
            );
            Ok(())
        }
        Err(error) => Err(Refused {
            internal: true,
            ..Refused::new(error.to_string(), error.hint())
        }),
    }
}

fn takes_back(request: &Request) -> bool {
    matches!(request, Request::Revoke(asked) if !asked.lift)
}

/// Writes how it ended.
pub async fn after(audit: &Audit, event: Option<Event>, answer: &Result<Value, Refused>) {
    let Some(event) = event else { return };
    let event = match answer {
        Ok(_) => Event {
            outcome: "done",
            ..event
        },
        Err(refused) => Event {
            outcome: if refused.internal { "failed" } else { "refused" },
            ..event
        }
        .because(refused),
    };
    if let Err(error) = audit.record(&event).await {
        tracing::error!(%error, "how it ended is missing in the audit log");
    }
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > MAX_TEXT => *text = format!("({} bytes)", text.len()),
        Value::Array(values) => {
            let more = values.len().saturating_sub(MAX_VALUES);
            values.truncate(MAX_VALUES);
            values.iter_mut().for_each(shorten);
            if more > 0 {
                values.push(format!("({more} more)").into());
            }
        }
        Value::Object(members) => members.values_mut().for_each(shorten),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_in_a_request_is_told_by_its_length() {
        let request = Request::IssueSvid {
            spiffe_id: "x".repeat(1000),
            ttl: None,
            audience: vec!["a".repeat(200); 5000],
        };
        let detail = of(&request, 7).unwrap().detail.unwrap();
        assert_eq!(detail["verb"], "issue_svid");
        assert_eq!(detail["spiffe_id"], "(1000 bytes)");
        let audience = detail["audience"].as_array().unwrap();
        assert_eq!((audience.len(), &audience[64]), (65, &Value::from("(4936 more)")));
        assert!(detail.to_string().len() < 32 << 10);
    }
}
