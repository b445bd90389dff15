//! `mesh.toml`: the tree of the file enters, the mesh as typed values leaves, or every problem that was found. It reads
//! no other file than those that it names, and publishes nothing.

mod running;

pub use running::load_mesh_after;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spiffe::{SpiffeId, TrustDomain};

use crate::request::Spellings;
use crate::services::{AppProtocol, Mode, Port, Protocol, Service};

use super::document::{At, Document, Section, Wrong, read_text};
use super::issuer::{MeshIssuer, issuers};
use super::problem::ConfigProblem;
use super::spellings::spellings;
use super::tokens::{TokenRules, token_rules};
use super::unique::Seen;
use super::{keys, shape, words};

/// The sidecar's ports unless `sidecar.toml` says otherwise: the application of a mesh service cannot have them.
const OWN_PORTS: [u16; 5] = [15001, 15006, 15008, 15020, 15021];

/// The mesh, as one file says it for all of its sidecars.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// The file that it was read from.
    pub file: PathBuf,
    /// The first 16 hex digits of the SHA-256 of the file: names the version in records and metrics.
    pub hash: String,
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// The services, in the order of the file.
    pub services: Vec<MeshService>,
    /// The workload groups.
    pub groups: Vec<MeshGroup>,
    /// The issuers of user tokens.
    pub issuers: Vec<MeshIssuer>,
    /// The request headers that policies see.
    pub headers: Vec<MeshHeader>,
    /// The line of each service's name.
    lines: BTreeMap<String, usize>,
}

/// A service and what policies know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshService {
    /// `namespace/name`.
    pub name: String,
    /// DNS names, in lower case, without a trailing dot.
    pub hosts: Vec<String>,
    /// Fixed addresses.
    pub addresses: Vec<IpAddr>,
    /// The identities of which it must prove one.
    pub spiffe_ids: Vec<SpiffeId>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Its declared routes.
    pub routes: Vec<MeshRoute>,
    /// How its ports and routes take user tokens.
    pub tokens: TokenRules,
}

/// A declared route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshRoute {
    /// Its name, unique in the service.
    pub name: String,
    /// Its methods, in capitals.
    pub methods: Vec<String>,
    /// Its template.
    pub path: String,
    /// What it lets into a path that is refused elsewhere.
    pub spellings: Spellings,
}

/// A workload group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshGroup {
    /// Its name.
    pub name: String,
    /// Exact SPIFFE IDs, or patterns: a segment `*` is any one, a last `**` one or more.
    pub patterns: Vec<String>,
}

/// A request header that policies see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshHeader {
    /// The name in policies.
    pub cedar_name: String,
    /// The name on the wire, in lower case.
    pub name: String,
    /// Whether values are split at commas.
    pub list: bool,
}

impl Mesh {
    /// The services as the room `services` takes them.
    pub fn services(&self) -> Vec<Service> {
        let services = self.services.iter().map(|service| Service {
            name: Arc::from(service.name.as_str()),
            hosts: service.hosts.clone(),
            addresses: service.addresses.clone(),
            spiffe_ids: service.spiffe_ids.clone().into(),
            ports: service.ports.clone(),
        });
        services.collect()
    }

    /// The service of this name.
    pub fn service(&self, name: &str) -> Option<&MeshService> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The exact identities of all services, and the patterns of all groups: the peers that the mesh knows.
    pub fn known_workloads(&self) -> impl Iterator<Item = String> + '_ {
        let exact = self
            .services
            .iter()
            .flat_map(|service| service.spiffe_ids.iter().map(SpiffeId::to_string));
        let patterns = self
            .groups
            .iter()
            .flat_map(|group| group.patterns.iter().cloned());
        exact.chain(patterns)
    }
}

/// Reads and checks a mesh file.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load_mesh(path: &Path) -> Result<Mesh, Vec<ConfigProblem>> {
    let text = read_text(path).map_err(|problem| vec![problem])?;
    parse_mesh(path, &text)
}

/// The same for text that is at hand; `path` is for messages and relative paths.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn parse_mesh(path: &Path, text: &str) -> Result<Mesh, Vec<ConfigProblem>> {
    let document = Document::new(path, text);
    let mesh = read(&document, text);
    sound(mesh, document.into_problems())
}

/// Reads a mesh file for a tool that needs none of the files that it names, such as a check of policies where the issuers'
/// CA files are not at hand. What is wrong with those comes beside it, as warnings.
///
/// # Errors
/// Everything that is wrong with the mesh file itself.
pub fn load_mesh_alone(path: &Path) -> Result<(Mesh, Vec<ConfigProblem>), Vec<ConfigProblem>> {
    let text = read_text(path).map_err(|problem| vec![problem])?;
    let document = Document::alone(path, &text);
    let mesh = read(&document, &text);
    let (problems, warnings) = document.into_problems_and_warnings();
    Ok((sound(mesh, problems)?, warnings))
}

fn sound(mesh: Option<Mesh>, problems: Vec<ConfigProblem>) -> Result<Mesh, Vec<ConfigProblem>> {
    match mesh {
        Some(mesh) if problems.is_empty() => match mesh.problem_of_the_model() {
            None => Ok(mesh),
            Some(problem) => Err(vec![problem]),
        },
        _ => Err(problems),
    }
}

fn read(document: &Document, text: &str) -> Option<Mesh> {
    let root = document.parse(text)?;
    shape::check(document, root.get_ref(), keys::MESH, (0..0, ""));
    let section = Section::root(document, &root);
    let trust_domain = section.parsed("trust_domain", words::trust_domain);
    let services = services(&section);
    no_address_twice(document, &services);
    let line = |at: &At<MeshService>| (at.value.name.clone(), document.line(&at.span));
    Some(Mesh {
        file: document.file.clone(),
        hash: super::digest(text.as_bytes()),
        lines: services.iter().map(line).collect(),
        services: services.into_iter().map(|at| at.value).collect(),
        groups: groups(&section),
        issuers: issuers(&section),
        headers: headers(&section),
        // Last, so that the others are checked when it is missing.
        trust_domain: trust_domain?.value,
    })
}

fn services(root: &Section<'_, '_>) -> Vec<At<MeshService>> {
    let mut names = Seen::new(root.document, "the service");
    let mut services = Vec::new();
    for section in root.tables("service") {
        let name = section.parsed("name", words::service_name);
        if let Some(name) = &name {
            names.insert(&name.value, &name.span);
        }
        let service = MeshService {
            name: name.as_ref().map(|at| at.value.clone()).unwrap_or_default(),
            hosts: Seen::all(&section, "hosts", words::host),
            addresses: Seen::all(&section, "addresses", words::address),
            spiffe_ids: Seen::all(&section, "spiffe_ids", words::spiffe_id),
            ports: ports(&section),
            routes: routes(&section),
            tokens: token_rules(&section, name.as_ref().map_or("", |at| at.value.as_str())),
        };
        complete(&section, &service);
        services.push(At {
            value: service,
            span: name.map_or(section.span, |at| at.span),
        });
    }
    services
}

fn complete(section: &Section<'_, '_>, service: &MeshService) {
    let document = section.document;
    let callable = !section.tables("port").is_empty();
    if callable && section.texts("hosts").is_empty() && section.texts("addresses").is_empty() {
        document.add(
            section.span.clone(),
            format!(
                "the service `{}` has ports, but neither `hosts` nor `addresses`",
                service.name
            ),
            Some("say where it is: hosts = [\"orders\"] or addresses = [\"10.77.0.12\"]".to_owned()),
        );
    }
    if section.has("spiffe_ids") && section.texts("spiffe_ids").is_empty() {
        document.add(
            section.span.clone(),
            format!(
                "the service `{}` has no identity that it could prove",
                service.name
            ),
            Some("put at least one SPIFFE ID into `spiffe_ids`".to_owned()),
        );
    }
    let speaks_http = service.ports.iter().any(|port| port.protocol == Protocol::Http);
    // A port that could not be read may be the one.
    let all_read = service.ports.len() == section.tables("port").len();
    if let Some(route) = section.tables("route").first()
        && callable
        && all_read
        && !speaks_http
    {
        document.add(
            route.span.clone(),
            format!(
                "the service `{}` declares routes, but none of its ports is `http`",
                service.name
            ),
            Some("set `protocol = \"http\"` on the port, or take the routes out".to_owned()),
        );
    }
}

fn ports(service: &Section<'_, '_>) -> Vec<Port> {
    let mut seen = Seen::new(service.document, "the port");
    let mut ports = Vec::new();
    for section in service.tables("port") {
        let Some(number) = section.integer("port") else {
            continue;
        };
        let protocol = choice(
            &section,
            "protocol",
            &[("http", Protocol::Http), ("opaque", Protocol::Opaque)],
        );
        let modes = [
            ("strict", Mode::Strict),
            ("permissive", Mode::Permissive),
            ("public", Mode::Public),
        ];
        let mode = choice(&section, "mode", &modes);
        let app = app_protocol(&section, protocol);
        match port_number(number.value) {
            Err(wrong) => service.document.wrong(number.span, wrong),
            Ok(port) => {
                seen.insert(&port.to_string(), &number.span);
                ports.push(Port {
                    port,
                    protocol: protocol.unwrap_or(Protocol::Http),
                    mode: mode.unwrap_or(Mode::Strict),
                    app: app.unwrap_or_default(),
                });
            }
        }
    }
    ports
}

/// On an opaque port it would say nothing.
fn app_protocol(section: &Section<'_, '_>, protocol: Option<Protocol>) -> Option<AppProtocol> {
    let versions = [
        ("auto", AppProtocol::Auto),
        ("http1", AppProtocol::Http1),
        ("http2", AppProtocol::Http2),
    ];
    let app = choice(section, "app_protocol", &versions)?;
    if protocol == Some(Protocol::Opaque) {
        section.document.add(
            section.span.clone(),
            "`app_protocol` on an opaque port, which is not read as HTTP".to_owned(),
            Some("take it out, or set `protocol = \"http\"`".to_owned()),
        );
    }
    Some(app)
}

fn port_number(number: i64) -> Result<u16, Wrong> {
    match u16::try_from(number) {
        Ok(0) | Err(_) => Err(Wrong::new(
            format!("{number} is not a port"),
            "write a number from 1 to 65535",
        )),
        Ok(port) if OWN_PORTS.contains(&port) => Err(Wrong::new(
            format!("the port {port} is the sidecar's own"),
            "the application must listen on another port than 15001, 15006, 15008, 15020, 15021",
        )),
        Ok(port) => Ok(port),
    }
}

/// One of a few words; what is none of them is recorded.
pub(super) fn choice<T: Copy>(section: &Section<'_, '_>, key: &str, words: &[(&str, T)]) -> Option<T> {
    let parsed = section.parsed(key, |text| {
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value);
        found.ok_or_else(|| {
            let names: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let near = shape::nearest(text, words.iter().map(|(word, _)| *word));
            let hint = match near {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("write {}", names.join(" or ")),
            };
            Wrong::new(
                format!("`{}` is not a value of `{key}`", shape::shown(text)),
                hint,
            )
        })
    });
    parsed.map(|at| at.value)
}

fn routes(service: &Section<'_, '_>) -> Vec<MeshRoute> {
    let document = service.document;
    let mut names = Seen::new(document, "the route");
    let mut shapes = Seen::new(document, "the method and path");
    let mut routes = Vec::new();
    for section in service.tables("route") {
        let name = section.parsed("name", |text| words::label("a route", text));
        let path = section.parsed("path", words::template);
        let methods: Vec<String> = Seen::all(&section, "methods", words::method);
        if section.has("methods") && section.texts("methods").is_empty() {
            document.add(
                section.span.clone(),
                "the route has no method",
                Some("write methods = [\"GET\"]".to_owned()),
            );
        }
        let (Some(name), Some(path)) = (name, path) else {
            continue;
        };
        names.insert(&name.value, &name.span);
        for method in &methods {
            shapes.insert(&format!("{method} {}", anonymous(&path.value)), &path.span);
        }
        routes.push(MeshRoute {
            name: name.value,
            methods,
            path: path.value,
            spellings: spellings(&section),
        });
    }
    routes
}

/// The template with its parameters' names taken out: two that are equal then match the same requests.
fn anonymous(template: &str) -> String {
    let segments = template.split('/').map(|segment| {
        if segment.starts_with('{') && segment != "{**}" {
            "{}"
        } else {
            segment
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

/// One place with two identities: what DNS may bring about later is refused here when the file alone says it.
fn no_address_twice(document: &Document, services: &[At<MeshService>]) {
    let mut places: BTreeMap<(String, u16), &At<MeshService>> = BTreeMap::new();
    for at in services {
        let service = &at.value;
        let hosts = service.hosts.iter().cloned();
        let names = hosts.chain(service.addresses.iter().map(IpAddr::to_string));
        for (name, port) in
            names.flat_map(|name| service.ports.iter().map(move |port| (name.clone(), port.port)))
        {
            let other = *places.entry((name.clone(), port)).or_insert(at);
            if !std::ptr::eq(other, at) && !same_expectation(&other.value, service, port) {
                document.add(
                    at.span.clone(),
                    format!(
                        "`{}` and `{}` (line {}) are both at `{name}` port {port}, with different SPIFFE IDs or protocols",
                        service.name,
                        other.value.name,
                        document.line(&other.span)
                    ),
                    Some("a connection there could not know whom to expect: give each a place of its own".to_owned()),
                );
            }
        }
    }
}

fn same_expectation(a: &MeshService, b: &MeshService, port: u16) -> bool {
    let ids = |service: &MeshService| {
        let mut ids: Vec<String> = service.spiffe_ids.iter().map(SpiffeId::to_string).collect();
        ids.sort_unstable();
        ids
    };
    let protocol = |service: &MeshService| {
        let port = service.ports.iter().find(|p| p.port == port);
        port.map(|port| port.protocol)
    };
    ids(a) == ids(b) && protocol(a) == protocol(b)
}

fn groups(root: &Section<'_, '_>) -> Vec<MeshGroup> {
    let Some(section) = root.table("groups") else {
        return Vec::new();
    };
    let groups = section.names().into_iter().filter_map(|name| {
        let patterns = Seen::all(&section, name.value, words::pattern);
        let name = checked(root.document, name, |text| words::label("a group", text))?;
        Some(MeshGroup { name, patterns })
    });
    groups.collect()
}

fn headers(root: &Section<'_, '_>) -> Vec<MeshHeader> {
    let Some(section) = root.table("headers") else {
        return Vec::new();
    };
    let mut seen = Seen::new(root.document, "the header");
    let mut headers = Vec::new();
    for key in section.names() {
        let Some(header) = section.table(key.value) else {
            continue;
        };
        let name = header.parsed("name", words::header_name);
        if let Some(name) = &name {
            seen.insert(&name.value, &name.span);
        }
        let cedar_name = checked(root.document, key, |text| words::identifier("a header", text));
        if let (Some(cedar_name), Some(name)) = (cedar_name, name) {
            headers.push(MeshHeader {
                cedar_name,
                name: name.value,
                list: header.boolean("list").is_some_and(|at| at.value),
            });
        }
    }
    headers
}

/// What `parse` makes of a key that the operator chose; what it does not accept is recorded.
pub(super) fn checked<T>(
    document: &Document,
    at: At<&str>,
    parse: impl Fn(&str) -> Result<T, Wrong>,
) -> Option<T> {
    let span: Range<usize> = at.span;
    match parse(at.value) {
        Ok(value) => Some(value),
        Err(wrong) => {
            document.wrong(span, wrong);
            None
        }
    }
}

#[cfg(test)]
mod tests;
