//! The values of `sidecar.toml`: sections enter, settings within their bounds leave; what is out of bounds is recorded.
//! It opens no socket; of the files that are named it reads those whose content must be known.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::assertion::AssertionOptions;
use crate::observe::{JournalOutput, UserKey, UserMode};

use super::document::{At, Document, Section, Wrong, read_bytes, unread};
use super::issuer::certificates;
use super::mesh::choice;
use super::problem::ConfigProblem;
use super::sidecar::{
    Egress, Given, Inbound, Limits, Log, Outbound, PublicTls, Sidecar, SidecarIdentity, Traffic, WhichSvid,
};
use super::unique::Seen;
use super::{keys, shape, words};

pub(super) fn read(document: &Document, text: &str, given: &Given) -> Option<Sidecar> {
    let root = document.parse(text)?;
    shape::check(document, root.get_ref(), keys::SIDECAR, (0..0, ""));
    let root = Section::root(document, &root);
    let path = |key: &str, default: &str| {
        let at = root.text(key);
        document.resolve(at.map_or(default, |at| at.value))
    };
    let service = given.service_of(&root);
    let (outbound, inbound) = (outbound(&root), inbound(&root));
    let assertion = assertion(&root, service.as_deref().unwrap_or_default());
    let health = listen(&root, "health", 15021);
    let metrics = listen(&root, "metrics", 15020);
    let keys = assertion.as_ref().map(|assertion| assertion.port);
    no_port_twice(&root, (&outbound, &inbound), (&metrics, &health), keys);
    let (metrics, health) = (metrics.value, health.value);
    Some(Sidecar {
        file: document.file.clone(),
        mesh: path("mesh", "mesh.toml"),
        policies: path("policies", "policies"),
        shadow_policies: root.text("shadow_policies").map(|at| document.resolve(at.value)),
        addresses: Seen::all(&root, "addresses", words::address),
        identity: identity(&root),
        outbound,
        inbound,
        assertion,
        traffic: traffic(&root),
        health,
        metrics,
        admin: admin(&root),
        denials: counted(&root, ("admin", "denials"), 2_048, 0..=100_000),
        log: log(&root),
        limits: limits(&root),
        drain_timeout: timed(&root, ("drain", "timeout"), 30_000, 0..=3_600_000),
        // Last, so that the others are checked when it is missing.
        service: service?,
        probe_port: given.probe_port,
    })
}

fn identity(root: &Section<'_, '_>) -> SidecarIdentity {
    let Some(section) = root.table("identity") else {
        return SidecarIdentity {
            workload_api: None,
            which: WhichSvid::OfTheService,
        };
    };
    let document = root.document;
    let endpoint = section.parsed("workload_api", |text| endpoint(document, text));
    let id = section.parsed("spiffe_id", words::spiffe_id);
    let hint = section.parsed("hint", |text| words::plain_text("a hint", text));
    if let (Some(_), Some(hint)) = (&id, &hint) {
        document.add(
            hint.span.clone(),
            "`hint` and `spiffe_id` are both set",
            Some("keep the one by which the SVID is to be found".to_owned()),
        );
    }
    SidecarIdentity {
        workload_api: endpoint.map(|at| at.value),
        which: match (id, hint) {
            (Some(id), _) => WhichSvid::Id(id.value),
            (None, Some(hint)) => WhichSvid::Hint(hint.value),
            (None, None) => WhichSvid::OfTheService,
        },
    }
}

/// SPIFFE Workload Endpoint, section 4: `unix:///path` without authority, `tcp://IP:port` without path. A bare path is
/// ours, so that a set of files can name a socket beside them.
fn endpoint(document: &Document, text: &str) -> Result<String, Wrong> {
    let wrong = || {
        Wrong::new(
            format!("`{}` is not a Workload API endpoint", shape::shown(text)),
            "write \"unix:///run/hopguard/workload.sock\", \"tcp://127.0.0.1:8000\", or the path of a socket",
        )
    };
    if text.is_empty() || text.contains(['?', '#']) || text.chars().any(char::is_control) {
        return Err(wrong());
    }
    if let Some(address) = text.strip_prefix("tcp://") {
        let address: SocketAddr = address.parse().map_err(|_| wrong())?;
        return if address.port() == 0 {
            Err(wrong())
        } else {
            Ok(text.to_owned())
        };
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.starts_with('/') {
            Ok(format!("unix://{path}"))
        } else {
            Err(wrong())
        };
    }
    if text.contains("://") {
        return Err(wrong());
    }
    let path = std::path::absolute(document.resolve(text)).map_err(|_| wrong())?;
    Ok(format!("unix://{}", path.display()))
}

fn outbound(root: &Section<'_, '_>) -> Outbound {
    let section = root.table("outbound");
    let egress = section
        .as_ref()
        .and_then(|s| choice(s, "egress", &[("deny", Egress::Deny), ("plain", Egress::Plain)]));
    Outbound {
        port: port(root, "outbound", "port", 15001),
        egress: egress.unwrap_or(Egress::Deny),
    }
}

fn inbound(root: &Section<'_, '_>) -> Inbound {
    Inbound {
        port: port(root, "inbound", "port", 15006),
        hbone_port: port(root, "inbound", "hbone_port", 15008),
        detect_timeout: timed(root, ("inbound", "detect_timeout"), 5_000, 100..=60_000),
        public: root.table("inbound").and_then(|section| public(&section)),
    }
}

fn assertion(root: &Section<'_, '_>, service: &str) -> Option<AssertionOptions> {
    let section = root.table("assertion")?;
    let audience = section.parsed("audience", |text| words::plain_text("an audience", text));
    Some(AssertionOptions {
        port: port(root, "assertion", "port", 15024),
        audience: audience.map_or_else(|| service.to_owned(), |at| at.value),
        ttl: timed(root, ("assertion", "ttl"), 30_000, 5_000..=300_000),
        request: section.boolean("request").is_some_and(|at| at.value),
    })
}

fn public(section: &Section<'_, '_>) -> Option<PublicTls> {
    let document = section.document;
    let (certificate, key) = (section.text("public_certificate"), section.text("public_key"));
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return None,
        (Some(at), None) | (None, Some(at)) => {
            document.add(
                at.span,
                "`public_certificate` and `public_key` belong together",
                Some("set both or neither".to_owned()),
            );
            return None;
        }
    };
    let tls = PublicTls {
        certificate: document.resolve(certificate.value),
        key: document.resolve(key.value),
    };
    if let Err(problem) = certificates(&tls.certificate) {
        document.other(certificate.span, problem);
    }
    if let Err(problem) = private_key(&tls.key) {
        document.other(key.span, problem);
    }
    Some(tls)
}

/// What the files of `public` ports hold: certificates, and the key.
pub type PublicPair = (Vec<u8>, Zeroizing<Vec<u8>>);

/// Reads the files of `public` ports, each once, and checks them as when the settings are read.
///
/// # Errors
/// What is wrong with the first of them.
pub fn read_public(files: &PublicTls) -> Result<PublicPair, ConfigProblem> {
    Ok((certificates(&files.certificate)?, private_key(&files.key)?))
}

fn private_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigProblem> {
    let bytes = secret(path)?;
    let read = PrivateKeyDer::from_pem_slice(&bytes).map(drop).map_err(|error| {
        ConfigProblem::whole(
            path,
            format!("holds no private key in PEM form: {error}"),
            "it must hold one unencrypted `PRIVATE KEY` block",
        )
    });
    read.map(|()| bytes)
}

/// The content of a file that must not be readable for everyone.
pub(super) fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigProblem> {
    let bytes = Zeroizing::new(read_bytes(path)?);
    let metadata = std::fs::metadata(path).map_err(|error| unread(path, &error))?;
    let mode = metadata.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(ConfigProblem::whole(
            path,
            format!(
                "holds a secret, but other users have rights to it (mode {:04o})",
                mode & 0o7777
            ),
            "chmod 0600, or 0640 with a group of its own",
        ));
    }
    Ok(bytes)
}

fn traffic(root: &Section<'_, '_>) -> Traffic {
    let section = root.table("traffic");
    let mark = section.as_ref().and_then(|section| section.integer("mark"));
    let mark = mark.and_then(|at| {
        let mark = u32::try_from(at.value).ok().filter(|mark| *mark != 0);
        if mark.is_none() {
            root.document.add(
                at.span,
                format!("{} is not a mark", at.value),
                Some("write a number from 1 to 4294967295, the same as the redirect's".to_owned()),
            );
        }
        mark
    });
    let probe = section.as_ref().and_then(|section| section.boolean("probe"));
    Traffic {
        mark,
        // What is not said is not given up.
        probe: probe.is_none_or(|at| at.value),
    }
}

fn admin(root: &Section<'_, '_>) -> PathBuf {
    let at = root.table("admin").and_then(|section| section.text("socket"));
    let path = at.as_ref().map_or("/run/hopguard/admin.sock", |at| at.value);
    let path = root.document.resolve(path);
    // sun_path holds 108 bytes with the terminating NUL (unix(7)).
    if let Some(at) = at
        && path.as_os_str().len() > 107
    {
        root.document.add(
            at.span,
            "the path of the socket is longer than 107 bytes",
            Some("unix sockets cannot have longer ones: choose a shorter path".to_owned()),
        );
    }
    path
}

fn log(root: &Section<'_, '_>) -> Log {
    let Some(section) = root.table("log") else {
        return Log {
            output: JournalOutput::Stdout,
            user: UserMode::Hash(None),
            record_inputs: true,
        };
    };
    let document = root.document;
    let key = section.text("hash_key_file");
    let user = choice(&section, "user", &[("hash", 0), ("plain", 1), ("none", 2)]);
    let user = match user {
        Some(1) => UserMode::Plain,
        Some(2) => UserMode::None,
        _ => UserMode::Hash(key.as_ref().and_then(|at| hash_key(document, at))),
    };
    if let (Some(key), UserMode::Plain | UserMode::None) = (key, &user) {
        document.add(
            key.span,
            "`hash_key_file` is set, but users are not hashed",
            Some("set `user = \"hash\"`, or take the key file out".to_owned()),
        );
    }
    let output = match section.text("output").map(|at| at.value) {
        None | Some("stdout") => JournalOutput::Stdout,
        Some(path) => JournalOutput::File(document.resolve(path)),
    };
    let record_inputs = section.boolean("record_inputs").is_none_or(|at| at.value);
    Log {
        output,
        user,
        record_inputs,
    }
}

fn hash_key(document: &Document, at: &At<&str>) -> Option<UserKey> {
    let path = document.resolve(at.value);
    let key = secret(&path).and_then(|bytes| {
        UserKey::new(&bytes).map_err(|error| {
            ConfigProblem::whole(
                &path,
                error.to_string(),
                "make one: head -c 32 /dev/urandom > user-hash.key; chmod 0600 user-hash.key",
            )
        })
    });
    match key {
        Ok(key) => Some(key),
        Err(problem) => {
            document.other(at.span.clone(), problem);
            None
        }
    }
}

fn limits(root: &Section<'_, '_>) -> Limits {
    let number = |key: &str, default: usize, range: RangeInclusive<usize>| {
        counted(root, ("limits", key), default, range)
    };
    let time = |key: &'static str, default: u64, range: RangeInclusive<u64>| {
        timed(root, ("limits", key), default, range)
    };
    Limits {
        connections: number("connections", 20_000, 1..=1_000_000),
        head_bytes: number("head_bytes", 32_768, 1_024..=1_048_576),
        headers: number("headers", 100, 1..=1_000),
        head_timeout: time("head_timeout", 10_000, 100..=300_000),
        idle_timeout: time("idle_timeout", 300_000, 1_000..=86_400_000),
        opaque_idle_timeout: time("opaque_idle_timeout", 3_600_000, 1_000..=604_800_000),
        connect_timeout: time("connect_timeout", 5_000, 100..=300_000),
        tunnel_max_age: time("tunnel_max_age", 600_000, 1_000..=86_400_000),
        streams_per_tunnel: number("streams_per_tunnel", 1_000, 1..=100_000),
    }
}

fn counted(
    root: &Section<'_, '_>,
    (table, key): (&str, &str),
    default: usize,
    range: RangeInclusive<usize>,
) -> usize {
    let Some(at) = root.table(table).and_then(|section| section.integer(key)) else {
        return default;
    };
    match usize::try_from(at.value) {
        Ok(number) if range.contains(&number) => number,
        _ => {
            let hint = format!("write a number from {} to {}", range.start(), range.end());
            root.document.add(
                at.span,
                format!("{} is not possible for `{key}`", at.value),
                Some(hint),
            );
            default
        }
    }
}

/// A duration in milliseconds with its bounds.
fn timed(
    root: &Section<'_, '_>,
    (table, key): (&str, &str),
    default: u64,
    range: RangeInclusive<u64>,
) -> Duration {
    let parsed = root.table(table).and_then(|section| {
        section.parsed(key, |text| {
            let duration = words::duration(text)?;
            let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            if range.contains(&millis) {
                return Ok(duration);
            }
            let bound = |millis: &u64| words::duration_text(Duration::from_millis(*millis));
            Err(Wrong::new(
                format!("{} is not possible for `{key}`", shape::shown(text)),
                format!(
                    "write a time from {} to {}",
                    bound(range.start()),
                    bound(range.end())
                ),
            ))
        })
    });
    parsed.map_or(Duration::from_millis(default), |at| at.value)
}

fn port(root: &Section<'_, '_>, table: &str, key: &str, default: u16) -> u16 {
    let Some(at) = root.table(table).and_then(|section| section.integer(key)) else {
        return default;
    };
    match u16::try_from(at.value) {
        Ok(port) if port != 0 => port,
        _ => {
            root.document.add(
                at.span,
                format!("{} is not a port", at.value),
                Some("write a number from 1 to 65535, the same as the redirect's".to_owned()),
            );
            default
        }
    }
}

fn listen(root: &Section<'_, '_>, table: &str, default: u16) -> At<SocketAddr> {
    let parsed = root.table(table).and_then(|section| {
        section.parsed("listen", |text| {
            text.parse::<SocketAddr>().map_err(|_| {
                Wrong::new(
                    format!("`{}` is not an address with a port", shape::shown(text)),
                    format!(
                        "write \"[::]:{default}\" for all interfaces, \"127.0.0.1:{default}\" for loopback"
                    ),
                )
            })
        })
    });
    parsed.unwrap_or(At {
        value: SocketAddr::new(IpAddr::from([0u16; 8]), default),
        span: 0..0,
    })
}

fn no_port_twice(
    root: &Section<'_, '_>,
    (outbound, inbound): (&Outbound, &Inbound),
    (metrics, health): (&At<SocketAddr>, &At<SocketAddr>),
    keys: Option<u16>,
) {
    let span = |table: &str, key: &str| {
        let at = root.table(table).and_then(|section| section.integer(key));
        at.map_or(0..0, |at| at.span)
    };
    let mut seen: BTreeMap<u16, (&str, Range<usize>)> = BTreeMap::new();
    let keys = keys.map(|port| ("assertion.port", port, span("assertion", "port")));
    let fixed = [
        ("outbound.port", outbound.port, span("outbound", "port")),
        ("inbound.port", inbound.port, span("inbound", "port")),
        (
            "inbound.hbone_port",
            inbound.hbone_port,
            span("inbound", "hbone_port"),
        ),
        ("metrics.listen", metrics.value.port(), metrics.span.clone()),
        ("health.listen", health.value.port(), health.span.clone()),
    ];
    for (name, port, span) in fixed.into_iter().chain(keys) {
        let Some((other, first)) = seen.get(&port) else {
            seen.insert(port, (name, span));
            continue;
        };
        // Port 0 lets the system choose, which is never twice the same.
        if port == 0 {
            continue;
        }
        // One of the two may be a default, which stands nowhere: at least one is in the file.
        let said = |span: &Range<usize>| match span.is_empty() {
            true => "its default".to_owned(),
            false => format!("line {}", root.document.line(span)),
        };
        let message = format!(
            "the port {port} is both `{other}` ({}) and `{name}` ({})",
            said(first),
            said(&span)
        );
        let place = if span.is_empty() { first.clone() } else { span };
        let hint = "each of the sidecar's listeners needs a port of its own: change one of the two";
        root.document.add(place, message, Some(hint.to_owned()));
    }
}
