//! The demo's provider and its caller by themselves, for a demo whose pods are containers: arguments and a folder enter,
//! files, a serving process and one JSON line leave. Hidden verbs; the parts of the mesh are the ordinary ones.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hyper::{Method, Uri};
use serde_json::{Value, json};

use super::client::{self, Request, Security};
use super::{failed, idp, story};
use crate::ui::{Exit, Failure, Ui};

/// The certificate of the provider's CA, as the issuer's `ca_file` names it.
const PROVIDER_CA: &str = "idp-ca.pem";
/// The provider's own secrets.
const SECRETS: &str = "idp.json";

/// Arguments of `demo secrets`.
#[derive(clap::Args)]
pub struct SecretsArgs {
    /// Where `idp-ca.pem` and `idp.json` go
    folder: PathBuf,
}

/// Arguments of `demo idp`.
#[derive(clap::Args)]
pub struct IdpArgs {
    /// The file that `demo secrets` wrote [default: standard input]
    #[arg(long)]
    secrets: Option<PathBuf>,
}

/// Arguments of `demo call`.
#[derive(clap::Args)]
pub struct CallArgs {
    method: Method,
    url: Uri,
    /// A token for `authorization: Bearer` stands on standard input
    #[arg(long)]
    bearer: bool,
    /// The value of `traceparent`
    #[arg(long)]
    traceparent: Option<String>,
    /// The body, a form
    #[arg(long, default_value = "")]
    form: String,
    /// https: the CA that the server's certificate must come from
    #[arg(long, conflicts_with = "self_made")]
    ca: Option<PathBuf>,
    /// https: show a self-made certificate of `orders`
    #[arg(long)]
    self_made: bool,
}

/// Makes the provider's secrets.
pub fn secrets(args: &SecretsArgs) -> Result<Exit, Failure> {
    let (ca, secrets) = idp::secrets()?;
    let text = serde_json::to_string(&secrets).map_err(failed("writing the provider's secrets"))?;
    write(&args.folder.join(PROVIDER_CA), &ca, 0o644)?;
    write(&args.folder.join(SECRETS), &text, 0o600)?;
    Ok(Exit::Done)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let mut file = OpenOptions::new();
    file.write(true).create(true).truncate(true).mode(mode);
    file.open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(failed(&format!("writing {}", path.display())))
}

/// Serves as the provider until told to end.
pub fn idp(args: &IdpArgs) -> Result<Exit, Failure> {
    let text = match &args.secrets {
        Some(path) => fs::read_to_string(path).map_err(failed(&format!("reading {}", path.display())))?,
        None => from_stdin("the provider's secrets")?,
    };
    idp::run(&text)
}

/// Makes one call and prints what came of it.
pub fn call(args: CallArgs, ui: &Ui) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("starting"))?;
    let outcome = runtime.block_on(async { Ok::<_, Failure>(client::send(request(args).await?).await) })?;
    Ok(match outcome {
        Ok(answer) => {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            ui.json(&json!({"status": answer.status, "body": body}));
            Exit::Done
        }
        Err(refused) => {
            ui.json(&json!({"status": null, "refused": refused.to_string()}));
            Exit::No
        }
    })
}

async fn request(args: CallArgs) -> Result<Request, Failure> {
    let wrong = |what: &str| Failure::new(format!("{}: {what}", args.url)).exit(Exit::Usage);
    let host = args.url.host().ok_or_else(|| wrong("no host"))?.to_owned();
    let secure = args.url.scheme_str() == Some("https");
    let port = args.url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let to = tokio::net::lookup_host((bare, port))
        .await
        .map_err(failed(&format!("looking up {host}")))?
        .next()
        .ok_or_else(|| wrong("the name has no address"))?;
    let mut headers = Vec::new();
    if args.bearer {
        let token = from_stdin("the token")?;
        headers.push(("authorization", format!("Bearer {}", token.trim())));
    }
    headers.extend(args.traceparent.map(|value| ("traceparent", value)));
    if !args.form.is_empty() {
        headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
    }
    let security = match (secure, args.ca, args.self_made) {
        (false, ..) => Security::Plain,
        (true, Some(ca), _) => {
            Security::Trusting(fs::read_to_string(&ca).map_err(failed(&format!("reading {}", ca.display())))?)
        }
        (true, None, false) => Security::Anonymous,
        (true, None, true) => {
            let (certificate, key) = story::forged_certificate()?;
            Security::Showing { certificate, key }
        }
    };
    Ok(Request {
        method: args.method,
        to,
        host,
        path: args
            .url
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned(),
        headers,
        body: args.form,
        security,
    })
}

fn from_stdin(what: &str) -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(failed(&format!("reading {what}")))?;
    Ok(text)
}
