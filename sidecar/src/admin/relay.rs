//! Probes of the application, from those who stand outside of the mesh: the kubelet asks in plaintext, which the
//! application's own ports refuse. A path that was configured enters, a question to the application follows, and whether it
//! is well leaves, but nothing of what it said. No other path, port or header can be asked for.

mod ask;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::dial::DialOptions;

use super::serve::{Answer, Route};

/// The longest text that is read, in bytes.
const MAX_TEXT: usize = 128 * 1024;
const MAX_PROBES: usize = 256;
const MAX_HEADERS: usize = 64;
/// The longest that one may take: less than a connection as a whole, see [`Bounds::relay`].
///
/// [`Bounds::relay`]: super::serve::Bounds::relay
const MAX_SECONDS: u64 = 60;
/// Where all of them are.
const PREFIX: &str = "/app-health/";

/// The probes that may be relayed, by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppProbes(BTreeMap<String, AppProbe>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct AppProbe {
    question: Question,
    timeout: Duration,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    Http {
        port: u16,
        path: Uri,
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    Tcp {
        port: u16,
    },
    Grpc {
        port: u16,
        service: String,
    },
}

/// Why the probes cannot be taken. The fault is the configuration's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppProbesError {
    /// It is not of the form that is wanted.
    #[error("{0}")]
    Form(String),
    /// One of them is wrong.
    #[error("`{path}`: {message}")]
    Probe {
        /// Its path.
        path: String,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProbe {
    http: Option<RawHttp>,
    tcp: Option<RawTcp>,
    grpc: Option<RawGrpc>,
    timeout_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    port: u16,
    path: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTcp {
    port: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrpc {
    port: u16,
    #[serde(default)]
    service: String,
}

impl FromStr for AppProbes {
    type Err = AppProbesError;

    fn from_str(text: &str) -> Result<Self, AppProbesError> {
        let form = |message: String| AppProbesError::Form(message);
        if text.len() > MAX_TEXT {
            return Err(form(format!("longer than {MAX_TEXT} bytes")));
        }
        let raw: BTreeMap<String, RawProbe> =
            serde_json::from_str(text).map_err(|error| form(error.to_string()))?;
        if raw.len() > MAX_PROBES {
            return Err(form(format!("more than {MAX_PROBES} probes")));
        }
        let mut probes = BTreeMap::new();
        for (path, raw) in raw {
            let probe = if path.starts_with(PREFIX) {
                probe(raw)
            } else {
                Err(format!("it must be below {PREFIX}"))
            };
            match probe {
                Ok(probe) => probes.insert(path, probe),
                Err(message) => return Err(AppProbesError::Probe { path, message }),
            };
        }
        Ok(Self(probes))
    }
}

fn probe(raw: RawProbe) -> Result<AppProbe, String> {
    let question = match (raw.http, raw.tcp, raw.grpc) {
        (Some(http), None, None) => question_http(http)?,
        (None, Some(RawTcp { port }), None) => Question::Tcp { port },
        (None, None, Some(RawGrpc { port, service })) => {
            if service.len() > 1024 {
                return Err("the name of the gRPC service is longer than 1024 bytes".to_owned());
            }
            Question::Grpc { port, service }
        }
        _ => return Err("one of `http`, `tcp` and `grpc` is wanted".to_owned()),
    };
    if question.port() == 0 {
        return Err("a port is not 0".to_owned());
    }
    Ok(AppProbe {
        question,
        timeout: Duration::from_secs(raw.timeout_seconds.clamp(1, MAX_SECONDS)),
    })
}

fn question_http(raw: RawHttp) -> Result<Question, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("`{}` is no path: {error}", raw.path);
    if !raw.path.starts_with('/') || raw.path.starts_with("//") {
        return Err(wrong(&"it begins with one `/`"));
    }
    let path: Uri = raw.path.parse().map_err(|error| wrong(&error))?;
    if raw.headers.len() > MAX_HEADERS {
        return Err(format!("more than {MAX_HEADERS} headers"));
    }
    let mut headers = Vec::new();
    for (name, value) in &raw.headers {
        let name = HeaderName::from_str(name).map_err(|error| format!("the header `{name}`: {error}"))?;
        // What frames a request is not the probe's to say.
        if [
            http::header::CONTENT_LENGTH,
            http::header::TRANSFER_ENCODING,
            http::header::UPGRADE,
        ]
        .contains(&name)
        {
            return Err(format!("the header `{name}` is not for probes"));
        }
        let value = HeaderValue::from_str(value).map_err(|error| format!("the header `{name}`: {error}"))?;
        headers.push((name, value));
    }
    Ok(Question::Http {
        port: raw.port,
        path,
        headers,
    })
}

impl Question {
    fn port(&self) -> u16 {
        let (Self::Http { port, .. } | Self::Tcp { port } | Self::Grpc { port, .. }) = self;
        *port
    }
}

/// Asks the application what was configured, and never the same twice at once: however many ask here, it is asked as often
/// as it has probes.
#[derive(Debug)]
pub struct Relay {
    probes: BTreeMap<String, (AppProbe, Mutex<Option<Known>>)>,
    mark: Option<u32>,
}

/// The answer to a question that was begun then.
#[derive(Clone, Debug)]
struct Known {
    begun: Instant,
    found: Result<(), String>,
}

impl Relay {
    /// A relay of these, whose connections carry `mark`.
    pub fn new(probes: AppProbes, mark: Option<u32>) -> Self {
        let probes = probes.0.into_iter();
        Self {
            probes: probes
                .map(|(path, probe)| (path, (probe, Mutex::new(None))))
                .collect(),
            mark,
        }
    }

    async fn ask(&self, path: &str, here: IpAddr) -> Option<Result<(), String>> {
        let (probe, known) = self.probes.get(path)?;
        let came = Instant::now();
        let mut known = known.lock().await;
        // Whoever had to wait may have the answer to a question that was begun since.
        if let Some(known) = known.as_ref().filter(|known| known.begun >= came) {
            return Some(known.found.clone());
        }
        let begun = Instant::now();
        let dial = DialOptions {
            mark: self.mark,
            timeout: probe.timeout,
        };
        let asked = ask::ask(&probe.question, here, &dial);
        let found = tokio::time::timeout(probe.timeout, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", probe.timeout)));
        if let Err(why) = &found {
            tracing::debug!(path, why, "the application is not well");
        }
        *known = Some(Known {
            begun,
            found: found.clone(),
        });
        Some(found)
    }
}

impl Route for Arc<Relay> {
    fn knows(&self, path: &str) -> bool {
        self.probes.contains_key(path)
    }

    /// The application is asked at the address at which the question came, as it would have been without a sidecar.
    async fn answer(&self, path: &str, here: Option<IpAddr>) -> Option<Answer> {
        Some(match self.ask(path, here?.to_canonical()).await? {
            Ok(()) => Answer::json(StatusCode::OK, &json!({"well": true})),
            Err(why) => Answer::json(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({"well": false, "why": why}),
            ),
        })
    }
}

#[cfg(test)]
mod tests;
