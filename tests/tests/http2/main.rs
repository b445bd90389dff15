//! HTTP/2 through the real binary.

#![cfg(test)]

mod life;
mod streams;
mod support;
