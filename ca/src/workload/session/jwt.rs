//! The JWT half of a caller's session: JWT-SVIDs for what it is entitled to, the keys to verify those of others with, and
//! the verification itself for who has no library. What a request may ask for is bounded before anything is signed, and
//! what was signed is thrown away when its caller or its key is not what it was.

use std::time::SystemTime;

use spiffe::SpiffeId;
use tonic::Status;

use super::{Session, since_1970};
use crate::audit::Event;
use crate::authority::JwtSvid;
use crate::registration::Grant;
use crate::workload::issuer::IssueError;
use crate::workload::proto::{
    JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse,
};
use crate::workload::streams::Carries;
use crate::workload::validate::{Believed, MAX_AUDIENCE, MAX_AUDIENCES, is_audience, jwks};

/// What FetchJWTSVID was asked for.
struct Wanted {
    audience: Vec<String>,
    /// `None`: every identity of the caller (S-52).
    id: Option<SpiffeId>,
}

impl Wanted {
    fn read(request: JwtsvidRequest) -> Result<Self, Status> {
        let JwtsvidRequest { audience, spiffe_id } = request;
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if !is_audience(&audience) {
            let message =
                format!("at most {MAX_AUDIENCES} audiences, and {MAX_AUDIENCE} bytes of them in a token");
            return Err(Status::invalid_argument(message));
        }
        let id = match spiffe_id.as_str() {
            "" => None,
            text => {
                let id = SpiffeId::new(text).ok().filter(|id| id.to_string() == text);
                Some(id.ok_or_else(|| Status::invalid_argument("spiffe_id is not a SPIFFE ID"))?)
            }
        };
        Ok(Self { audience, id })
    }
}

impl Session {
    /// The answer of FetchJWTSVID.
    pub async fn jwt_svids(&mut self, request: JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
        let wanted = Wanted::read(request)?;
        loop {
            let granted = self.entitled().await?;
            let grants = self.chosen(granted, wanted.id.as_ref())?;
            self.trust.mark_unchanged();
            let mut svids = Vec::with_capacity(grants.len());
            for grant in &grants {
                let signed = self
                    .shared
                    .issuer
                    .issue_jwt(&grant.id, &wanted.audience, SystemTime::now());
                let svid = signed.await.map_err(|error| self.none_issued(grant, &error))?;
                self.audit_jwt(grant, &svid, &wanted.audience)
                    .await
                    .map_err(|error| self.none_issued(grant, &error))?;
                svids.push(Jwtsvid {
                    spiffe_id: svid.id.to_string(),
                    svid: svid.token.to_string(),
                    hint: grant.hint.as_deref().unwrap_or_default().to_owned(),
                });
            }
            // Somebody may have been revoked, or a key retired, while it was signed.
            let chosen_still = grants.iter().all(|grant| !self.shared.issuer.revoked(&grant.id));
            if self.still_entitled()? && chosen_still {
                for svid in svids.iter().filter(|_| !self.shared.audit.is_on()) {
                    tracing::info!(
                        uid = self.peer.uid(), pid = self.peer.pid(), socket = self.peer.socket(),
                        spiffe_id = svid.spiffe_id, audience = ?wanted.audience, "JWT-SVID issued"
                    );
                }
                return Ok(JwtsvidResponse { svids });
            }
        }
    }

    /// In the audit log before it leaves; the token itself never is.
    async fn audit_jwt(&self, grant: &Grant, svid: &JwtSvid, audience: &[String]) -> Result<(), IssueError> {
        let event = Event {
            spiffe_id: Some(svid.id.to_string()),
            selectors: grant.by.clone(),
            audience: audience.to_vec(),
            not_after: since_1970(svid.not_after),
            ..self.event("jwt_svid", "issued")
        };
        let written = self.shared.audit.record(&event).await;
        written.map_err(|error| IssueError(error.to_string()))
    }

    /// What of the grants was asked for and is not revoked. Never empty.
    fn chosen(&self, mut grants: Vec<Grant>, id: Option<&SpiffeId>) -> Result<Vec<Grant>, Status> {
        grants.retain(|grant| id.is_none_or(|id| *id == grant.id) && !self.shared.issuer.revoked(&grant.id));
        match id {
            _ if !grants.is_empty() => Ok(grants),
            Some(_) => Err(self.denied("this process is not entitled to the requested identity")),
            None => Err(self.denied("every identity of this process is revoked")),
        }
    }

    /// The next message of FetchJWTBundles. Other authorities' changes are no news here.
    pub async fn jwt_bundles(&mut self) -> Result<JwtBundlesResponse, Status> {
        loop {
            self.entitled().await?;
            let trust = self.trust.borrow_and_update().clone();
            let known = self
                .sent
                .as_ref()
                .is_some_and(|sent| sent.jwt_keys == trust.jwt_keys);
            if !known && !self.still_entitled()? {
                continue;
            }
            if !known {
                let none = std::iter::empty();
                self.ticket
                    .sent(Carries::JwtBundles, trust.sequence, none, SystemTime::now());
                let bundles = [(trust.domain.id_string(), jwks(&trust.jwt_keys))].into();
                self.sent = Some(trust);
                return Ok(JwtBundlesResponse { bundles });
            }
            // Who has these keys has what is published, whatever else changed.
            self.ticket.holds(trust.sequence);
            self.wait().await?;
        }
    }

    /// The answer of ValidateJWTSVID. Who is nobody has no use for it, and costs no signature.
    pub async fn validated(
        &mut self,
        request: ValidateJwtsvidRequest,
    ) -> Result<ValidateJwtsvidResponse, Status> {
        let ValidateJwtsvidRequest { audience, svid } = request;
        for (name, text) in [("audience", &audience), ("svid", &svid)] {
            if text.is_empty() {
                return Err(Status::invalid_argument(format!("{name} must be specified")));
            }
        }
        if audience.len() > MAX_AUDIENCE {
            return Err(Status::invalid_argument(format!(
                "audience over {MAX_AUDIENCE} bytes"
            )));
        }
        self.entitled().await?;
        let trust = self.trust.borrow_and_update().clone();
        let believed = self
            .shared
            .validator
            .validate(&trust, audience, &svid, SystemTime::now());
        let Believed { id, issued, claims } = believed.map_err(|refused| {
            tracing::debug!(
                uid = self.peer.uid(),
                reason = refused.label(),
                "a JWT-SVID is refused"
            );
            Status::invalid_argument(refused.to_string())
        })?;
        if self.shared.issuer.revoked(&id) {
            return Err(Status::invalid_argument("the token's identity is revoked"));
        }
        if !self.shared.issuer.believes(&id, issued) {
            return Err(Status::invalid_argument(
                "the token's identity was revoked after the token was issued",
            ));
        }
        self.peer.check().map_err(|error| self.nobody(&error))?;
        Ok(ValidateJwtsvidResponse {
            spiffe_id: id.to_string(),
            claims: Some(claims),
        })
    }
}
