//! The room `request`.
