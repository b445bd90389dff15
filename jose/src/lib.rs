//! Strict JWS, JWKS and JSON.
