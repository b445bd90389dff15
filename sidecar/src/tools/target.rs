//! Names that people write for services and peers: a word enters, the service of the mesh or the peer's identity leaves,
//! or a sentence that says what there is.

use std::net::IpAddr;

use spiffe::SpiffeId;

use crate::config::{Mesh, MeshService};
use crate::services::{Port, Protocol};

/// What is asked of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A request: method, and path with its query.
    Request {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// A connection.
    Connection,
}

/// A service of the mesh and a port of it.
#[derive(Clone, Debug)]
pub struct Target<'m> {
    /// The service.
    pub service: &'m MeshService,
    /// The port.
    pub port: Port,
    /// The host of the service by which it was named, if it was.
    pub host: Option<String>,
    /// What is asked.
    pub asked: Asked,
}

impl<'m> Target<'m> {
    /// Reads `METHOD service[:port]/path`, `OPTIONS service[:port]*`, or `connect service:port`. A service is named in full,
    /// by its last part, or by one of its hosts; `http://` before it changes nothing.
    ///
    /// # Errors
    /// What is wrong, with the names that there are.
    pub fn parse(mesh: &'m Mesh, method: &str, text: &str) -> Result<Self, String> {
        let plain = ["http://", "https://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .unwrap_or(text);
        if plain == "*" {
            return Err(
                "`*` asks about a whole server, and does not say which: write `OPTIONS SERVICE*`".to_owned(),
            );
        }
        let (service, rest) = named(mesh, plain)?;
        let name = plain.strip_suffix(rest).unwrap_or(plain);
        let host = service.hosts.iter().find(|host| *host == name).cloned();
        let (port, path) = match rest.strip_prefix(':') {
            None => (None, rest),
            Some(rest) => {
                let end = rest.find(['/', '?', '*']).unwrap_or(rest.len());
                let (port, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
                let port: u16 = port
                    .parse()
                    .map_err(|_| format!("`{port}` in `{text}` is no port"))?;
                (Some(port), path)
            }
        };
        let connect = method == "connect";
        let wanted = if connect { Protocol::Opaque } else { Protocol::Http };
        let port = port_of(service, port, wanted)?;
        let asked = if connect {
            if !path.is_empty() {
                return Err(format!(
                    "a connection has no path: write `connect {}`",
                    service.name
                ));
            }
            Asked::Connection
        } else {
            // The one target without a path (RFC 9112 3.2.4).
            let slash = if path.starts_with('/') || path == "*" {
                ""
            } else {
                "/"
            };
            Asked::Request {
                method: method.to_owned(),
                path: format!("{slash}{path}"),
            }
        };
        Ok(Self {
            service,
            port,
            host,
            asked,
        })
    }
}

/// The service that a text begins with, and what follows its name.
fn named<'m, 't>(mesh: &'m Mesh, text: &'t str) -> Result<(&'m MeshService, &'t str), String> {
    let after = |name: &str| {
        let rest = text.strip_prefix(name)?;
        (rest.is_empty() || rest == "*" || rest.starts_with(['/', ':', '?'])).then_some(rest)
    };
    let mut found: Vec<(usize, &MeshService, &str)> = Vec::new();
    for service in &mesh.services {
        let last = service.name.rsplit('/').next().unwrap_or_default();
        let names = [service.name.as_str(), last].into_iter();
        let names = names.chain(service.hosts.iter().map(String::as_str));
        // The longest name says the most: `shop/web` before a service `x/shop` with a path `/web`.
        let longest = names.filter_map(|name| Some((name.len(), after(name)?))).max();
        found.extend(longest.map(|(length, rest)| (length, service, rest)));
    }
    let most = found.iter().map(|(length, ..)| *length).max();
    found.retain(|(length, ..)| Some(*length) == most);
    match found.as_slice() {
        [(_, service, rest)] => Ok((service, rest)),
        [] => {
            let all: Vec<&str> = mesh
                .services
                .iter()
                .map(|service| service.name.as_str())
                .collect();
            Err(format!(
                "`{text}` begins with no service of {}; there are: {}",
                mesh.file.display(),
                all.join(", ")
            ))
        }
        several => {
            let names: Vec<&str> = several
                .iter()
                .map(|(_, service, _)| service.name.as_str())
                .collect();
            Err(format!(
                "`{text}` can be each of {}: name one in full",
                names.join(", ")
            ))
        }
    }
}

fn port_of(service: &MeshService, wanted: Option<u16>, protocol: Protocol) -> Result<Port, String> {
    let label = protocol.label();
    let all: Vec<String> = service
        .ports
        .iter()
        .map(|port| format!("{} ({})", port.port, port.protocol.label()))
        .collect();
    let has = match all.as_slice() {
        [] => "it has none".to_owned(),
        _ => format!("it has {}", all.join(", ")),
    };
    let mut fitting = service
        .ports
        .iter()
        .filter(|port| port.protocol == protocol && wanted.is_none_or(|wanted| wanted == port.port));
    match (fitting.next(), fitting.next()) {
        (Some(port), None) => Ok(*port),
        (Some(_), Some(_)) => Err(format!(
            "`{}` has several {label} ports: name one, as in `{0}:PORT`; {has}",
            service.name
        )),
        (None, _) => Err(format!("`{}` has no such {label} port; {has}", service.name)),
    }
}

/// The peer that a text names: `plaintext`, a SPIFFE ID, or a service of the mesh, by its first identity. With it, the
/// address that it is known to have.
///
/// # Errors
/// What is wrong, with the names that there are.
pub fn peer(mesh: &Mesh, text: &str) -> Result<(Option<SpiffeId>, Option<IpAddr>), String> {
    if text == "plaintext" {
        return Ok((None, None));
    }
    if text.starts_with("spiffe://") {
        let id = SpiffeId::new(text).map_err(|error| format!("`{text}` is no SPIFFE ID: {error}"))?;
        let known = mesh
            .services
            .iter()
            .find(|service| service.spiffe_ids.contains(&id));
        let address = known.and_then(|service| service.addresses.first());
        return Ok((Some(id), address.copied()));
    }
    let (service, rest) = named(mesh, text)?;
    if !rest.is_empty() {
        return Err(format!(
            "`{text}` is no caller: name a service, a SPIFFE ID, or `plaintext`"
        ));
    }
    let id = service
        .spiffe_ids
        .first()
        .ok_or_else(|| format!("`{}` has no identity that it could prove", service.name))?;
    Ok((Some(id.clone()), service.addresses.first().copied()))
}
