//! Certificates and keys in files: PEM and DER are read, PEM is written, and a new file takes the place of an old one whole.

use std::fs::{Metadata, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::geteuid;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

/// A chain is a few KiB.
const MAX_INPUT: u64 = 1 << 20;
const MAX_CHAIN: usize = 64;
/// Only its owner may rename what lies in such a folder.
const STICKY: u32 = 0o1000;

/// A whole file, or stdin for `-`.
pub fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(file)?
            .take(MAX_INPUT + 1)
            .read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > MAX_INPUT {
        return Err(std::io::Error::other(format!(
            "it is larger than {MAX_INPUT} bytes"
        )));
    }
    Ok(bytes)
}

/// All certificates of a PEM file (other sections are passed over), or DER one after the other.
pub fn chain(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = bytes.windows(11).any(|window| window == b"-----BEGIN ");
    let chain = if pem {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
        read.map_err(|error| format!("bad PEM: {error}"))?
    } else {
        concatenated(bytes)?
    };
    match chain.len() {
        0 => Err("there is no certificate in it".to_owned()),
        count if count > MAX_CHAIN => Err(format!("more than {MAX_CHAIN} certificates are no chain")),
        _ => Ok(chain),
    }
}

fn concatenated(mut bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut chain = Vec::new();
    while !bytes.is_empty() && chain.len() <= MAX_CHAIN {
        let (rest, _) =
            X509Certificate::from_der(bytes).map_err(|_| "neither PEM nor DER certificates".to_owned())?;
        let (one, _) = bytes.split_at(bytes.len() - rest.len());
        chain.push(CertificateDer::from(one.to_vec()));
        bytes = rest;
    }
    Ok(chain)
}

/// Whether nobody but root and this user can put a file of his own into a folder, or another folder in its place.
pub fn guarded(dir: &Path, found: &Metadata) -> Result<(), String> {
    let trusted = |found: &Metadata| [0, geteuid().as_raw()].contains(&found.uid());
    if found.mode() & 0o022 != 0 || !trusted(found) {
        let place = dir.display();
        return Err(format!(
            "`{place}`: other users could put a key of theirs into it"
        ));
    }
    let said = |error: std::io::Error| format!("`{}`: {error}", dir.display());
    let real = dir.canonicalize().map_err(said)?;
    let name = std::path::absolute(dir).map_err(said)?;
    // Where the folder lies, and where its name does, which may be a link.
    for parent in [real.parent(), name.parent()].into_iter().flatten() {
        let found = std::fs::metadata(parent).map_err(said)?;
        let open = found.mode() & 0o002 != 0 && found.mode() & STICKY == 0;
        if open || !trusted(&found) {
            return Err(format!(
                "`{}`: other users could put another folder in its place, because of `{}`",
                dir.display(),
                parent.display()
            ));
        }
    }
    Ok(())
}

/// A new file takes the place of an old one whole, and has its mode from the start.
pub fn replace(path: &Path, mode: u32, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    let done = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path));
    if done.is_err() {
        let _left = std::fs::remove_file(&temporary);
    }
    done
}

/// A chain as PEM.
pub fn certificates(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
}

/// A private key as PEM, PKCS#8: nothing of it stays in memory when it is dropped.
pub fn key_pem(der: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(pem("PRIVATE KEY", der))
}

/// RFC 7468: 64 characters a line. The room is reserved beforehand: a text that grew would leave copies behind.
fn pem(label: &str, der: &[u8]) -> String {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut pem = String::with_capacity(room(label, &text));
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str(&format!("\n-----END {label}-----\n"));
    pem
}

/// Enough for the text, a line end behind each 64 characters, and both marks.
fn room(label: &str, text: &str) -> usize {
    text.len() + text.len() / 64 + 2 * label.len() + 64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_chain_is_read_from_pem_and_from_der() {
        let (first, second) = (certificate("a"), certificate("b"));
        let both = vec![first.clone(), second.clone()];
        assert_eq!(
            chain(&[first.to_vec(), second.to_vec()].concat()),
            Ok(both.clone())
        );
        let text = format!(
            "note\n{}{}{}",
            pem("PRIVATE KEY", b"x"),
            pem("CERTIFICATE", &first),
            pem("CERTIFICATE", &second)
        );
        assert_eq!(chain(text.as_bytes()), Ok(both));
        for bad in [
            &b""[..],
            b"garbage",
            b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        ] {
            assert!(chain(bad).is_err());
        }
        assert!(chain(&first.repeat(65)).is_err());
    }

    #[test]
    fn pem_has_lines_of_64_characters() {
        let text = pem("CERTIFICATE", &[7; 100]);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert!(text.ends_with("\n-----END CERTIFICATE-----\n"));
    }

    #[test]
    fn a_key_is_written_without_leaving_a_copy_behind() {
        // The type wipes what it holds; a string that had to grow would have left its former half in memory.
        for size in [1, 47, 48, 49, 138, 1 << 14] {
            let der = vec![7; size];
            let text: Zeroizing<String> = key_pem(&der);
            assert!(
                text.len() <= room("PRIVATE KEY", &STANDARD.encode(&der)),
                "{size}"
            );
            assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        }
    }
}
