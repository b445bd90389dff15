//! The room `detect`.
