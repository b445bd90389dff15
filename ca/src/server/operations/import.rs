//! An authority under the organisation's root: its request, and the chain that came back.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::admin::Refused;
use crate::server::keyring::{Keyring, Unimported};

/// A chain is some KiB.
const MAX_PEM: usize = 64 << 10;

/// The request to be signed.
pub async fn request(keyring: &Keyring, uid: u32) -> Result<Value, Refused> {
    let request = keyring
        .request()
        .await
        .map_err(|error| Refused::internal(&error))?;
    tracing::info!(uid, "an operator asks for a certificate signing request");
    Ok(json!({"csr": request}))
}

/// Takes the chain in.
pub async fn import(keyring: &Keyring, pem: &str, uid: u32) -> Result<Value, Refused> {
    let bad = |what: String| {
        let hint = "PEM: the signed certificate, then what lies between, then the organisation's root; made from the \
                    request of `hopguard ca csr`";
        Refused::new(what, hint)
    };
    if pem.len() > MAX_PEM {
        return Err(bad(format!("the chain is longer than {MAX_PEM} bytes")));
    }
    let mut chain = Vec::new();
    for one in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let one = one.map_err(|error| bad(format!("the chain is no PEM: {error}")))?;
        chain.extend_from_slice(&one);
    }
    if chain.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    let record = keyring
        .import(&chain, SystemTime::now())
        .await
        .map_err(|error| match error {
            Unimported::Chain(why) => bad(why),
            Unimported::NotNow(why) => {
                let hint = if why.contains("prepared") {
                    "`hopguard ca rotate` activates it, `hopguard ca rotate --abort` takes it out"
                } else {
                    "`hopguard ca csr` makes one, with the request to be signed"
                };
                Refused::new(why, hint)
            }
            Unimported::Failed(error) => Refused::internal(&error),
        })?;
    tracing::warn!(uid, authority = record.id, "an operator imports an authority");
    Ok(json!({"prepared": record.id, "not_after": record.not_after}))
}
