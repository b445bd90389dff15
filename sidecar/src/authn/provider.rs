//! An identity provider as we speak with it: its configured addresses enter, where its keys (or its introspection endpoint)
//! are leaves, and then what is there.

use std::time::Duration;

use bytes::Bytes;
use hopguard_jose::KeySet;

use super::document;
use super::endpoint::Endpoint;
use super::error::{AuthnError, FetchError};
use super::http::{Client, Form};
use super::options::IssuerOptions;

/// An identity provider.
pub(super) struct Provider {
    issuer: String,
    /// What we want of it, by its name in configuration files and in discovery.
    what: &'static str,
    at: At,
    plain_loopback: bool,
    client: Client,
}

/// How that is found.
enum At {
    /// As configured.
    Fixed(Endpoint),
    /// In the OpenID configuration that lies here.
    Discovered(Endpoint),
}

impl Provider {
    /// The provider as the source of its keys.
    pub(super) fn new(options: &IssuerOptions, client: Client) -> Result<Self, AuthnError> {
        Self::of(options, ("jwks_uri", options.jwks_uri.as_deref()), client)
    }

    /// The provider as the one who knows what a token means.
    pub(super) fn introspection(
        options: &IssuerOptions,
        endpoint: Option<&str>,
        client: Client,
    ) -> Result<Self, AuthnError> {
        Self::of(options, ("introspection_endpoint", endpoint), client)
    }

    fn of(
        options: &IssuerOptions,
        (name, fixed): (&'static str, Option<&str>),
        client: Client,
    ) -> Result<Self, AuthnError> {
        let plain_loopback = options.allow_http_loopback;
        let parse = |what: &str, url: &str| {
            Endpoint::parse(url, plain_loopback).map_err(|problem| AuthnError::Option {
                alias: options.alias.clone(),
                problem: format!("{what} `{url}` is {problem}"),
            })
        };
        let at = match fixed {
            Some(uri) => At::Fixed(parse(name, uri)?),
            None => {
                if options.issuer.contains('?') {
                    return Err(AuthnError::Option {
                        alias: options.alias.clone(),
                        problem: format!("issuer has a query, so nothing lies below it; set its {name}"),
                    });
                }
                parse("issuer", &options.issuer)?;
                At::Discovered(parse("issuer", &document::well_known(&options.issuer))?)
            }
        };
        Ok(Self {
            issuer: options.issuer.clone(),
            what: name,
            at,
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

    /// Where that is what we want of it.
    pub(super) async fn locate(&self) -> Result<Endpoint, FetchError> {
        match &self.at {
            At::Fixed(endpoint) => Ok(endpoint.clone()),
            At::Discovered(at) => {
                let found = self.client.get(at).await?;
                document::address(&found.body, (&self.issuer, self.what), self.plain_loopback)
                    .map_err(|fault| FetchError::got(at, fault))
            }
        }
    }

    /// The keys that are there, at least one, and how long they may be kept, if they say so.
    pub(super) async fn keys(&self, at: &Endpoint) -> Result<(KeySet, Option<Duration>), FetchError> {
        let found = self.client.get(at).await?;
        let keys = document::key_set(&found.body).map_err(|fault| FetchError::got(at, fault))?;
        Ok((keys, found.lifetime))
    }

    /// What it answers to a form.
    pub(super) async fn answer(&self, at: &Endpoint, form: Form) -> Result<Bytes, FetchError> {
        Ok(self.client.post(at, form).await?.body)
    }
}
