//! What may be configured about issuers of user tokens. `config` fills these; nothing here is yet known to be sound
//! (the authenticator checks them).

use std::path::PathBuf;
use std::time::Duration;

use hopguard_jose::Algorithm;

use super::claim_path::ClaimPath;
use crate::dial::DialOptions;

/// What an issuer's tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuerKind {
    /// Tokens of an OAuth or OpenID provider.
    Provider,
    /// JWT-SVIDs of a trust domain, whose keys come from the Workload API.
    JwtSvid,
}

/// An issuer whose tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerOptions {
    /// What its tokens are.
    pub kind: IssuerKind,
    /// Its name in policies, logs and metrics; unique, not empty, without `|`.
    pub alias: String,
    /// `iss` of its tokens, to the byte; unique. Its OpenID configuration lies below it. Of JWT-SVIDs, which need no `iss`:
    /// the ID of the trust domain, `spiffe://` and its name.
    pub issuer: String,
    /// `aud` must name one of these; at least one.
    pub audiences: Vec<String>,
    /// The algorithms that may sign; at least one ([`Algorithm::ALL`] where nothing is configured).
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are; `None`: found by OpenID discovery.
    pub jwks_uri: Option<String>,
    /// The only roots that its certificates may chain to; `None`: the machine's public roots.
    pub ca_file: Option<PathBuf>,
    /// Whether plain http to this machine is allowed.
    pub allow_http_loopback: bool,
    /// By how much its clock may differ from ours; at most 60 s, whole seconds count.
    pub leeway: Duration,
    /// The claims whose values become roles, as paths: `realm_access.roles`, or a URL.
    pub roles: Vec<ClaimPath>,
    /// The claims that policies see.
    pub claims: Vec<ClaimOptions>,
    /// The claims of which some place demands that they name the caller.
    pub bind_claims: Vec<ClaimPath>,
    /// How it is asked what a token means that says nothing by itself.
    pub introspection: Option<IntrospectionOptions>,
}

/// How an issuer is asked what a token means (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionOptions {
    /// Where; `None`: found by OpenID discovery.
    pub endpoint: Option<String>,
    /// Who asks.
    pub client_id: String,
    /// The file with the secret that proves it; read for each question, so that a new secret needs no reload.
    pub client_secret_file: PathBuf,
    /// How the secret is shown.
    pub auth: ClientAuth,
    /// The longest that an answer is believed; at least a second.
    pub cache: Duration,
    /// How its opaque tokens begin; `None`: it has those that no other issuer's prefix fits.
    pub token_prefix: Option<String>,
    /// Whether an answer must say for whom the token is.
    pub audience_required: bool,
    /// Whether its JWTs are asked for too; it then needs no keys.
    pub every_token: bool,
}

/// How a client proves itself to its provider (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// `client_secret_basic`: in `Authorization`.
    Basic,
    /// `client_secret_post`: in the form.
    Post,
}

/// A claim that policies see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimOptions {
    /// Its name in policies; unique.
    pub name: String,
    /// Where it is in the token, as a path.
    pub path: ClaimPath,
    /// What it must be; anything else is as if it were absent.
    pub kind: ClaimKind,
}

/// The type of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// A string.
    String,
    /// An array of strings, or one string.
    Strings,
    /// A whole number that fits 64 bits.
    Long,
    /// `true` or `false`.
    Bool,
}

/// How tokens are verified, whoever issued them.
#[derive(Clone, Debug)]
pub struct AuthnOptions {
    /// How identity providers are reached.
    pub dial: DialOptions,
    /// The bounds of the cache of verified tokens.
    pub cache: CacheLimits,
    /// The longest that one document of a provider may take.
    pub fetch_timeout: Duration,
    /// The longest that a token waits: one with an unknown `kid` for newer keys, an opaque one for its issuer's answer.
    pub refetch_wait: Duration,
}

impl AuthnOptions {
    /// The defaults: 64k tokens and 32 MiB in the cache, 10 s a document, 2 s a wait.
    #[must_use]
    pub fn new(dial: DialOptions) -> Self {
        Self {
            dial,
            cache: CacheLimits::default(),
            fetch_timeout: Duration::from_secs(10),
            refetch_wait: Duration::from_secs(2),
        }
    }
}

/// The bounds of the cache of verified tokens.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// The most tokens; 0 turns the cache off.
    pub entries: usize,
    /// The most bytes, about.
    pub bytes: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            entries: 64 * 1024,
            bytes: 32 * 1024 * 1024,
        }
    }
}
