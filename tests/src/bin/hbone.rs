//! An HBONE client that does what it is told, also what a good one never would: for tests of the server's refusals.
//!
//! `hopguard-hbone --svid DIR --to 10.0.0.1:15008 --authority 10.0.0.1:8080 [--method GET] [--path /] [--say TEXT] [--end yes]` prints the
//! status of the answer, and then what comes back for TEXT.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hopguard_tests::Anyone;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;

#[derive(Default)]
struct Options {
    svid: String,
    to: String,
    authority: String,
    method: String,
    path: Option<String>,
    say: String,
    end: bool,
}

fn main() -> ExitCode {
    use std::io::Write;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let told = runtime.block_on(async {
        let options = parse()?;
        let asked = tokio::time::timeout(Duration::from_secs(20), ask(&options));
        asked.await.map_err(|_| "no answer in 20 s".to_owned())?
    });
    let (text, code) = match told {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (format!("error: {error}"), ExitCode::FAILURE),
    };
    let _closed = writeln!(std::io::stdout(), "{text}");
    code
}

fn parse() -> Result<Options, String> {
    let mut options = Options {
        method: "CONNECT".into(),
        ..Options::default()
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--svid" => options.svid = value,
            "--to" => options.to = value,
            "--authority" => options.authority = value,
            "--method" => options.method = value,
            "--path" => options.path = Some(value),
            "--say" => options.say = value,
            "--end" => options.end = value == "yes",
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(options)
}

async fn ask(options: &Options) -> Result<String, String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let tcp = TcpStream::connect(&options.to).await.map_err(|e| words(&e))?;
    let name = ServerName::try_from("peer.invalid").map_err(|e| words(&e))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config(Path::new(&options.svid))?));
    let tls = connector
        .connect(name, tcp)
        .await
        .map_err(|e| format!("tls: {e}"))?;
    let (mut client, connection) = h2::client::handshake(tls).await.map_err(|e| words(&e))?;
    tokio::spawn(connection);
    let uri = match &options.path {
        Some(path) => format!("http://{}{path}", options.authority),
        None => options.authority.clone(),
    };
    let request = http::Request::builder()
        .method(options.method.as_str())
        .uri(uri)
        .body(())
        .map_err(|e| words(&e))?;
    let (response, mut body) = client.send_request(request, false).map_err(|e| words(&e))?;
    let response = response.await.map_err(|e| format!("stream: {e}"))?;
    let mut told = response.status().as_u16().to_string();
    if response.status() == 200 && !options.say.is_empty() {
        let say = options.say.replace("\\r", "\r").replace("\\n", "\n");
        body.send_data(Bytes::from(say), options.end)
            .map_err(|e| words(&e))?;
        let mut answer = response.into_body();
        while let Some(Ok(piece)) = answer.data().await {
            let _more = answer.flow_control().release_capacity(piece.len());
            told.push('\n');
            told.push_str(&String::from_utf8_lossy(&piece));
        }
    }
    Ok(told)
}

fn config(svid: &Path) -> Result<rustls::ClientConfig, String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(svid.join("svid.0.pem"))
        .map_err(|e| words(&e))?
        .collect();
    let key = PrivateKeyDer::from_pem_file(svid.join("svid.0.key")).map_err(|e| words(&e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| words(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_client_auth_cert(chain.map_err(|e| words(&e))?, key)
        .map_err(|e| words(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
