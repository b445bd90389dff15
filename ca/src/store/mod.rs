//! What must survive a restart: the trust domain, the authorities, what was issued and still lives. Records enter and
//! leave; a private key never enters. The trait is shaped by its callers; each store passes the same suite.

pub mod backup;
mod recorder;
mod revocations;
mod sqlite;
#[cfg(test)]
mod suite;

pub use recorder::Recorder;
pub use revocations::{
    KeptList, LiftedIdentity, RevocationChange, Revocations, RevokedIdentity, RevokedSerial,
};
pub use sqlite::Sqlite;

use std::future::Future;
use std::pin::Pin;

/// A store's answer.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What an authority is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityState {
    /// It is published, and does not sign yet.
    Prepared,
    /// It signs, and is trusted.
    Active,
    /// It no longer signs, and is trusted until nothing is alive that it signed.
    Retired,
    /// It is trusted no more; what is left of it is its key file, which is to be removed.
    Discarded,
}

impl AuthorityState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Discarded => "discarded",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "prepared" => Some(Self::Prepared),
            "active" => Some(Self::Active),
            "retired" => Some(Self::Retired),
            "discarded" => Some(Self::Discarded),
            _ => None,
        }
    }
}

/// What an authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityKind {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

impl AuthorityKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "x509" => Some(Self::X509),
            "jwt" => Some(Self::Jwt),
            _ => None,
        }
    }
}

/// An authority as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityRecord {
    /// What it signs.
    pub kind: AuthorityKind,
    /// Its serial number in hexadecimal, or the key id of a JWT key.
    pub id: String,
    /// Its certificate, DER; of a JWT key the public key, an uncompressed point.
    pub certificate: Vec<u8>,
    /// The name of its key in the keeper.
    pub key: String,
    /// What it is used for.
    pub state: AuthorityState,
    /// When it came into this state, seconds since 1970.
    pub since: i64,
    /// When it was first served to workloads, seconds since 1970; 0 when it was not yet.
    pub published: i64,
    /// The sequence number of the bundle in which it was served first.
    pub sequence: i64,
    /// It is prepared, and shall not sign before an operator says so.
    pub held: bool,
    /// Of a JWT key: no token that it signed ends later.
    pub until: i64,
    /// End of validity, seconds since 1970.
    pub not_after: i64,
}

/// One certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Serial number in hexadecimal.
    pub serial: String,
    /// Whose it is.
    pub spiffe_id: String,
    /// Id of the authority that signed it.
    pub authority: String,
    /// Sequence number of the bundle that is sent with it, or of an older one.
    pub bundle: i64,
    /// End of validity, seconds since 1970.
    pub not_after: i64,
}

/// What is alive of one authority and bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliveGroup {
    /// Id of the authority that signed it.
    pub authority: String,
    /// As in [`Issued`].
    pub bundle: i64,
    /// How many.
    pub count: u64,
    /// When the first one ends, seconds since 1970.
    pub first: i64,
    /// When the last one ends.
    pub last: i64,
}

/// The state of one trust domain. What was answered `Ok` survives a crash of the process and of the machine.
pub trait Store: Send + Sync {
    /// Binds the store to a trust domain when it is new, and answers the one that it is bound to.
    fn bind<'a>(&'a self, trust_domain: &'a str) -> Answer<'a, String>;

    /// All authorities, the newest last.
    fn authorities(&self) -> Answer<'_, Vec<AuthorityRecord>>;

    /// Adds an authority, or changes the state of one that is there.
    fn put_authority<'a>(&'a self, record: &'a AuthorityRecord) -> Answer<'a, ()>;

    /// Forgets an authority.
    fn remove_authority<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;

    /// The sequence number of a bundle of this content: the last one when it is the last content, else the next one.
    fn sequence<'a>(&'a self, content: &'a [u8]) -> Answer<'a, i64>;

    /// Records what is about to be handed out, all or nothing. A serial that is there already is an error.
    fn record<'a>(&'a self, issued: &'a [Issued]) -> Answer<'a, ()>;

    /// What was issued to any of these identities and lives at `now`; what ends first is first.
    fn issued<'a>(&'a self, spiffe_ids: &'a [&'a str], now: i64) -> Answer<'a, Vec<Issued>>;

    /// The certificate of a serial number, if it lives at `now`.
    fn issued_serial<'a>(&'a self, serial: &'a str, now: i64) -> Answer<'a, Option<Issued>>;

    /// All that is revoked.
    fn revocations(&self) -> Answer<'_, Revocations>;

    /// Changes what is revoked, all or nothing.
    fn change_revocations<'a>(&'a self, change: &'a RevocationChange) -> Answer<'a, ()>;

    /// How much of what was issued lives at `now`, for each authority and bundle.
    fn alive(&self, now: i64) -> Answer<'_, Vec<AliveGroup>>;

    /// Forgets what had expired before `now`, and answers how much that was.
    fn purge(&self, now: i64) -> Answer<'_, u64>;
}

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// Its schema cannot be brought up to date (a newer hopguard wrote it?).
    #[error("the database's schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// A record in it makes no sense.
    #[error("the database holds a bad record: {0}")]
    Corrupt(String),
    /// The file cannot be made.
    #[error("`{path}`: {source}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The writer has ended; nothing is recorded any more.
    #[error("the store is closed")]
    Closed,
}
