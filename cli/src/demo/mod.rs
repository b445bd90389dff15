//! `hopguard demo`: a mesh of three services on this machine, in namespaces of its own, and the story of seven requests that
//! cross it. A verb enters, processes that end with it leave; it writes nothing outside of a tmpfs of its own.
//!
//! ```text
//!  outer    in the host's namespaces: the socket by which `demo exec` finds it, signals, cleaning up by ending
//!  launch   makes user, network, mount and process namespaces
//!  init     process 1 there: fabric, cluster (the pods), files (configuration), parts (CA, sidecars, applications, idp)
//!  story    the seven scenarios: client calls, records of the sidecars tell what was decided, map draws it
//! ```

mod app;
mod client;
mod cluster;
mod control;
mod exec;
mod explain;
mod fabric;
mod files;
mod host_pids;
mod idp;
mod init;
mod launch;
mod map;
mod message;
mod mounts;
mod namespaces;
mod outer;
mod parts;
mod pieces;
mod pod_init;
mod pods;
mod privileges;
mod records;
mod script;
mod show;
mod sidecar_init;
mod spec;
mod story;
mod wire;

use std::fmt::Display;

use clap::Subcommand;

use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    tell: spec::TellArgs,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring the mesh up without telling the story, and say on one JSON line when it is ready
    ///
    /// It stays until SIGINT, SIGTERM or SIGHUP, or until its standard input is closed when that is a pipe, a socket or a terminal: so it
    /// ends with the program that started it, and stays where it was started with none (`< /dev/null`, a service).
    Up(spec::UpArgs),
    /// Run a command in a pod of a running demo, as its application or as the pod's root
    Exec(exec::ExecArgs),
    /// Print a token of alice or bob, made by the demo's OpenID provider
    Token(exec::TokenArgs),
    /// Start, stop or signal a part of a running demo, or show what runs
    Ctl(exec::CtlArgs),
    /// Explain a refusal of any of the demo's sidecars, by its id
    Explain(explain::Args),
    #[command(hide = true)]
    Launch,
    #[command(hide = true)]
    Init,
    #[command(hide = true)]
    PodInit(pod_init::Args),
    #[command(hide = true)]
    PodPause,
    #[command(hide = true)]
    SidecarInit(sidecar_init::Args),
    #[command(hide = true)]
    RunAs(privileges::Args),
    #[command(hide = true)]
    App(app::Args),
    #[command(hide = true)]
    Idp(pieces::IdpArgs),
    #[command(hide = true)]
    Secrets(pieces::SecretsArgs),
    #[command(hide = true)]
    Call(pieces::CallArgs),
}

/// Runs the demo, or one of the verbs that speak to a running one.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    match args.verb {
        None => outer::run(args.tell.into_spec()?, ui),
        Some(Verb::Up(up)) => outer::run(up.into_spec()?, ui),
        Some(Verb::Exec(exec)) => exec::exec(exec, ui),
        Some(Verb::Token(token)) => exec::token(&token, ui),
        Some(Verb::Ctl(ctl)) => exec::ctl(&ctl, ui),
        Some(Verb::Explain(args)) => explain::run(&args, ui),
        Some(Verb::Launch) => launch::run(ui),
        Some(Verb::Init) => init::run(ui),
        Some(Verb::PodInit(pod)) => pod_init::run(&pod, ui),
        Some(Verb::PodPause) => pod_init::pause(ui),
        Some(Verb::SidecarInit(sidecar)) => sidecar_init::run(&sidecar),
        Some(Verb::RunAs(run_as)) => privileges::run(&run_as),
        Some(Verb::App(app)) => app::run(&app),
        Some(Verb::Idp(args)) => pieces::idp(&args),
        Some(Verb::Secrets(args)) => pieces::secrets(&args),
        Some(Verb::Call(args)) => pieces::call(args, ui),
    }
}

/// Turns a system's error into a failure that says what was being done.
fn failed<E: Display>(doing: &str) -> impl FnOnce(E) -> Failure {
    let doing = doing.to_owned();
    move |error| Failure::new(format!("{doing}: {error}"))
}
