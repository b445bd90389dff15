//! A client that sends exactly what it is told to: a [`Shot`] enters, what came back leaves as a [`Flight`]. It asks nobody who he is,
//! and repairs nothing.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Anyone, wire};

/// One connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shot {
    /// Where to, `10.0.0.1:8080`.
    pub to: String,
    /// How.
    pub via: Via,
    /// Who: PEM, or a folder of an SVID in the pod.
    pub who: Who,
    /// What is sent, in hexadecimal, one piece after the other; each waits until what came back holds its text.
    pub pieces: Vec<(String, String)>,
    /// When it is over.
    pub until: Until,
}

/// What lies below the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// Mutual TLS on the port, ALPN `http/1.1`.
    Mtls,
    /// The same with ALPN `h2`.
    MtlsH2,
    /// A CONNECT stream to the port, through port 15008.
    Hbone,
    /// Nothing.
    Plain,
}

/// Whose certificate is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Who {
    /// `svid.0.pem` and `svid.0.key` in this folder.
    Folder(String),
    /// A chain and a key, PEM.
    Pem(String, String),
    /// Nobody.
    Nobody,
}

/// When a connection has said enough.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Until {
    /// Whole answers to requests of these methods came, or the other end closed.
    Answers(Vec<String>),
    /// The other end closed.
    Closed,
    /// HTTP/2: these streams have ended, or the other end closed.
    Streams(Vec<u32>),
}

/// What became of a shot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flight {
    /// What came back, in hexadecimal.
    pub got: String,
    /// `enough`, `closed`, `reset`, `silence`, or what went wrong before anything was sent.
    pub end: String,
}

impl Flight {
    /// What came back.
    pub fn bytes(&self) -> Vec<u8> {
        hex::decode(&self.got).unwrap_or_default()
    }

    /// The whole answers in it.
    pub fn answers(&self, methods: &[&str]) -> Vec<wire::Answer> {
        let methods: Vec<String> = methods.iter().map(|text| (*text).to_owned()).collect();
        wire::answers(&self.bytes(), &methods, self.end == "closed")
    }
}

/// How long the other end may be silent.
const SILENCE: Duration = Duration::from_secs(12);

type Failure = Box<dyn std::error::Error + Send + Sync>;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Opens a connection, sends, and waits for what comes back.
pub async fn shoot(shot: &Shot) -> Flight {
    let mut got = Vec::new();
    let opened = match tokio::time::timeout(SILENCE, open(shot)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no connection in time".to_owned()),
    };
    let end = match opened {
        Err(error) => error,
        Ok(mut stream) => match talk(&mut stream, shot, &mut got).await {
            Ok(end) => end.to_owned(),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => "silence".to_owned(),
            // An end without `close_notify` is an end on purpose, too.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => "reset".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => "reset".to_owned(),
            Err(error) => error.to_string(),
        },
    };
    Flight {
        got: hex::encode(got),
        end,
    }
}

async fn talk(stream: &mut Box<dyn Stream>, shot: &Shot, got: &mut Vec<u8>) -> io::Result<&'static str> {
    for (piece, wait) in &shot.pieces {
        while !wait.is_empty() && !got.windows(wait.len()).any(|window| window == wait.as_bytes()) {
            if !more(stream, got).await? {
                return Ok("closed");
            }
        }
        let bytes = hex::decode(piece).map_err(io::Error::other)?;
        // Whoever refuses may have closed by now; what it said is still to be read.
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
    while !enough(&shot.until, got) {
        if !more(stream, got).await? {
            return Ok("closed");
        }
    }
    Ok("enough")
}

async fn more(stream: &mut Box<dyn Stream>, got: &mut Vec<u8>) -> io::Result<bool> {
    let reading = tokio::time::timeout(SILENCE, stream.read_buf(got));
    Ok(reading.await.map_err(|_| io::ErrorKind::TimedOut)?? > 0)
}

fn enough(until: &Until, got: &[u8]) -> bool {
    match until {
        Until::Answers(methods) => wire::answers(got, methods, false).len() == methods.len(),
        Until::Closed => false,
        Until::Streams(streams) => streams.iter().all(|stream| crate::frames::ended(got, *stream)),
    }
}

async fn open(shot: &Shot) -> Result<Box<dyn Stream>, Failure> {
    let host = shot.to.rsplit_once(':').map_or("", |(host, _)| host);
    let address = if shot.via == Via::Hbone {
        format!("{host}:15008")
    } else {
        shot.to.clone()
    };
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    if shot.via == Via::Plain {
        return Ok(Box::new(tcp));
    }
    let alpn: &[u8] = if shot.via == Via::Mtls { b"http/1.1" } else { b"h2" };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config(&shot.who, alpn)?));
    let tls = connector
        .connect(ServerName::try_from("peer.invalid")?, tcp)
        .await
        .map_err(|error| format!("tls: {error}"))?;
    if shot.via != Via::Hbone {
        return Ok(Box::new(tls));
    }
    let (mut client, connection) = h2::client::handshake(tls).await?;
    tokio::spawn(connection);
    let request = http::Request::builder()
        .method("CONNECT")
        .uri(shot.to.as_str())
        .body(())?;
    let (response, send) = client.send_request(request, false)?;
    let response = response.await?;
    if response.status() != 200 {
        return Err(format!("tunnel: {}", response.status()).into());
    }
    let (mine, theirs) = tokio::io::duplex(256 * 1024);
    tokio::spawn(pump(theirs, send, response.into_body()));
    Ok(Box::new(mine))
}

/// Moves bytes between the two ends until either is over.
async fn pump(ours: tokio::io::DuplexStream, mut send: h2::SendStream<Bytes>, mut receive: h2::RecvStream) {
    let (mut read, mut write) = tokio::io::split(ours);
    let up = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            let mut left = Bytes::copy_from_slice(&buffer[..length]);
            while !left.is_empty() {
                send.reserve_capacity(left.len());
                let Some(Ok(room)) = poll_fn(|cx| send.poll_capacity(cx)).await else {
                    return;
                };
                if send
                    .send_data(left.split_to(room.min(left.len())), false)
                    .is_err()
                {
                    return;
                }
            }
        }
    };
    let down = async {
        while let Some(Ok(piece)) = receive.data().await {
            let _counted = receive.flow_control().release_capacity(piece.len());
            if write.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _closed = write.shutdown().await;
    };
    // The answer may still come when the other end takes no more.
    tokio::join!(up, down);
}

fn config(who: &Who, alpn: &[u8]) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config = match who {
        Who::Nobody => builder.with_no_client_auth(),
        Who::Folder(folder) => {
            let folder = Path::new(folder);
            let chain =
                CertificateDer::pem_file_iter(folder.join("svid.0.pem"))?.collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(folder.join("svid.0.key"))?)?
        }
        Who::Pem(chain, key) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}
