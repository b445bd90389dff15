//! The room `snapshot`.
