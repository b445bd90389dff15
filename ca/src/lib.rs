//! The certificate authority.
