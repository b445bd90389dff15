//! Every attack of docs/request-attacks.md through the running sidecar, with an application behind it that writes down exactly what
//! it received: what should be refused never arrives, and what arrives is exactly what was decided on. The codes (P2, S1, ...) are
//! those of that page.
//!
//! Two meshes: in A a list of permits decides, in D everything is permitted that is not forbidden. The attacker is a genuine peer of the
//! mesh in a pod without a sidecar.

#![cfg(test)]

mod ask;
mod evil;
mod framing;
mod host;
mod http2;
mod identity;
mod keys;
mod options;
mod ordinary;
mod path;
mod rig;
mod token;
