//! An identity provider as we speak with it: its configured addresses enter, where its keys are and then the keys leave.

use std::time::Duration;

use hopguard_jose::KeySet;

use super::document;
use super::endpoint::Endpoint;
use super::error::{AuthnError, FetchError};
use super::http::Client;
use super::options::IssuerOptions;

/// An identity provider.
pub(super) struct Provider {
    issuer: String,
    keys_at: KeysAt,
    plain_loopback: bool,
    client: Client,
}

/// How its keys are found.
enum KeysAt {
    /// As configured.
    Fixed(Endpoint),
    /// In the OpenID configuration that lies here.
    Discovered(Endpoint),
}

impl Provider {
    pub(super) fn new(options: &IssuerOptions, client: Client) -> Result<Self, AuthnError> {
        let plain_loopback = options.allow_http_loopback;
        let parse = |what: &str, url: &str| {
            Endpoint::parse(url, plain_loopback).map_err(|problem| AuthnError::Option {
                alias: options.alias.clone(),
                problem: format!("{what} `{url}` is {problem}"),
            })
        };
        let keys_at = match &options.jwks_uri {
            Some(uri) => KeysAt::Fixed(parse("jwks_uri", uri)?),
            None => {
                if options.issuer.contains('?') {
                    return Err(AuthnError::Option {
                        alias: options.alias.clone(),
                        problem: "issuer has a query, so nothing lies below it; set jwks_uri".to_owned(),
                    });
                }
                parse("issuer", &options.issuer)?;
                KeysAt::Discovered(parse("issuer", &document::well_known(&options.issuer))?)
            }
        };
        Ok(Self {
            issuer: options.issuer.clone(),
            keys_at,
            plain_loopback,
            client,
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Takes a `ca_file` that changed.
    pub(super) fn reload_roots(&self) {
        if let Err(error) = self.client.trust.reload() {
            tracing::warn!(issuer = self.issuer, "the roots known so far stay: {error}");
        }
    }

    /// Where its keys are.
    pub(super) async fn locate(&self) -> Result<Endpoint, FetchError> {
        match &self.keys_at {
            KeysAt::Fixed(endpoint) => Ok(endpoint.clone()),
            KeysAt::Discovered(at) => {
                let found = self.client.get(at).await?;
                document::jwks_uri(&found.body, &self.issuer, self.plain_loopback).map_err(|fault| {
                    FetchError {
                        url: at.to_string(),
                        fault,
                    }
                })
            }
        }
    }

    /// The keys that are there, at least one, and how long they may be kept, if they say so.
    pub(super) async fn keys(&self, at: &Endpoint) -> Result<(KeySet, Option<Duration>), FetchError> {
        let found = self.client.get(at).await?;
        let keys = document::key_set(&found.body).map_err(|fault| FetchError {
            url: at.to_string(),
            fault,
        })?;
        Ok((keys, found.lifetime))
    }
}
