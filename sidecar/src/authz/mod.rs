//! The room `authz`.
