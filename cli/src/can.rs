//! `hopguard can`: a caller, a user and a request enter, and what the sidecar of the service would answer leaves, with its
//! reasons. No traffic, and no second reading: files, request, token and policies are read by the sidecar's own code.

use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hopguard_sidecar::authn::{ClaimValue, IssuerOptions, Rejection, VerifiedUser};
use hopguard_sidecar::config::{self, Mesh};
use hopguard_sidecar::tools::{self, Answer, Question, Target, TokenFailure};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::explain;
use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The caller: a service of the mesh file (`orders`, `shop/orders`), a SPIFFE ID, or `plaintext` for one without a
    /// certificate
    #[arg(long, value_name = "PEER")]
    from: String,
    /// A method, or `connect` for an opaque port
    method: String,
    /// `SERVICE[:PORT]/PATH`, `SERVICE[:PORT]*` for OPTIONS, or `SERVICE[:PORT]` to connect; a service by its name, the last
    /// part of it, or a host
    target: String,
    /// The user: a file with the claims of a token as JSON, which nobody needs to have signed; what is in it counts (`exp`,
    /// `nbf`, `aud`, `iss`), what is not is taken as a good token has it
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    user_claims: Option<PathBuf>,
    /// The issuer of the claims, by its alias [default: the one that their `iss` names]
    #[arg(long, value_name = "ALIAS", requires = "user_claims")]
    issuer: Option<String>,
    /// The user: a file with a token, which is verified as the sidecar does; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// The keys of the token's issuer, as a JWK Set, instead of asking the issuer for them
    #[arg(long, value_name = "FILE", requires = "token")]
    jwks: Option<PathBuf>,
    /// The caller proves what the token is bound to (`cnf`): makes the DPoP proof, or shows the certificate
    #[arg(long)]
    proven: bool,
    /// A request header; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// The host of the request [default: the one that the target is named by, else the first of the service]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// When, as RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// The caller's address [default: the one of its service in the mesh file, else 127.0.0.1]
    #[arg(long, value_name = "IP")]
    src_ip: Option<IpAddr>,
    /// The caller without a certificate speaks TLS, as to a `public` port
    #[arg(long)]
    tls: bool,
    /// The mesh file
    #[arg(long, value_name = "FILE", default_value = "mesh.toml")]
    mesh: PathBuf,
    /// The policy folder
    #[arg(long, value_name = "DIR", default_value = "policies")]
    policies: PathBuf,
}

const AFTER_HELP: &str = "\
Examples: hopguard can --from orders --user-claims alice.json POST payments/charge
          hopguard can --from web --token token.txt --jwks keys.json GET orders:8080/orders/7
          hopguard can --from plaintext --tls --header x-region=eu GET web/
          hopguard can --from web --at 2026-12-31T12:00:00Z GET orders/orders/7
          hopguard can --from payments connect ledger:5432
          hopguard can --from web OPTIONS 'orders*'
where alice.json holds the claims of her token: {\"iss\": \"https://idp.example.org\", \"sub\": \"alice\"}

What a token is bound to is looked at as on a request (`bind`, `cnf`, DPoP). Where the caller would have to prove it, the
answer says what, and is `denied` unless --proven says that it does.

Exit codes: 0 allowed, 1 denied, 2 usage, 3 a file is wrong, 4 nobody can say here.";

/// Runs the verb.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    // Where a token is verified, its issuer's CA file is read then.
    let (mesh, _) = config::load_mesh_alone(&args.mesh).map_err(explain::problems)?;
    let files = config::read_policies(&args.policies).map_err(|problem| explain::problems(vec![problem]))?;
    let target = Target::parse(&mesh, &args.method, &args.target).map_err(usage)?;
    let (peer, address) = tools::peer(&mesh, &args.from).map_err(usage)?;
    if args.tls && peer.is_some() {
        return Err(usage(
            "--tls is for a caller without a certificate: the mesh always speaks TLS",
        ));
    }
    let at = moment(args.at.as_deref())?;
    let headers = headers(&args.headers)?;
    let mut question = Question {
        peer: peer.as_ref(),
        tls: args.tls,
        src_ip: args.src_ip.or(address),
        target: &target,
        headers: &headers,
        host: args.host.as_deref(),
        user: None,
        proven: args.proven,
        at,
    };
    let user = match user(&args, &mesh, at)? {
        Proven::User(user) => user,
        Proven::Refused { status, code, detail } => {
            return Ok(answered(
                &Answer::refused(&question, status, code, &detail),
                None,
                ui,
            ));
        }
    };
    question.user = user.as_deref();
    let answer = tools::ask(&mesh, &files, &question).map_err(explain::problems)?;
    Ok(answered(&answer, user.as_deref(), ui))
}

fn usage(what: impl Into<String>) -> Failure {
    Failure::new(what).exit(Exit::Usage)
}

fn moment(at: Option<&str>) -> Result<SystemTime, Failure> {
    let Some(text) = at else {
        return Ok(SystemTime::now());
    };
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| usage(format!("`{text}` is no time: write 2026-12-31T12:00:00Z")))?;
    u64::try_from(at.unix_timestamp())
        .ok()
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or_else(|| usage(format!("`{text}` is before 1970")))
}

fn headers(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let header = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| usage(format!("`{text}` is no header: write name=value")))?;
        if text.chars().any(char::is_control) {
            return Err(usage(format!(
                "the header `{}` holds a control character",
                name.escape_debug()
            )));
        }
        for own in ["host", "authorization"] {
            if name.eq_ignore_ascii_case(own) {
                return Err(usage(format!(
                    "`{own}` is not given as a header: use --host, --token or --user-claims"
                )));
            }
        }
        Ok((name.to_owned(), value.to_owned()))
    };
    given.iter().map(header).collect()
}

/// What is known of the user.
enum Proven {
    /// The user, or nobody.
    User(Option<Box<VerifiedUser>>),
    /// The token proves nobody.
    Refused {
        status: u16,
        code: &'static str,
        detail: String,
    },
}

fn user(args: &Args, mesh: &Mesh, at: SystemTime) -> Result<Proven, Failure> {
    let issuers = mesh.issuer_options();
    let (file, found) = match (&args.user_claims, &args.token) {
        (Some(file), _) => {
            let claims = read(file)?;
            (
                file,
                tools::of_claims(&issuers, args.issuer.as_deref(), claims.as_bytes(), at),
            )
        }
        (None, Some(file)) => (file, verified(args, &issuers, file, at)?),
        (None, None) => return Ok(Proven::User(None)),
    };
    let bad =
        |file: &Path, what: String| Failure::new(format!("{}: {what}", file.display())).exit(Exit::BadFile);
    Ok(match found {
        Ok(user) => Proven::User(Some(Box::new(user))),
        Err(TokenFailure::Refused(Rejection::Invalid { reason, detail })) => Proven::Refused {
            status: 401,
            code: reason,
            detail,
        },
        Err(TokenFailure::BadKeys(what)) => {
            return Err(bad(args.jwks.as_deref().unwrap_or(Path::new("-")), what));
        }
        Err(TokenFailure::BadClaims(what)) => return Err(bad(file, what)),
        Err(failure @ (TokenFailure::NotHere(_) | TokenFailure::Opaque(_))) => {
            return Err(Failure::new(failure.to_string())
                .hint("say what it tells instead, as JSON with `iss` and `sub`: --user-claims FILE")
                .exit(Exit::NotHere));
        }
        Err(failure) => Proven::Refused {
            status: 503,
            code: "issuer_unavailable",
            detail: failure.to_string(),
        },
    })
}

/// The user of a token, by the keys that were given, or those that its issuer publishes.
fn verified(
    args: &Args,
    issuers: &[IssuerOptions],
    file: &Path,
    at: SystemTime,
) -> Result<Result<VerifiedUser, TokenFailure>, Failure> {
    let token = read(file)?;
    let keys = args.jwks.as_deref().map(read).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(format!("no event loop can be made here: {error}")).exit(Exit::NotHere)
        })?;
    let verifying = tools::of_token(issuers, keys.as_deref().map(str::as_bytes), token.trim(), at);
    Ok(runtime.block_on(verifying))
}

/// The largest file that a token, claims or keys stand in.
const MOST: u64 = 1 << 20;

fn read(file: &Path) -> Result<String, Failure> {
    let bad = |error: io::Error| Failure::new(format!("{}: {error}", file.display())).exit(Exit::BadFile);
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().lock().take(MOST).read_to_string(&mut text)
    } else {
        fs::File::open(file)
            .map_err(bad)?
            .take(MOST)
            .read_to_string(&mut text)
    };
    read.map_err(bad)?;
    Ok(text)
}

fn answered(answer: &Answer, user: Option<&VerifiedUser>, ui: &Ui) -> Exit {
    let exit = if answer.allowed { Exit::Done } else { Exit::No };
    if ui.is_json() {
        let mut json = serde_json::to_value(answer).unwrap_or_default();
        if let (Value::Object(fields), Some(user)) = (&mut json, user) {
            fields.insert("user".to_owned(), shown(user));
        }
        ui.json(&json);
        return exit;
    }
    let verdict = if answer.allowed {
        ui.paint("32", "allowed")
    } else {
        ui.paint("31", "denied")
    };
    let why = match (&answer.refused, &answer.decision) {
        (Some(refused), _) => refused.code.clone(),
        (None, Some(decision)) => decision.reason.clone(),
        (None, None) => "no_policies".to_owned(),
    };
    let status = answer.status.filter(|_| !answer.allowed);
    let status = status.map(|status| format!("{status} ")).unwrap_or_default();
    ui.line(format!("{verdict}: {status}{why}"));
    explain::fact(ui, "peer", &answer.peer);
    explain::fact(ui, "user", &user.map_or_else(|| "none".to_owned(), described));
    explain::fact(ui, "called", &answer.called);
    if let Some(decision) = &answer.decision {
        let route = decision.route.as_ref().map(|route| format!(", route {route}"));
        explain::fact(
            ui,
            "action",
            &format!("{}{}", decision.action, route.unwrap_or_default()),
        );
        explain::fact(ui, "policies", &format!("version {}", decision.policy_version));
        explain::decision(decision, ui);
    }
    if let Some(refused) = &answer.refused {
        explain::fact(ui, "detail", &refused.detail);
    }
    for needed in &answer.needs {
        explain::fact(ui, "needs", needed);
    }
    for note in &answer.notes {
        ui.line(format!("  {} {note}", ui.paint("33", "note:")));
    }
    explain::hint(&answer.hint, ui);
    exit
}

fn described(user: &VerifiedUser) -> String {
    let list = |name: &str, of: &[String]| match of {
        [] => format!(", no {name}s"),
        of => format!(", {name}s {}", of.join(" ")),
    };
    format!(
        "{} of {}{}{}",
        user.subject,
        user.alias,
        list("role", &user.roles),
        list("scope", &user.scope)
    )
}

/// The user as the sidecar maps it.
fn shown(user: &VerifiedUser) -> Value {
    let claims: serde_json::Map<String, Value> = user
        .claims
        .iter()
        .map(|(name, value)| {
            let value = match value {
                ClaimValue::String(text) => json!(text),
                ClaimValue::Strings(list) => json!(list),
                ClaimValue::Long(number) => json!(number),
                ClaimValue::Bool(yes) => json!(yes),
            };
            (name.clone(), value)
        })
        .collect();
    json!({
        "iss": &*user.alias, "issuer": &*user.issuer, "sub": user.subject, "aud": user.audience, "roles": user.roles,
        "scope": user.scope, "exp": user.exp, "claims": claims,
    })
}
