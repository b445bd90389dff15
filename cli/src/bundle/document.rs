//! A trust bundle, read from any of its forms: a SPIFFE bundle document (SPIFFE Trust Domain and Bundle, section 4), PEM or
//! DER. What cannot be used is not trusted, and told (S-34, S-61).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hopguard_ca::endpoint::root_jwk;
use hopguard_jose::{Json, KeyPolicy, KeySet};
use hopguard_sidecar::identity::describe;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use spiffe::TrustDomain;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::svid::files;
use crate::ui::{Exit, Failure};

/// More keys than this are no bundle of one trust domain.
const MAX_KEYS: usize = 256;

/// A trust bundle of one trust domain.
#[derive(Debug)]
pub struct Bundle {
    /// Its roots.
    pub roots: Vec<Root>,
    /// The JWK Set of its JWT-SVIDs: keys with `use` `jwt-svid` alone.
    pub jwt_keys: Vec<u8>,
    /// The ids of those keys.
    pub kids: Vec<String>,
    /// Grows with each change (S-59).
    pub sequence: Option<u64>,
    /// How often it shall be fetched, in seconds (S-60).
    pub refresh_hint: Option<u64>,
    /// What is wrong with it; such keys are not trusted.
    pub problems: Vec<String>,
    /// Keys for other uses, or of kinds that are not known: passed over, and no fault (S-34).
    pub ignored: Vec<String>,
}

/// An X.509 root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The trust domain in its own ID, if it has one (S-13).
    pub domain: Option<TrustDomain>,
}

impl Bundle {
    /// Reads one from a file, or from stdin for `-`.
    pub fn open(file: &Path) -> Result<Self, Failure> {
        let bad = |problem: String| {
            Failure::new(format!("`{}`: {problem}", file.display()))
                .hint("a bundle is a SPIFFE bundle document, or certificates as PEM or DER")
                .exit(Exit::BadFile)
        };
        let bytes = files::read(file).map_err(|error| bad(error.to_string()))?;
        Self::parse(&bytes).map_err(bad)
    }

    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.trim_ascii_start().starts_with(b"{") {
            return document(bytes);
        }
        let mut bundle = Self::empty();
        for certificate in files::chain(bytes)? {
            bundle.add(certificate);
        }
        if bundle.roots.is_empty() {
            return Err(format!("no root in it: {}", bundle.problems.join("; ")));
        }
        Ok(bundle)
    }

    /// Of what a Workload API gave.
    pub fn of(roots: &[CertificateDer<'static>], jwt_keys: Option<&[u8]>) -> Result<Self, String> {
        let mut bundle = match jwt_keys {
            Some(keys) => document(keys)?,
            None => Self::empty(),
        };
        roots.iter().for_each(|root| bundle.add(root.clone()));
        Ok(bundle)
    }

    fn empty() -> Self {
        Self {
            roots: Vec::new(),
            jwt_keys: br#"{"keys":[]}"#.to_vec(),
            kids: Vec::new(),
            sequence: None,
            refresh_hint: None,
            problems: Vec::new(),
            ignored: Vec::new(),
        }
    }

    /// The trust domain that the roots name, when they all name the same.
    pub fn domain(&self) -> Option<&TrustDomain> {
        let first = self.roots.first()?.domain.as_ref()?;
        self.roots
            .iter()
            .all(|root| root.domain.as_ref() == Some(first))
            .then_some(first)
    }

    /// The trust domains that its roots name, each once; a root need not name one.
    pub fn named(&self) -> BTreeSet<&TrustDomain> {
        self.roots
            .iter()
            .filter_map(|root| root.domain.as_ref())
            .collect()
    }

    /// Nobody is trusted with it (S-61).
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.kids.is_empty()
    }

    /// What keeps it from being that of a trust domain. A root that names none is only known by its fingerprint.
    pub fn not_of(&self, wanted: &TrustDomain, fingerprints: bool) -> Vec<String> {
        let foreign = self.named().into_iter().any(|of| of != wanted);
        let foreign =
            foreign.then(|| "a root is of another trust domain than the one that was expected".to_owned());
        let silent = self.roots.iter().filter(|root| root.domain.is_none()).count();
        let unknown = match (silent, self.roots.len()) {
            (_, 0) => Some("it holds no X.509 root, and the keys of JWT-SVIDs do not say whose they are"),
            (1.., _) if !fingerprints => Some(
                "a root names no trust domain, so it may be of any: give the --fingerprint of each root, got on another way",
            ),
            _ => None,
        };
        foreign.into_iter().chain(unknown.map(str::to_owned)).collect()
    }

    /// Whether a bundle that was fetched may take the place of this one: of the same trust domain, and not an older one
    /// (S-59). If not, why, and what it may be.
    pub fn is_followed_by(&self, new: &Self) -> Result<(), (String, &'static str)> {
        let (mine, theirs) = (self.named(), new.named());
        let common = || {
            let keys = self.jwt_values();
            new.roots.iter().any(|root| self.roots.contains(root))
                || new.jwt_values().iter().any(|key| keys.contains(key))
        };
        let same = match mine.is_empty() || theirs.is_empty() {
            true => common(),
            false => mine == theirs,
        };
        if !same {
            let of = |named: &BTreeSet<&TrustDomain>| match named.first() {
                Some(domain) => format!("of {domain}"),
                None => "of a trust domain that its roots do not name".to_owned(),
            };
            let problem = format!(
                "it holds a bundle {}, and the endpoint serves one {} that cannot be told to be of the same",
                of(&mine),
                of(&theirs)
            );
            return Err((problem, "is it the right --url, and the right file?"));
        }
        match (self.sequence, new.sequence) {
            (Some(held), Some(new)) if new < held => Err((
                format!("it holds sequence {held}, and the endpoint serves the older {new}"),
                "is a backup served there?",
            )),
            (Some(held), None) => Err((
                format!("it holds sequence {held}, and the endpoint serves one without, which may be older"),
                "has the endpoint changed its software?",
            )),
            _ => Ok(()),
        }
    }

    fn add(&mut self, certificate: CertificateDer<'static>) {
        match root(&certificate) {
            Ok(domain) => {
                let root = Root { certificate, domain };
                if !self.roots.contains(&root) {
                    self.roots.push(root);
                }
            }
            Err(problem) => self.problems.push(problem),
        }
        let mixed = self.named().len() > 1;
        let problem = "its roots are of several trust domains";
        if mixed && !self.problems.iter().any(|known| known == problem) {
            self.problems.push(problem.to_owned());
        }
    }

    /// As a SPIFFE bundle document.
    pub fn to_spiffe(&self) -> Result<Value, String> {
        let roots = self
            .roots
            .iter()
            .map(|root| root_jwk(&root.certificate).map_err(|error| error.to_string()));
        let mut keys = roots.collect::<Result<Vec<_>, _>>()?;
        keys.extend(self.jwt_values());
        let mut document = json!({ "keys": keys });
        if let Some(members) = document.as_object_mut() {
            if let Some(sequence) = self.sequence {
                members.insert("spiffe_sequence".to_owned(), json!(sequence));
            }
            if let Some(hint) = self.refresh_hint {
                members.insert("spiffe_refresh_hint".to_owned(), json!(hint));
            }
        }
        Ok(document)
    }

    /// The JWT keys as any JWT library wants them.
    pub fn to_jwks(&self) -> Value {
        let mut keys = self.jwt_values();
        for key in &mut keys {
            if let Some(members) = key.as_object_mut() {
                members.insert("use".to_owned(), json!("sig"));
            }
        }
        json!({ "keys": keys })
    }

    fn jwt_values(&self) -> Vec<Value> {
        let set: Value = serde_json::from_slice(&self.jwt_keys).unwrap_or_default();
        set.get("keys")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    }

    /// For people and programs: what it holds, with what is compared out of band.
    pub fn summary(&self, now: SystemTime) -> Value {
        let roots = self.roots.iter().map(|root| {
            let said = describe(std::slice::from_ref(&root.certificate), now);
            json!({
                "sha256": fingerprint(&root.certificate),
                "trust_domain": root.domain.as_ref().map(TrustDomain::as_str),
                "serial": said.serial,
                "issuer": said.issuer,
                "key": said.key,
                "not_before": said.not_before,
                "not_after": said.not_after,
                "expires_in_seconds": said.expires_in_seconds,
            })
        });
        json!({
            "trust_domain": self.domain().map(TrustDomain::as_str),
            "sequence": self.sequence,
            "refresh_hint": self.refresh_hint,
            "x509_roots": roots.collect::<Vec<_>>(),
            "jwt_keys": self.kids.iter().map(|kid| json!({"kid": kid})).collect::<Vec<_>>(),
            "problems": self.problems,
            "ignored": self.ignored,
        })
    }
}

/// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` writes it.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let bytes: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

fn document(bytes: &[u8]) -> Result<Bundle, String> {
    // Strict first: a member that occurs twice would be read differently by two readers.
    let strict = Json::parse(bytes).map_err(|error| format!("not a bundle document: {error}"))?;
    let entries = match strict.as_object().and_then(|object| object.get("keys")) {
        Some(Json::Array(entries)) if entries.len() <= MAX_KEYS => entries.len(),
        Some(Json::Array(_)) => return Err(format!("more than {MAX_KEYS} keys")),
        _ => return Err("no array `keys`: not a bundle document".to_owned()),
    };
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut bundle = Bundle::empty();
    bundle.sequence = number(&value, "spiffe_sequence", &mut bundle.problems);
    bundle.refresh_hint = number(&value, "spiffe_refresh_hint", &mut bundle.problems);
    let mut tokens = Vec::new();
    for at in 0..entries {
        let entry = value.get("keys").and_then(|keys| keys.get(at));
        let Some(jwk) = entry.and_then(Value::as_object) else {
            bundle.problems.push(format!("key {at} is no object"));
            continue;
        };
        match (
            jwk.get("use").and_then(Value::as_str),
            jwk.get("kty").and_then(Value::as_str),
        ) {
            (None, _) => bundle.ignored.push(format!("key {at} has no `use`")),
            (_, None) => bundle.problems.push(format!("key {at} has no `kty`")),
            (Some("x509-svid"), _) => match x5c(jwk) {
                Ok(certificate) => bundle.add(certificate),
                Err(problem) => bundle.problems.push(format!("key {at}: {problem}")),
            },
            (Some("jwt-svid"), _) => tokens.push(Value::Object(jwk.clone())),
            (Some(usage), _) => bundle.ignored.push(format!("key {at} is for `{usage}`")),
        }
    }
    jwt(&mut bundle, tokens)?;
    Ok(bundle)
}

fn number(value: &Value, name: &str, problems: &mut Vec<String>) -> Option<u64> {
    let found = value.get(name)?;
    let number = found.as_u64();
    if number.is_none() {
        problems.push(format!("`{name}` is no whole number"));
    }
    number
}

/// Exactly one certificate (S-15).
fn x5c(jwk: &Map<String, Value>) -> Result<CertificateDer<'static>, String> {
    let texts = jwk
        .get("x5c")
        .and_then(Value::as_array)
        .ok_or("`x5c` is not there")?;
    let [one] = texts.as_slice() else {
        return Err(format!("`x5c` has {} certificates, not one", texts.len()));
    };
    let der = one.as_str().and_then(|text| STANDARD.decode(text).ok());
    der.map(CertificateDer::from)
        .ok_or_else(|| "`x5c` is no base64".to_owned())
}

/// The keys of JWT-SVIDs, as the verifier of tokens reads them; all have a `kid` (S-26).
fn jwt(bundle: &mut Bundle, keys: Vec<Value>) -> Result<(), String> {
    let mut named = Vec::new();
    for key in keys {
        if key
            .get("kid")
            .and_then(Value::as_str)
            .is_some_and(|kid| !kid.is_empty())
        {
            named.push(key);
        } else {
            bundle.problems.push("a key of JWT-SVIDs has no `kid`".to_owned());
        }
    }
    bundle.jwt_keys = json!({ "keys": named }).to_string().into_bytes();
    let set = KeySet::parse(&bundle.jwt_keys, &KeyPolicy::JWT_SVID).map_err(|error| error.to_string())?;
    bundle.kids = set.kids().map(str::to_owned).collect();
    for ignored in set.ignored() {
        let kid = ignored.kid.as_deref().unwrap_or("?");
        let said = format!("the JWT key `{kid}`: {}", ignored.reason);
        if ["unknown kty", "unknown crv"].contains(&ignored.reason) {
            bundle.ignored.push(said);
        } else {
            bundle.problems.push(said);
        }
    }
    Ok(())
}

/// A root is a certificate authority; where it has an ID, that of a trust domain without a path (S-13).
fn root(certificate: &CertificateDer<'_>) -> Result<Option<TrustDomain>, String> {
    let print = fingerprint(certificate);
    let short = print.get(..23).unwrap_or_default();
    let bad = |problem: &str| format!("the root {short}: {problem}");
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|error| bad(&error.to_string()))?;
    if !rest.is_empty() {
        return Err(bad("bytes after the certificate"));
    }
    if !parsed
        .basic_constraints()
        .is_ok_and(|found| found.is_none_or(|found| found.value.ca))
    {
        return Err(bad("it is no certificate authority"));
    }
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| bad("its names cannot be read"))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("spiffe:") => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [] => Ok(None),
        [uri] => {
            let domain = TrustDomain::new(uri)
                .ok()
                .filter(|domain| domain.id_string() == *uri);
            domain
                .map(Some)
                .ok_or_else(|| bad("its ID is not that of a trust domain"))
        }
        _ => Err(bad("it has several SPIFFE IDs")),
    }
}

#[cfg(test)]
mod tests;
