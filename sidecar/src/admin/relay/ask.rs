//! One question to the application: a probe and an address of this pod enter, whether it is well leaves. Of an answer only
//! its status is looked at.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;

use crate::dial::{DialOptions, connect};

use super::Question;

/// The largest answer of a gRPC health service, in bytes.
const MAX_ANSWER: usize = 4096;
const AGENT: HeaderValue = HeaderValue::from_static("hopguard-probe");

/// Asks; a failure is told in words of ours.
pub(super) async fn ask(question: &Question, here: IpAddr, dial: &DialOptions) -> Result<(), String> {
    let address = SocketAddr::new(here, question.port());
    let stream = connect(address, dial)
        .await
        .map_err(|error| format!("port {}: {}", address.port(), kind(&error)))?;
    match question {
        Question::Tcp { .. } => Ok(()),
        Question::Http { path, headers, .. } => {
            let status = get(stream, address, path, headers).await?;
            // As the kubelet takes it.
            if (200..400).contains(&status) {
                Ok(())
            } else {
                Err(format!("status {status}"))
            }
        }
        Question::Grpc { service, .. } => check(stream, address, service).await,
    }
}

fn kind(error: &io::Error) -> String {
    error.kind().to_string()
}

async fn get(
    stream: TcpStream,
    address: SocketAddr,
    path: &Uri,
    headers: &[(http::HeaderName, HeaderValue)],
) -> Result<u16, String> {
    let broken = |_: hyper::Error| "the answer is no HTTP".to_owned();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = path.clone();
    let all = request.headers_mut();
    let host = HeaderValue::try_from(address.to_string()).map_err(|error| error.to_string())?;
    all.insert(HOST, host);
    all.insert(USER_AGENT, AGENT);
    let mut own = HeaderMap::new();
    for (name, value) in headers {
        own.append(name, value.clone());
    }
    // What the probe says replaces what we say.
    all.extend(own);
    all.insert(CONNECTION, HeaderValue::from_static("close"));
    let answer = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        Ok(answer.status().as_u16())
    };
    driven(answer, connection).await
}

/// The answer, while its connection is driven. When that ends the answer has come, or never will.
async fn driven<T>(
    answer: impl Future<Output = Result<T, String>>,
    connection: impl Future,
) -> Result<T, String> {
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        _ = connection => {}
    }
    answer.await
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

async fn check(stream: TcpStream, address: SocketAddr, service: &str) -> Result<(), String> {
    let broken = |_: h2::Error| "the answer is no HTTP/2".to_owned();
    let (sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    let answer = async {
        let mut sender = sender.ready().await.map_err(broken)?;
        let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, AGENT)
            .body(())
            .map_err(|error| error.to_string())?;
        let (answer, mut body) = sender.send_request(request, false).map_err(broken)?;
        body.send_data(framed(service), true).map_err(broken)?;
        let answer = answer.await.map_err(broken)?;
        serving(answer).await
    };
    driven(answer, connection).await
}

/// A gRPC message: not compressed, its length, itself.
fn framed(service: &str) -> Bytes {
    let message = HealthRequest {
        service: service.to_owned(),
    };
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).unwrap_or_default());
    framed.extend_from_slice(&message.encode_to_vec());
    framed.freeze()
}

async fn serving(answer: http::Response<h2::RecvStream>) -> Result<(), String> {
    let broken = |_: h2::Error| "the answer is no HTTP/2".to_owned();
    let (head, mut body) = answer.into_parts();
    if head.status != 200 {
        return Err(format!("status {}", head.status.as_u16()));
    }
    let mut bytes = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(broken)?;
        body.flow_control().release_capacity(part.len()).map_err(broken)?;
        bytes.extend_from_slice(&part);
        if bytes.len() > MAX_ANSWER {
            return Err("the answer is too long".to_owned());
        }
    }
    let trailers = body.trailers().await.map_err(broken)?.unwrap_or(head.headers);
    let code = trailers
        .get("grpc-status")
        .and_then(|code| code.to_str().ok()?.parse::<u16>().ok());
    match code {
        Some(0) => {}
        Some(code) => return Err(format!("gRPC status {code}")),
        None => return Err("the answer is no gRPC".to_owned()),
    }
    let message = bytes.get(5..).unwrap_or_default();
    match HealthResponse::decode(message) {
        Ok(HealthResponse { status: SERVING }) => Ok(()),
        Ok(HealthResponse { status }) => Err(format!("gRPC health {status}, not SERVING")),
        Err(_) => Err("the answer is no health of gRPC".to_owned()),
    }
}
