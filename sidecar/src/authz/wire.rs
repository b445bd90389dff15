//! Inputs as JSON: what is absent was not read. A value enters from a record that anybody may have written, so nothing of
//! it is believed before it fits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spiffe::SpiffeId;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::facts::{ClaimValue, User};
use super::inputs::{Inputs, RequestInputs};

/// The peer that has no certificate.
const PLAINTEXT: &str = "plaintext";

/// The JSON form.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire {
    service: String,
    peer: String,
    port: u16,
    tls: bool,
    src_ip: IpAddr,
    at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    params: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<WireUser>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    withheld: Vec<String>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WireUser {
    iss: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    issuer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scope: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aud: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    azp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acr: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    amr: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    claims: BTreeMap<String, WireClaim>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum WireClaim {
    Bool(bool),
    Long(i64),
    String(String),
    Strings(Vec<String>),
}

impl From<Inputs> for Wire {
    fn from(inputs: Inputs) -> Self {
        let request = inputs.request;
        let is_request = request.is_some();
        let request = request.unwrap_or_default();
        let hash = request.user_hash;
        Self {
            service: inputs.service.to_string(),
            peer: inputs
                .peer
                .map_or_else(|| PLAINTEXT.to_owned(), |id| id.to_string()),
            port: inputs.port,
            tls: inputs.tls,
            src_ip: inputs.src_ip,
            at: at(inputs.now_millis),
            method: is_request.then_some(request.method),
            path: request.path,
            host: request.host,
            route: request.route.map(|route| route.to_string()),
            params: request.params,
            headers: request.headers.into_iter().collect(),
            user: request.user.map(|user| WireUser::of(user, hash)),
            withheld: inputs.withheld,
        }
    }
}

impl TryFrom<Wire> for Inputs {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let peer = match wire.peer.as_str() {
            PLAINTEXT => None,
            id => Some(SpiffeId::new(id).map_err(|error| format!("peer: {error}"))?),
        };
        let user_hash = wire.user.as_ref().and_then(|user| user.hash.clone());
        let request = wire.method.map(|method| RequestInputs {
            method,
            path: wire.path,
            host: wire.host,
            route: wire.route.map(Arc::from),
            params: wire.params,
            headers: wire.headers.into_iter().collect(),
            user: wire.user.map(User::from),
            user_hash,
            reads: (true, true),
        });
        let at = OffsetDateTime::parse(&wire.at, &Rfc3339).map_err(|error| format!("at: {error}"))?;
        let millis = at.unix_timestamp_nanos() / 1_000_000;
        Ok(Self {
            service: Arc::from(wire.service),
            peer,
            port: wire.port,
            tls: wire.tls,
            src_ip: wire.src_ip,
            now_millis: i64::try_from(millis).map_err(|error| format!("at: {error}"))?,
            request,
            withheld: wire.withheld,
        })
    }
}

impl WireUser {
    fn of(user: User, hash: Option<String>) -> Self {
        let claims = user.claims.into_iter().map(|(name, value)| {
            let value = match value {
                ClaimValue::String(text) => WireClaim::String(text),
                ClaimValue::Strings(list) => WireClaim::Strings(list),
                ClaimValue::Long(number) => WireClaim::Long(number),
                ClaimValue::Bool(yes) => WireClaim::Bool(yes),
            };
            (name, value)
        });
        Self {
            iss: user.alias,
            issuer: user.issuer,
            sub: Some(user.subject).filter(|subject| !subject.is_empty()),
            hash,
            roles: user.roles,
            scope: user.scope,
            aud: user.audience,
            azp: user.azp,
            acr: user.acr,
            amr: user.amr,
            auth_time: user.auth_time,
            exp: Some(user.exp).filter(|exp| *exp != 0),
            actor: user.actor,
            claims: claims.collect(),
        }
    }
}

impl From<WireUser> for User {
    fn from(user: WireUser) -> Self {
        let claims = user.claims.into_iter().map(|(name, value)| {
            let value = match value {
                WireClaim::String(text) => ClaimValue::String(text),
                WireClaim::Strings(list) => ClaimValue::Strings(list),
                WireClaim::Long(number) => ClaimValue::Long(number),
                WireClaim::Bool(yes) => ClaimValue::Bool(yes),
            };
            (name, value)
        });
        Self {
            alias: user.iss,
            issuer: user.issuer,
            subject: user.sub.unwrap_or_default(),
            audience: user.aud,
            scope: user.scope,
            roles: user.roles,
            azp: user.azp,
            acr: user.acr,
            amr: user.amr,
            auth_time: user.auth_time,
            exp: user.exp.unwrap_or_default(),
            actor: user.actor,
            claims: claims.collect(),
        }
    }
}

impl ClaimValue {
    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::String(text) => text.len(),
            Self::Strings(list) => list.iter().map(|text| text.len() + 24).sum(),
            Self::Long(_) | Self::Bool(_) => 8,
        }
    }

    /// Whether it is this text, or has it among others.
    pub(super) fn holds(&self, text: &str) -> bool {
        match self {
            Self::String(one) => one == text,
            Self::Strings(many) => many.iter().any(|one| one == text),
            Self::Long(_) | Self::Bool(_) => false,
        }
    }

    /// Whether a text, or a list of them, fits.
    pub(super) fn fits(&self, text: impl Fn(&String) -> bool, list: impl Fn(&[String]) -> bool) -> bool {
        match self {
            Self::String(one) => text(one),
            Self::Strings(many) => list(many),
            Self::Long(_) | Self::Bool(_) => true,
        }
    }
}

/// RFC 3339 in UTC; a time that has no such form is written as 1970.
fn at(millis: i64) -> String {
    let nanos = i128::from(millis).saturating_mul(1_000_000);
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}
