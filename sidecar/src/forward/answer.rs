//! The answer that the sidecar itself gives: what went wrong enters, the bytes of a small HTTP/1.1 response leave. It is
//! the same for every refusal, so that people and programs learn it once.

use serde::Serialize;

/// What to answer.
#[derive(Clone, Copy, Debug)]
pub struct ErrorAnswer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// Stable label: `error` in the body.
    pub code: &'a str,
    /// A sentence for people: `reason` in the body.
    pub detail: &'a str,
    /// What `hopguard explain` resolves: `id` in the body.
    pub id: Option<&'a str>,
    /// Further headers, `www-authenticate` for instance.
    pub headers: &'a [(&'a str, &'a str)],
    /// Whether the connection ends after it.
    pub close: bool,
    /// Whether the request was a HEAD: then there is no body, only its length.
    pub to_head: bool,
}

/// The body: one flat JSON object.
#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

/// The bytes of the answer, whole. A header that could end its line is left out.
#[must_use]
pub fn error_response(answer: &ErrorAnswer<'_>) -> Vec<u8> {
    let body = error_body(answer);
    let mut out = format!(
        "HTTP/1.1 {:03} {}\r\n",
        answer.status,
        reason_phrase(answer.status)
    )
    .into_bytes();
    let length = body.len().to_string();
    let fixed = [
        ("content-type", "application/json"),
        ("content-length", length.as_str()),
        ("cache-control", "no-store"),
    ];
    let close = answer.close.then_some(("connection", "close"));
    for (name, value) in fixed.iter().chain(&close).chain(answer.headers) {
        let fits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte >= 0x20 && byte != 0x7f);
        if fits(name) && fits(value) {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    if !answer.to_head {
        out.extend_from_slice(&body);
    }
    out
}

/// The body of the answer.
pub(super) fn error_body(answer: &ErrorAnswer<'_>) -> Vec<u8> {
    let body = Body {
        error: answer.code,
        reason: answer.detail,
        id: answer.id,
    };
    // Serializing strings cannot fail; if it did, the status would still be told.
    let mut body = serde_json::to_vec(&body).unwrap_or_default();
    body.push(b'\n');
    body
}

/// The registered phrase of a status.
fn reason_phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: ErrorAnswer<'_> = ErrorAnswer {
        status: 403,
        code: "no_rule",
        detail: "say \"please\"\r\nX: y",
        id: Some("d-1"),
        headers: &[
            ("x-hopguard-reason", "no_rule"),
            ("x-bad", "a\r\nb: c"),
            ("x-empty", ""),
        ],
        close: true,
        to_head: false,
    };

    fn text(answer: &ErrorAnswer<'_>) -> (String, String) {
        let text = String::from_utf8(error_response(answer)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[test]
    fn it_is_a_whole_response_with_a_json_body() {
        let (head, body) = text(&ANSWER);
        assert_eq!(
            head,
            format!(
                "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                 cache-control: no-store\r\nconnection: close\r\nx-hopguard-reason: no_rule",
                body.len()
            )
        );
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"error": "no_rule", "reason": "say \"please\"\r\nX: y", "id": "d-1"})
        );
    }

    #[test]
    fn a_head_request_gets_the_length_and_no_body() {
        let (head, body) = text(&ErrorAnswer {
            to_head: true,
            close: false,
            id: None,
            ..ANSWER
        });
        assert!(body.is_empty() && !head.contains("connection"), "{head}");
        let whole = text(&ErrorAnswer { id: None, ..ANSWER }).1;
        assert!(head.contains(&format!("content-length: {}", whole.len())) && !whole.contains("\"id\""));
    }
}
