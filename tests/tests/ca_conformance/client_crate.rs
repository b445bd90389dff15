//! The crate `spiffe` as a client. Its own types decide what it can ask: a SPIFFE ID that is none, a call without the
//! security header and a method that it does not know are beyond it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};
use spiffe::transport::TransportError;
use spiffe::{JwtBundleSet, SpiffeId, WorkloadApiClient, WorkloadApiError, X509Svid};
use tokio::runtime::Runtime;
use tokio_stream::{Stream, StreamExt};

use crate::drivers::Driver;

const PATIENCE: Duration = Duration::from_secs(20);

pub struct Crate {
    runtime: Runtime,
    client: WorkloadApiClient,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

impl Crate {
    pub fn connect(endpoint: &str) -> Self {
        let runtime = runtime();
        let client = runtime.block_on(WorkloadApiClient::connect_to(endpoint)).unwrap();
        Self { runtime, client }
    }

    pub fn watch(endpoint: &str, what: &str) -> Receiver<Value> {
        let (sender, receiver) = channel();
        let (endpoint, x509) = (endpoint.to_owned(), what == "x509");
        std::thread::spawn(move || {
            runtime().block_on(async {
                let client = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
                if x509 {
                    let stream = client.stream_x509_contexts().await;
                    follow(
                        stream,
                        &sender,
                        |context| json!({"serials": serials(context.svids())}),
                    )
                    .await;
                } else {
                    follow(client.stream_jwt_bundles().await, &sender, |set| kids(&set)).await;
                }
            });
        });
        receiver
    }
}

/// Tells each message, and at last the end.
async fn follow<T>(
    stream: Result<impl Stream<Item = Result<T, WorkloadApiError>> + Unpin, WorkloadApiError>,
    sender: &Sender<Value>,
    tell: impl Fn(T) -> Value,
) {
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            let _nobody_listens = sender.send(told(&error));
            return;
        }
    };
    while let Some(message) = stream.next().await {
        let said = message.map_or_else(|error| told(&error), &tell);
        if sender.send(said).is_err() {
            return;
        }
    }
}

impl Driver for Crate {
    fn ask(&mut self, question: &Value) -> Value {
        let answer = async {
            match question["do"].as_str().unwrap() {
                "x509_svids" => self.client.fetch_all_x509_svids().await.map(|svids| {
                    let ids: Vec<_> = svids.iter().map(|svid| svid.spiffe_id().to_string()).collect();
                    json!({"ids": ids, "serials": serials(&svids)})
                }),
                "x509_bundles" => self.client.fetch_x509_bundles().await.map(|set| {
                    let domains: Vec<_> = set.iter().map(|(domain, _)| domain.id_string()).collect();
                    let keys: Vec<_> = set.iter().map(|(_, bundle)| bundle.authorities().len()).collect();
                    json!({"domains": domains, "keys": keys})
                }),
                "jwt_svids" => self.jwt_svids(question).await,
                "jwt_bundles" => self.client.fetch_jwt_bundles().await.map(|set| kids(&set)),
                "validate" => {
                    let text = |name: &str| question[name].as_str().unwrap();
                    let valid = self
                        .client
                        .validate_jwt_token(text("audience"), text("token"))
                        .await;
                    valid.map(|svid| json!({"id": svid.spiffe_id().to_string()}))
                }
                other => return json!({"client": format!("cannot ask for {other}")}),
            }
            .unwrap_or_else(|error| told(&error))
        };
        let patient = async { tokio::time::timeout(PATIENCE, answer).await };
        self.runtime.block_on(patient).expect("an answer in time")
    }
}

impl Crate {
    async fn jwt_svids(&self, question: &Value) -> Result<Value, WorkloadApiError> {
        let audience: Vec<&str> = question["audience"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let id = match question["id"].as_str().map(SpiffeId::new) {
            None => None,
            Some(Ok(id)) => Some(id),
            Some(Err(error)) => return Ok(json!({"client": error.to_string()})),
        };
        let svids = self.client.fetch_all_jwt_svids(audience, id.as_ref()).await?;
        let ids: Vec<_> = svids.iter().map(|svid| svid.spiffe_id().to_string()).collect();
        let tokens: Vec<_> = svids.iter().map(|svid| svid.token()).collect();
        let hints: Vec<_> = svids.iter().map(|svid| svid.hint().unwrap_or_default()).collect();
        Ok(json!({"ids": ids, "hints": hints, "tokens": tokens}))
    }
}

fn serials<T: std::borrow::Borrow<X509Svid>>(svids: &[T]) -> Vec<String> {
    let serial = |svid: &T| {
        let (_, leaf) = x509_parser::parse_x509_certificate(svid.borrow().leaf().as_bytes()).unwrap();
        leaf.raw_serial_as_string()
    };
    svids.iter().map(serial).collect()
}

fn kids(set: &JwtBundleSet) -> Value {
    let domains: Vec<_> = set.iter().map(|(domain, _)| domain.id_string()).collect();
    let mut kids: Vec<_> = set
        .iter()
        .flat_map(|(_, bundle)| bundle.jwt_authorities().map(|key| key.key_id().to_owned()))
        .collect();
    kids.sort();
    json!({"domains": domains, "kids": kids})
}

/// What the server said, in the names that gRPC gives its codes.
fn told(error: &WorkloadApiError) -> Value {
    match error {
        WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => {
            json!({"status": "PERMISSION_DENIED", "details": error.to_string()})
        }
        WorkloadApiError::Transport(TransportError::Status(status)) => {
            json!({"status": status.code().as_str().to_uppercase(), "details": status.message()})
        }
        _ => json!({"client": error.to_string()}),
    }
}
