//! The issuers of `mesh.toml`: tables enter, typed values leave. It never fetches anything.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::claim_paths::{claim_path, claim_paths};
use super::document::{At, Document, Section, Wrong, read_bytes};
use super::introspection::{Prefixes, introspection};
use super::mesh::{checked, choice};
use super::problem::ConfigProblem;
use super::unique::Seen;
use super::{shape, words};
use crate::authn::{ClaimPath, IntrospectionOptions, IssuerKind};

const MAX_LEEWAY: Duration = Duration::from_secs(60);
const DEFAULT_LEEWAY: Duration = Duration::from_secs(5);

/// The signature algorithms that a user token may have (RFC 7518 3.1, RFC 8037 3.1), by their registered names.
pub const ALGORITHMS: [&str; 10] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
];

/// An issuer of user tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshIssuer {
    /// The name by which policies, records and metrics call it.
    pub alias: String,
    /// What its tokens are.
    pub kind: IssuerKind,
    /// The exact `iss` of its tokens; of JWT-SVIDs the ID of the trust domain.
    pub issuer: String,
    /// A token must be for one of these.
    pub audiences: Vec<String>,
    /// The algorithms accepted, each one of [`ALGORITHMS`]; never empty.
    pub algorithms: Vec<&'static str>,
    /// Where the keys are; `None`: found by discovery.
    pub jwks_uri: Option<String>,
    /// Roots for this issuer alone.
    pub ca_file: Option<PathBuf>,
    /// Whether plain http may be used for loopback addresses.
    pub allow_http_loopback: bool,
    /// Clock difference forgiven.
    pub leeway: Duration,
    /// Paths of the claims that become roles.
    pub roles: Vec<ClaimPath>,
    /// The roles that policies may name.
    pub role_names: Vec<String>,
    /// The claims that policies see.
    pub claims: Vec<MeshClaim>,
    /// How it is asked about tokens that are no JWT.
    pub introspection: Option<IntrospectionOptions>,
}

/// A claim that policies see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshClaim {
    /// The name in policies.
    pub name: String,
    /// The path in the token.
    pub path: ClaimPath,
    /// The type.
    pub kind: MeshClaimKind,
}

/// The type of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeshClaimKind {
    /// One text.
    String,
    /// A set of texts.
    Strings,
    /// A whole number.
    Long,
    /// True or false.
    Bool,
}

const CLAIM_KINDS: [(&str, MeshClaimKind); 4] = [
    ("string", MeshClaimKind::String),
    ("strings", MeshClaimKind::Strings),
    ("long", MeshClaimKind::Long),
    ("bool", MeshClaimKind::Bool),
];

pub(super) fn issuers(root: &Section<'_, '_>) -> Vec<MeshIssuer> {
    let mut seen = Across {
        aliases: Seen::new(root.document, "the alias"),
        urls: Seen::new(root.document, "the issuer"),
        claims: BTreeMap::new(),
        prefixes: Prefixes::default(),
        own_domain: root.text("trust_domain").map(|at| at.value.to_owned()),
    };
    let issuers = root.tables("issuer");
    issuers
        .iter()
        .filter_map(|section| issuer(section, &mut seen))
        .collect()
}

/// What must agree across issuers: policies see one type for a claim, whoever issued the token.
struct Across<'d> {
    aliases: Seen<'d>,
    urls: Seen<'d>,
    claims: BTreeMap<String, (MeshClaimKind, usize)>,
    prefixes: Prefixes,
    own_domain: Option<String>,
}

const KINDS: [(&str, IssuerKind); 2] = [
    ("provider", IssuerKind::Provider),
    ("jwt-svid", IssuerKind::JwtSvid),
];

fn issuer<'d>(section: &Section<'d, '_>, seen: &mut Across<'d>) -> Option<MeshIssuer> {
    let http = section.boolean("allow_http_loopback").is_some_and(|at| at.value);
    let alias = section.parsed("alias", |text| words::label("an issuer", text));
    let kind = choice(section, "kind", &KINDS).unwrap_or(IssuerKind::Provider);
    let url = match kind {
        IssuerKind::Provider => provider(section, http),
        IssuerKind::JwtSvid => trust_domain(section, seen.own_domain.as_deref()),
    };
    let jwks_uri = section.parsed("jwks_uri", |text| words::url(text, http));
    if let Some(alias) = &alias {
        seen.aliases.insert(&alias.value, &alias.span);
    }
    if let Some(url) = &url {
        seen.urls.insert(&url.value, &url.span);
    }
    not_empty(
        section,
        "audiences",
        "a token must be for someone: audiences = [\"shop\"]",
    );
    not_empty(
        section,
        "algorithms",
        "leave the key out for all that are supported",
    );
    let algorithms = Seen::all(section, "algorithms", algorithm);
    let leeway = section.parsed("leeway", leeway);
    Some(MeshIssuer {
        audiences: Seen::all(section, "audiences", |text| {
            words::plain_text("an audience", text)
        }),
        algorithms: if algorithms.is_empty() {
            ALGORITHMS.to_vec()
        } else {
            algorithms
        },
        jwks_uri: jwks_uri.map(|at| at.value),
        ca_file: section
            .text("ca_file")
            .and_then(|at| ca_file(section.document, &at)),
        allow_http_loopback: http,
        leeway: leeway.map_or(DEFAULT_LEEWAY, |at| at.value),
        roles: claim_paths(section, "roles"),
        role_names: Seen::all(section, "role_names", |text| words::plain_text("a role", text)),
        claims: claims(section, seen),
        introspection: introspection(section, http, &mut seen.prefixes),
        kind,
        alias: alias?.value,
        issuer: url?.value,
    })
}

/// The URL of a provider.
fn provider<'d>(section: &Section<'d, '_>, http: bool) -> Option<At<String>> {
    let document = section.document;
    if let Some(value) = section.value("trust_domain") {
        document.add(
            value.span(),
            "`trust_domain` is not for a provider",
            Some("take it out, or set `kind = \"jwt-svid\"`".to_owned()),
        );
    }
    if !section.has("issuer") {
        document.add(
            section.span.clone(),
            "`issuer` is missing",
            Some("write the provider's URL, as its tokens carry it in `iss`".to_owned()),
        );
    }
    section.parsed("issuer", |text| issuer_url(text, http))
}

/// The trust domain of JWT-SVIDs, as the ID that stands for its issuer.
fn trust_domain(section: &Section<'_, '_>, own: Option<&str>) -> Option<At<String>> {
    for key in [
        "issuer",
        "jwks_uri",
        "ca_file",
        "allow_http_loopback",
        "introspection",
    ] {
        if let Some(value) = section.value(key) {
            section.document.add(
                value.span(),
                format!("`{key}` is not for JWT-SVIDs"),
                Some("take it out: their keys come from the Workload API".to_owned()),
            );
        }
    }
    let id = |text: &str| words::trust_domain(text).map(|domain| domain.id_string());
    if section.has("trust_domain") {
        return section.parsed("trust_domain", id);
    }
    // One that is wrong is told where it stands.
    let value = id(own?).ok()?;
    let span = section.span.clone();
    Some(At { value, span })
}

fn issuer_url(text: &str, http: bool) -> Result<String, Wrong> {
    let url = words::url(text, http)?;
    // OpenID Connect Core 1.0, section 1.2: an issuer has neither query nor fragment.
    if url.contains('?') {
        return Err(Wrong::new(
            format!("`{}` has a query, so it is not an issuer", shape::shown(text)),
            "write it as the provider's discovery document says under `issuer`",
        ));
    }
    Ok(url)
}

fn not_empty(section: &Section<'_, '_>, key: &str, hint: &str) {
    let list = section.value(key).and_then(|value| value.get_ref().as_array());
    if let (Some(list), Some(value)) = (list, section.value(key))
        && list.is_empty()
    {
        section
            .document
            .add(value.span(), format!("`{key}` is empty"), Some(hint.to_owned()));
    }
}

fn algorithm(text: &str) -> Result<&'static str, Wrong> {
    let found = ALGORITHMS.into_iter().find(|name| *name == text);
    found.ok_or_else(|| {
        let message = format!("`{}` is not a signature algorithm for user tokens", shape::shown(text));
        if text.eq_ignore_ascii_case("none") || text.to_ascii_uppercase().starts_with("HS") {
            return Wrong::new(
                message,
                "an unsigned token proves nothing, and a shared secret would let every sidecar sign: use RS, PS, ES or EdDSA",
            );
        }
        match shape::nearest(&text.to_ascii_uppercase(), ALGORITHMS.into_iter()) {
            Some(near) => Wrong::new(message, format!("did you mean `{near}`?")),
            None => Wrong::new(message, format!("one of {}", ALGORITHMS.join(", "))),
        }
    })
}

fn leeway(text: &str) -> Result<Duration, Wrong> {
    let leeway = words::duration(text)?;
    if leeway > MAX_LEEWAY {
        return Err(Wrong::new(
            format!(
                "a leeway of {} keeps expired tokens valid for too long",
                shape::shown(text)
            ),
            "at most 60s; better, let the clocks be synchronized",
        ));
    }
    Ok(leeway)
}

fn ca_file(document: &Document, at: &At<&str>) -> Option<PathBuf> {
    let path = document.resolve(at.value);
    match certificates(&path) {
        Ok(_) => Some(path),
        // Somebody who needs it does not come this far.
        Err(problem) => {
            document.other(at.span.clone(), problem);
            Some(path)
        }
    }
}

/// A PEM file with certificates; at least one, and each one readable.
pub(super) fn certificates(path: &std::path::Path) -> Result<Vec<u8>, ConfigProblem> {
    let bytes = read_bytes(path)?;
    let hint = "it must hold one or more `-----BEGIN CERTIFICATE-----` blocks";
    let mut none = true;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate
            .map_err(|error| ConfigProblem::whole(path, format!("is not a PEM file: {error}"), hint))?;
        webpki::anchor_from_trusted_cert(&certificate).map_err(|error| {
            ConfigProblem::whole(
                path,
                format!("holds a certificate that cannot be read: {error}"),
                hint,
            )
        })?;
        none = false;
    }
    if none {
        return Err(ConfigProblem::whole(path, "holds no certificate", hint));
    }
    Ok(bytes)
}

fn claims<'d>(section: &Section<'d, '_>, seen: &mut Across<'d>) -> Vec<MeshClaim> {
    let Some(table) = section.table("claims") else {
        return Vec::new();
    };
    let document = section.document;
    let mut claims = Vec::new();
    for key in table.names() {
        let Some(claim) = table.table(key.value) else {
            continue;
        };
        let (path, kind) = (claim_path(&claim, "path"), choice(&claim, "type", &CLAIM_KINDS));
        let span = key.span.clone();
        let name = checked(document, key, |text| words::identifier("a claim", text));
        let (Some(name), Some(path), Some(kind)) = (name, path, kind) else {
            continue;
        };
        let (first, line) = *seen
            .claims
            .entry(name.clone())
            .or_insert((kind, document.line(&span)));
        if first != kind {
            document.add(
                span,
                format!("the claim `{name}` has another type than in line {line}"),
                Some(
                    "policies see one type for a claim, whoever issued the token: rename one of them"
                        .to_owned(),
                ),
            );
        }
        claims.push(MeshClaim { name, path, kind });
    }
    claims
}
