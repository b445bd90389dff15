//! One question to a Workload API and its answer: JWT-SVIDs for an audience, or the JWT bundles. For the command line; the
//! sidecar itself only follows streams.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use spiffe::SpiffeId;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::endpoint::Endpoint;
use super::jwt_bundles::checked;
use super::proto::{JwtBundlesRequest, JwtsvidRequest};
use super::workload_api::{asking, client, refused, unreachable};
use super::{IdentityError, parse_id};

/// More tokens than this is no answer to one workload.
const MAX_TOKENS: usize = 1024;

/// Which JWT-SVIDs are asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Whom they are for; at least one.
    pub audience: Vec<String>,
    /// Whose they are; without it, one of each identity of this process.
    pub id: Option<SpiffeId>,
}

/// A JWT-SVID as the Workload API handed it out. It is a bearer token: whoever holds it is its subject.
pub struct FetchedToken {
    /// Whose it is.
    pub id: SpiffeId,
    /// What the issuer says it is for; empty when it says nothing.
    pub hint: String,
    /// The token.
    pub token: Zeroizing<String>,
}

impl fmt::Debug for FetchedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FetchedToken({})", self.id)
    }
}

/// Fetches JWT-SVIDs. They are not verified: whoever gives an identity can say who we are.
///
/// # Errors
/// The endpoint, the answer or its content is not what it should be, or nothing came within `limit`.
pub async fn fetch_tokens(
    endpoint: &str,
    wanted: &Wanted,
    limit: Duration,
) -> Result<Vec<FetchedToken>, IdentityError> {
    let parsed = Endpoint::parse(endpoint)?;
    let once = async {
        let request = JwtsvidRequest {
            audience: wanted.audience.clone(),
            spiffe_id: wanted.id.as_ref().map(SpiffeId::to_string).unwrap_or_default(),
        };
        let answer = client(endpoint, parsed)
            .await?
            .fetch_jwtsvid(asking(request))
            .await;
        answer.map_err(|status| refused(endpoint, &status))
    };
    let answer = timeout(limit, once)
        .await
        .map_err(|_| silent(endpoint, limit))??;
    let svids = answer.into_inner().svids;
    if svids.is_empty() || svids.len() > MAX_TOKENS {
        let problem = format!("{} JWT-SVIDs, not 1 to {MAX_TOKENS}", svids.len());
        return Err(IdentityError::BadMessage(problem));
    }
    let tokens = svids.into_iter().map(|svid| {
        let bad = |problem: String| IdentityError::BadMessage(format!("a JWT-SVID: {problem}"));
        let token = Zeroizing::new(svid.svid);
        let id = parse_id(&svid.spiffe_id).map_err(|error| bad(error.to_string()))?;
        if token.is_empty() {
            return Err(bad("the mandatory field `svid` is empty".to_owned()));
        }
        Ok(FetchedToken {
            id,
            hint: svid.hint,
            token,
        })
    });
    tokens.collect()
}

/// Fetches the JWT bundles: the ID of each trust domain (`spiffe://` and its name) and its JWK Set.
///
/// # Errors
/// As [`fetch_tokens`].
pub async fn fetch_jwt_bundles(
    endpoint: &str,
    limit: Duration,
) -> Result<BTreeMap<String, Vec<u8>>, IdentityError> {
    let parsed = Endpoint::parse(endpoint)?;
    let once = async {
        let refused = |status: tonic::Status| refused(endpoint, &status);
        let mut client = client(endpoint, parsed).await?;
        let answer = client.fetch_jwt_bundles(asking(JwtBundlesRequest {})).await;
        let first = answer.map_err(refused)?.into_inner().message().await;
        first
            .map_err(refused)?
            .ok_or_else(|| unreachable(endpoint, "the stream ended without a message"))
    };
    checked(
        timeout(limit, once)
            .await
            .map_err(|_| silent(endpoint, limit))??,
    )
}

fn silent(endpoint: &str, limit: Duration) -> IdentityError {
    IdentityError::Silent {
        endpoint: endpoint.to_owned(),
        seconds: limit.as_secs(),
    }
}
