//! The certificate authority: what enters is a connection on a unix socket, what leaves is a SPIFFE identity for the
//! process that the kernel proved to be behind it. It never hands out an identity that an entry does not grant to
//! exactly what was proven, and never skips a proof that it could not make.
//!
//! ```text
//!  workload      accept, limits, Workload API streams
//!  attest        kernel facts about the peer, held until the answer is sent   -> Facts
//!  registration  the entries of the file, matched against facts (pure)       -> Granted
//!  authority     profile -> signature -> checked before it leaves            -> Svid
//!  audit         what was issued, refused or changed, for people who ask later
//!  store         what was issued, and by which authority
//!  endpoint      the trust bundle and the OpenID documents, for everybody
//!  admin         what operators ask of the running authority
//! ```
//!
//! | room | may use |
//! |---|---|
//! | problem, datadir, keys, store, audit | none |
//! | registration | problem |
//! | authority | keys |
//! | attest | registration |
//! | workload | registration, attest, authority, audit |
//! | admin | workload |
//! | endpoint | workload, authority |
//! | config | problem, registration, workload, audit, endpoint, keys |
//! | server | all |

pub mod admin;
pub mod attest;
pub mod audit;
pub mod authority;
pub mod config;
pub mod datadir;
pub mod endpoint;
pub mod keys;
pub mod problem;
pub mod registration;
pub mod server;
pub mod store;
pub mod workload;
