//! The verbs that speak to a running demo: a command to run in a pod, a token to print, a part to stop. They change nothing
//! but that demo.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use clap::builder::PossibleValuesParser;
use nix::sys::signal::{SigSet, Signal};

use super::cluster::FABRIC;
use super::control::{Action, Reply, Request, ask};
use super::namespaces::Namespaces;
use super::pods::PODS;
use super::spec::{DEFAULT_NAME, valid_name};
use super::{failed, host_pids, outer};
use crate::ui::{Exit, Failure, Ui};

/// Arguments of `hopguard demo exec`.
#[derive(clap::Args)]
#[command(after_help = "\
Example: hopguard demo exec web -- curl -i http://orders:8080/

A pod has a network, a host name, processes, /run, /tmp and /dev of its own; of the rest of the file system it sees this
machine's, read-only. The command ends as it ends: 127 there is no such command, 126 it cannot be executed, 128 + N it was
ended by signal N.")]
pub struct ExecArgs {
    #[command(flatten)]
    demo: DemoArg,
    /// As the pod's root instead of as its application: with CAP_NET_ADMIN and CAP_NET_RAW in the pod's network, for
    /// iptables, ip and packet captures, and nothing else
    ///
    /// It cannot mount, write the machine's files, reach its devices or settings, nor get another capability; the same
    /// when the demo runs as root.
    #[arg(long)]
    root: bool,
    /// The pod, or the network between them (`fabric`, with --root only)
    #[arg(value_parser = PossibleValuesParser::new(places()))]
    pod: String,
    /// The command, with its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Arguments of `hopguard demo token`.
#[derive(clap::Args)]
pub struct TokenArgs {
    #[command(flatten)]
    demo: DemoArg,
    /// alice is a clerk, bob has no role
    #[arg(value_parser = PossibleValuesParser::new(super::idp::names()))]
    user: String,
    /// Forge it
    #[arg(long, default_value = "none", value_parser = PossibleValuesParser::new(super::idp::FLAWS))]
    flaw: String,
    /// Claims that replace those of the token, as a JSON object; `null` takes one out
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
}

/// Arguments of `hopguard demo ctl`.
#[derive(clap::Args)]
pub struct CtlArgs {
    #[command(flatten)]
    demo: DemoArg,
    /// What to do; without it, what runs is shown
    #[arg(requires = "part")]
    action: Option<Action>,
    /// A sidecar has the name of its pod, an application app:NAME
    #[arg(value_parser = PossibleValuesParser::new(super::parts::names()))]
    part: Option<String>,
}

#[derive(clap::Args)]
struct DemoArg {
    /// The demo's name
    #[arg(long, default_value = DEFAULT_NAME, value_parser = valid_name)]
    name: String,
}

fn places() -> Vec<&'static str> {
    PODS.iter().map(|pod| pod.name).chain([FABRIC]).collect()
}

/// Runs a command in a pod and ends as it ends.
pub fn exec(args: ExecArgs, ui: &Ui) -> Result<Exit, Failure> {
    if args.pod == FABRIC && !args.root {
        return Err(Failure::new("no application runs in the fabric")
            .hint("use --root")
            .exit(Exit::Usage));
    }
    let answer = ask(&args.demo.name, &Request::Join { pod: args.pod })?;
    let namespaces =
        Namespaces::received(answer.fds).ok_or_else(|| Failure::new("the demo sent no namespaces"))?;
    namespaces.join_from_outside()?;
    // A ctrl-C is for the command, which shares our terminal; we end when it has ended.
    let mut typed = SigSet::empty();
    typed.add(Signal::SIGINT);
    typed.add(Signal::SIGQUIT);
    typed
        .thread_block()
        .map_err(failed("leaving signals to the command"))?;
    let keep = if args.root { "pod-root" } else { "nothing" };
    let output = if ui.is_json() { "json" } else { "text" };
    let mut command = Command::new("/proc/self/exe");
    command
        .args([
            "-o",
            output,
            "demo",
            "run-as",
            "--with-parent",
            "--keep",
            keep,
            "--",
        ])
        .args(args.command)
        .env_clear()
        .envs(environment());
    let status = command.status().map_err(failed("running the command"))?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    leave(code)
}

/// The environment of every program in a pod: none of the user's proxies, keys and paths.
pub fn environment() -> Vec<(String, String)> {
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut environment = vec![
        own("PATH", &outer::search_path()),
        own("HOME", "/tmp"),
        own("LANG", "C.UTF-8"),
    ];
    for name in ["TERM", "COLORTERM", "NO_COLOR"] {
        environment.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
    }
    environment
}

#[expect(
    clippy::exit,
    reason = "the command's own exit code is the answer, and may be any"
)]
fn leave(code: i32) -> Result<Exit, Failure> {
    std::process::exit(code)
}

/// Prints a token.
pub fn token(args: &TokenArgs, ui: &Ui) -> Result<Exit, Failure> {
    let request = Request::Token {
        user: args.user.clone(),
        flaw: args.flaw.clone(),
        claims: args.claims.clone(),
    };
    match ask(&args.demo.name, &request)?.reply {
        Reply::Token(token) if ui.is_json() => ui.json(&serde_json::json!({"access_token": token})),
        Reply::Token(token) => ui.line(token),
        other => return Err(unexpected(&other)),
    }
    Ok(Exit::Done)
}

/// Does something to a part, or shows what runs.
pub fn ctl(args: &CtlArgs, ui: &Ui) -> Result<Exit, Failure> {
    if let (Some(action), Some(part)) = (args.action, &args.part) {
        ask(
            &args.demo.name,
            &Request::Part {
                action,
                name: part.clone(),
            },
        )?;
    }
    let answer = ask(&args.demo.name, &Request::Status)?;
    let Reply::Status(status) = answer.reply else {
        return Err(unexpected(&answer.reply));
    };
    let status = status.seen_from_host(&host_pids::below(answer.outer));
    if ui.is_json() {
        ui.json(&status);
        return Ok(Exit::Done);
    }
    ui.line(format!("{:<14} {:>8}", "PART", "PID"));
    for (name, pid) in &status.pids {
        ui.line(format!("{name:<14} {pid:>8}"));
    }
    ui.line(format!("files: {}", status.root));
    Ok(Exit::Done)
}

fn unexpected(reply: &Reply) -> Failure {
    Failure::new(format!("the demo answered something else: {reply:?}"))
}
