//! One question to an introspection endpoint (RFC 7662 section 2.1): a token enters, the bytes of the answer leave. The
//! secret is read from its file for each question, so that a new one needs no reload and none is held between questions.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::authn::endpoint::Endpoint;
use crate::authn::error::{AuthnError, FetchError, FetchFault};
use crate::authn::http::{Client, Form};
use crate::authn::options::{ClientAuth, IntrospectionOptions, IssuerOptions};
use crate::authn::provider::Provider;

/// How long what discovery and `ca_file` said is used.
const SETTLED: Duration = Duration::from_secs(5 * 60);
/// The longest secret, in bytes.
const MAX_SECRET: u64 = 4096;
/// What a form leaves as it is beside letters and digits.
const FORM: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'*');

/// Who asks, and where.
pub(in crate::authn) struct Asker {
    provider: Provider,
    options: IntrospectionOptions,
    /// Where the endpoint was found, and when. Held while it is looked for, so that one looks.
    at: Mutex<Option<(Endpoint, Instant)>>,
}

impl Asker {
    pub(in crate::authn) fn new(
        issuer: &IssuerOptions,
        options: &IntrospectionOptions,
        client: Client,
    ) -> Result<Self, AuthnError> {
        Ok(Self {
            provider: Provider::introspection(issuer, options.endpoint.as_deref(), client)?,
            options: options.clone(),
            at: Mutex::default(),
        })
    }

    /// Asks.
    pub(super) async fn ask(&self, token: &str) -> Result<Bytes, FetchError> {
        let at = self.locate().await?;
        let form = self.form(token).map_err(|error| {
            let file = self.options.client_secret_file.display();
            let problem = format!("client_secret_file {file}: {error}");
            FetchError {
                url: at.to_string(),
                method: "POST",
                fault: FetchFault::Document(problem),
            }
        })?;
        let answer = self.provider.answer(&at, form).await;
        if answer.is_err() {
            // It may have moved.
            *self.at.lock().await = None;
        }
        answer
    }

    /// Where the endpoint is.
    pub(in crate::authn) async fn locate(&self) -> Result<Endpoint, FetchError> {
        let mut known = self.at.lock().await;
        if let Some((at, since)) = &*known
            && since.elapsed() < SETTLED
        {
            return Ok(at.clone());
        }
        self.provider.reload_roots();
        let at = self.provider.locate().await?;
        *known = Some((at.clone(), Instant::now()));
        Ok(at)
    }

    fn form(&self, token: &str) -> io::Result<Form> {
        let secret = read_secret(&self.options.client_secret_file)?;
        let id = encoded(&self.options.client_id);
        let key = Zeroizing::new(encoded(&secret));
        let mut body = Zeroizing::new(String::new());
        // Once and for all: a string that grows leaves its old bytes behind.
        body.reserve_exact(128 + 3 * (token.len() + id.len() + key.len()));
        body.push_str("token=");
        utf8_percent_encode(token, FORM).for_each(|part| body.push_str(part));
        body.push_str("&token_type_hint=access_token");
        let authorization = match self.options.auth {
            ClientAuth::Basic => {
                let pair = Zeroizing::new(format!("{id}:{}", *key));
                Some(Zeroizing::new(format!(
                    "Basic {}",
                    STANDARD.encode(pair.as_bytes())
                )))
            }
            ClientAuth::Post => {
                for part in ["&client_id=", &id, "&client_secret=", &key] {
                    body.push_str(part);
                }
                None
            }
        };
        Ok(Form { authorization, body })
    }
}

/// As in a form (RFC 6749 appendix B), which is also how both halves of Basic are written (section 2.3.1).
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string()
}

/// The secret in a file, without the end of its line.
fn read_secret(path: &Path) -> io::Result<Zeroizing<String>> {
    let bad = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem);
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_SECRET {
        return Err(bad("is no regular file of at most 4096 bytes"));
    }
    if metadata.mode() & 0o007 != 0 {
        return Err(bad("other users have rights to it (chmod 0600)"));
    }
    // As large as it may get: a string that grows leaves its old bytes behind.
    let mut text = Zeroizing::new(String::with_capacity(4096));
    file.take(MAX_SECRET).read_to_string(&mut text)?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(bad("is empty"));
    }
    Ok(Zeroizing::new(secret.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_a_form_gives_a_meaning_is_encoded() {
        assert_eq!(encoded("a-b_c.d*E9"), "a-b_c.d*E9");
        assert_eq!(encoded("a b&c=d+e/%:~ä"), "a%20b%26c%3Dd%2Be%2F%25%3A%7E%C3%A4");
    }

    #[test]
    fn a_secret_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        assert!(read_secret(&path).is_err());
        std::fs::write(&path, "s3cr3t \r\n").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        assert_eq!(read_secret(&path).expect("a secret").as_str(), "s3cr3t ");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).expect("set");
        assert!(read_secret(&path).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        for bad in [String::new(), "\n".to_owned(), "x".repeat(5_000)] {
            std::fs::write(&path, &bad).expect("written");
            assert!(read_secret(&path).is_err());
        }
    }
}
