//! SVIDs that no entry grants, in the audit log before they leave, like those of workloads: the operator's, and the one of
//! the bundle endpoint itself.

use std::sync::Arc;
use std::time::SystemTime;

use spiffe::SpiffeId;
use tokio::sync::watch;

use super::keyring::Keyring;
use super::seconds;
use crate::audit::Event;
use crate::authority::{JwtSvid, Svid, Trust};
use crate::workload::{Issue, IssueError, IssueJwt, Issuer};

/// An X.509-SVID as the log has it; `whose` is who uses it.
pub fn x509(svid: &Svid, whose: &str) -> Event {
    Event {
        spiffe_id: Some(svid.id.to_string()),
        serial: Some(svid.serial.clone()),
        authority: Some(svid.authority.to_string()),
        not_after: Some(seconds(svid.not_after)),
        detail: Some(serde_json::json!({ "for": whose })),
        ..Event::new("x509_svid", "issued")
    }
}

/// A JWT-SVID as the log has it, without the token.
pub fn jwt(svid: &JwtSvid, audience: &[String], whose: &str) -> Event {
    Event {
        spiffe_id: Some(svid.id.to_string()),
        audience: audience.to_vec(),
        not_after: Some(seconds(svid.not_after)),
        detail: Some(serde_json::json!({ "for": whose })),
        ..Event::new("jwt_svid", "issued")
    }
}

/// The keyring as the bundle endpoint asks it.
pub struct ForEndpoint(pub Arc<Keyring>);

impl Issuer for ForEndpoint {
    fn issue<'a>(&'a self, id: &'a SpiffeId, now: SystemTime) -> Issue<'a> {
        Box::pin(async move {
            let svid = self.0.issue(id, now).await?;
            let written = self.0.audit().record(&x509(&svid, "bundle endpoint")).await;
            written.map_err(|error| IssueError(error.to_string()))?;
            Ok(svid)
        })
    }

    fn issue_jwt<'a>(&'a self, id: &'a SpiffeId, audience: &'a [String], now: SystemTime) -> IssueJwt<'a> {
        Box::pin(async move {
            let svid = self.0.issue_jwt(id, audience, now).await?;
            let written = self
                .0
                .audit()
                .record(&jwt(&svid, audience, "bundle endpoint"))
                .await;
            written.map_err(|error| IssueError(error.to_string()))?;
            Ok(svid)
        })
    }

    fn revoked(&self, id: &SpiffeId) -> bool {
        self.0.revoked(id)
    }

    fn believes(&self, id: &SpiffeId, issued: Option<i64>) -> bool {
        self.0.believes(id, issued)
    }

    fn stands(&self, svid: &Svid) -> bool {
        self.0.stands(svid)
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.0.trust()
    }
}
