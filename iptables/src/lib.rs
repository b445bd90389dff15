//! The transparent redirect.
