//! The pages: a method, a path and `If-None-Match` enter, an answer leaves. Whatever is not one of the pages is not there.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;

use super::documents;
use super::{BundleEndpoint, OpenId};
use crate::authority::{AuthorityError, Trust};

/// All pages of one listener at one moment.
#[derive(Debug, Default)]
pub struct Site {
    pages: Vec<Page>,
    max_age: Duration,
}

#[derive(Debug)]
struct Page {
    path: String,
    body: Bytes,
    etag: String,
}

/// Which documents a listener has.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The path of the bundle.
    pub bundle: Option<String>,
    /// The OpenID documents.
    pub openid: Option<OpenId>,
}

impl Plan {
    /// The listener with TLS: the bundle, and the OpenID documents where the certificate is one that JWT libraries take and
    /// no other listener has them.
    pub fn of_tls(endpoint: &BundleEndpoint, openid: Option<&OpenId>) -> Self {
        let web = matches!(endpoint.profile, super::Profile::Web(_));
        Self {
            bundle: Some(endpoint.path.clone()),
            openid: openid.filter(|openid| web && openid.plain.is_none()).cloned(),
        }
    }

    /// The listener without TLS: the OpenID documents alone. A bundle is worth what its channel is worth.
    pub fn of_plain(openid: &OpenId) -> Self {
        Self {
            bundle: None,
            openid: Some(openid.clone()),
        }
    }

    /// The pages of this trust.
    pub fn site(&self, trust: &Trust) -> Result<Site, AuthorityError> {
        let mut pages = Vec::new();
        if let Some(path) = &self.bundle {
            pages.push(Page::new(path.clone(), documents::bundle(trust)?));
        }
        if let Some(OpenId { issuer, path, .. }) = &self.openid {
            let discovery = format!("{path}/.well-known/openid-configuration");
            pages.push(Page::new(discovery, documents::discovery(issuer)));
            pages.push(Page::new(format!("{path}/keys"), documents::key_set(trust)));
        }
        Ok(Site {
            pages,
            max_age: trust.refresh_hint,
        })
    }
}

impl Page {
    fn new(path: String, body: Vec<u8>) -> Self {
        let tag = digest(&SHA256, &body);
        let short = tag.as_ref().get(..16).unwrap_or_default();
        Self {
            path,
            etag: format!("\"{}\"", hex::encode(short)),
            body: body.into(),
        }
    }
}

impl Site {
    /// Answers.
    pub fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let Some(page) = self.pages.iter().find(|page| page.path == path) else {
            return plain(StatusCode::NOT_FOUND, "there is nothing here\n");
        };
        if method != Method::GET && method != Method::HEAD {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer
                .headers_mut()
                .insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let known = headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .any(|value| holds(value.as_bytes(), &page.etag));
        let (status, body) = if known {
            (StatusCode::NOT_MODIFIED, Bytes::new())
        } else {
            (StatusCode::OK, page.body.clone())
        };
        let answer = Response::builder()
            .status(status)
            .header(ETAG, &page.etag)
            .header(
                CACHE_CONTROL,
                format!("public, max-age={}", self.max_age.as_secs()),
            )
            .header(CONTENT_TYPE, "application/json")
            .header(X_CONTENT_TYPE_OPTIONS, "nosniff");
        let answer = match (known, method == Method::HEAD) {
            (false, true) => answer.header(CONTENT_LENGTH, body.len()).body(Full::default()),
            _ => answer.body(Full::new(body)),
        };
        answer.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "no answer\n"))
    }
}

/// RFC 9110, 13.1.2: a list of tags, compared weakly, or `*`.
fn holds(list: &[u8], etag: &str) -> bool {
    let Ok(list) = std::str::from_utf8(list) else {
        return false;
    };
    let mut tags = list.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site {
            pages: vec![
                Page::new("/".to_owned(), b"{}".to_vec()),
                Page::new("/keys".to_owned(), b"[]".to_vec()),
            ],
            max_age: Duration::from_secs(300),
        }
    }

    fn ask(method: Method, path: &str, tag: Option<&str>) -> (u16, HeaderMap) {
        let mut headers = HeaderMap::new();
        tag.map(|tag| headers.insert(IF_NONE_MATCH, tag.parse().unwrap()));
        let answer = site().answer(&method, path, &headers);
        (answer.status().as_u16(), answer.headers().clone())
    }

    #[test]
    fn only_what_is_there_is_answered_and_only_to_who_reads() {
        assert_eq!(ask(Method::GET, "/", None).0, 200);
        assert_eq!(ask(Method::HEAD, "/keys", None).0, 200);
        for path in ["/Keys", "/keys/", "//", "/../", "/keys%2f", "", "*"] {
            assert_eq!(ask(Method::GET, path, None).0, 404, "{path}");
        }
        for method in [
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::OPTIONS,
            Method::TRACE,
            Method::CONNECT,
        ] {
            let (status, headers) = ask(method.clone(), "/", None);
            assert_eq!(
                (status, headers[ALLOW].to_str().unwrap()),
                (405, "GET, HEAD"),
                "{method}"
            );
        }
    }

    #[test]
    fn who_has_the_page_is_told_so() {
        let (_, headers) = ask(Method::GET, "/", None);
        assert_eq!(headers[CACHE_CONTROL], "public, max-age=300", "the refresh hint");
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        let tag = headers[ETAG].to_str().unwrap();
        for list in [
            tag.to_owned(),
            format!("\"x\", {tag}"),
            format!("W/{tag}"),
            "*".to_owned(),
        ] {
            let (status, again) = ask(Method::GET, "/", Some(&list));
            assert_eq!((status, again[ETAG].to_str().unwrap()), (304, tag), "{list}");
        }
        for other in ["\"x\"", "", tag.trim_matches('"')] {
            assert_eq!(ask(Method::GET, "/", Some(other)).0, 200, "{other}");
        }
        assert_eq!(
            ask(Method::GET, "/keys", Some(tag)).0,
            200,
            "the tag of another page"
        );
    }
}
