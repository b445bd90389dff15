//! A peer with an SVID and bad manners: it opens one tunnel, sends whatever requests it was told to, and writes one line of
//! JSON for each: the status and, when the stream was opened, what came back. It believes whoever answers.
//!
//! `hopguard-peer --svid FOLDER --tunnel 10.77.0.13:15008 'CONNECT 10.77.0.13:9090 text to send' 'GET 10.77.0.13:8080' ...`

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use hopguard_tests::Anyone;
use http::{Method, Request, Uri};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Failure = Box<dyn std::error::Error>;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let told = match arguments.as_slice() {
        [svid, folder, tunnel, address, requests @ ..] if svid == "--svid" && tunnel == "--tunnel" => {
            run(&PathBuf::from(folder), address, requests)
        }
        _ => Err("usage: hopguard-peer --svid FOLDER --tunnel ADDRESS 'METHOD AUTHORITY [TEXT]'...".into()),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = writeln!(io::stderr(), "hopguard-peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(svid: &Path, address: &str, requests: &[String]) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let tunnel = tokio::time::timeout(PATIENCE, open(svid, address)).await??;
        for request in requests {
            let answer = tokio::time::timeout(PATIENCE, ask(tunnel.clone(), request)).await;
            let said = match answer {
                Ok(Ok(said)) => said,
                Ok(Err(error)) => json!({"error": error.to_string()}),
                Err(_) => json!({"error": "no answer"}),
            };
            writeln!(io::stdout(), "{said}")?;
        }
        Ok(())
    })
}

async fn open(svid: &Path, address: &str) -> Result<SendRequest<Bytes>, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(svid.join("svid.0.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(svid.join("svid.0.key"))?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("peer")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (tunnel, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    Ok(tunnel.ready().await?)
}

async fn ask(tunnel: SendRequest<Bytes>, request: &str) -> Result<Value, Failure> {
    let mut words = request.splitn(3, ' ');
    let method = Method::from_bytes(words.next().unwrap_or_default().as_bytes())?;
    let authority = words.next().unwrap_or_default();
    let text = words.next().unwrap_or_default().to_owned();
    let mut uri = Uri::builder().authority(authority);
    if method != Method::CONNECT {
        uri = uri.scheme("https").path_and_query("/");
    }
    let request = Request::builder().method(method).uri(uri.build()?).body(())?;
    let (answer, mut send) = tunnel.ready().await?.send_request(request, false)?;
    let answer = answer.await?;
    let status = answer.status().as_u16();
    if status != 200 {
        return Ok(json!({"status": status}));
    }
    send.send_data(Bytes::from(text), true)?;
    let mut body = answer.into_body();
    let mut said = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        said.extend_from_slice(&data);
    }
    Ok(json!({"status": status, "said": String::from_utf8_lossy(&said)}))
}
