//! Signing for workloads and operators: by the active authority, recorded before it leaves, and never for who is revoked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use spiffe::SpiffeId;

use super::Keyring;
use crate::server::seconds;
use crate::store::Issued;
use crate::workload::{Issue, IssueError, IssueJwt};

impl Keyring {
    /// The longest lives of an SVID and of a JWT-SVID: rotation counts on them.
    pub fn lives(&self) -> (Duration, Duration) {
        (self.lives.svid, self.lives.jwt_svid)
    }

    /// As [`Issuer::issue`], for a life that is never longer than the one of workloads' SVIDs.
    pub fn issue_for<'a>(&'a self, id: &'a SpiffeId, ttl: Duration, now: SystemTime) -> Issue<'a> {
        Box::pin(async move {
            let failed = |error: &dyn std::fmt::Display| IssueError(error.to_string());
            self.refuse_revoked(id)?;
            // Held until the record is written: as long as it is, the authority stays in the bundle.
            let authority = self.x509.load_full();
            let authority = authority.ok_or_else(|| failed(&"there is no active authority"))?;
            // Whoever sends it looks at the bundle again; it is this one or a newer one.
            let bundle = self.trust.borrow().sequence;
            let mut svid = authority
                .issue(id, ttl.min(self.lives.svid), now)
                .map_err(|error| failed(&error))?;
            svid.bundle = bundle;
            let record = Issued {
                serial: svid.serial.clone(),
                spiffe_id: svid.id.to_string(),
                authority: authority.id().to_owned(),
                bundle: i64::try_from(bundle).unwrap_or_default(),
                not_after: seconds(svid.not_after),
            };
            self.recorder
                .record(record)
                .await
                .map_err(|error| failed(&error))?;
            drop(authority);
            // Revoked meanwhile: it is in the store, so whoever lists what is alive finds it.
            self.refuse_revoked(id)?;
            Ok(Arc::new(svid))
        })
    }

    /// As [`Issuer::issue_jwt`], for a life that is never longer.
    pub fn issue_jwt_for<'a>(
        &'a self,
        id: &'a SpiffeId,
        audience: &'a [String],
        ttl: Duration,
        now: SystemTime,
    ) -> IssueJwt<'a> {
        Box::pin(async move {
            self.refuse_revoked(id)?;
            let now = self.after_lift(id, now).await?;
            let none = || IssueError("there is no active JWT key".to_owned());
            let signer = self.jwt.load_full().ok_or_else(none)?;
            let end = seconds(now + self.lives.jwt_svid) + 1;
            if signer.until.load(Ordering::Acquire) < end {
                self.promise(&signer, end).await?;
            }
            let ttl = ttl.min(self.lives.jwt_svid);
            let issued = signer.authority.issue(id, audience, ttl, now);
            let issued = issued.map_err(|error| IssueError(error.to_string()))?;
            self.refuse_revoked(id)?;
            // Revoked and lifted meanwhile: it would be refused.
            if !self.believed(id, Some(seconds(now))) {
                return Err(IssueError(format!("{id} was revoked meanwhile")));
            }
            Ok(issued)
        })
    }
}
