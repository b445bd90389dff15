//! The room `intercept`.
