//! The room `forward`.
