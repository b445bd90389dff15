//! The room `authn`.
