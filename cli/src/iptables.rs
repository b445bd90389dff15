//! `hopguard iptables print|apply|undo|check`: flags and a file become one intent, the crate `iptables` does the rest, and
//! what it did or found is told. It adds no rule of its own.

mod ssh;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use hopguard_iptables::{
    self as redirect, ApplyError, Backend, Blame, Families, Family, FamilyOutcome, InboundPorts, Intent,
    IntentError, Ipv6, Options, Outcome, PlanView, PortRange, RawIntent, Undone,
};
use serde_json::json;

use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Show the rules that would be made, each with its why; needs no privilege
    Print(Box<IntentArgs>),
    /// Put the redirect in place, whole or not at all; twice is harmless
    Apply(Box<ApplyArgs>),
    /// Take away hopguard's rules and nothing else; twice is harmless
    Undo(BackendArgs),
    /// Compare what is in place with the plan, rule by rule; exit code 1 when it differs
    Check(Box<IntentAndBackend>),
}

#[derive(clap::Args)]
struct ApplyArgs {
    #[command(flatten)]
    common: IntentAndBackend,
    /// Also when somebody is logged in here by SSH whose connection would be cut
    #[arg(long)]
    cut_ssh: bool,
}

#[derive(clap::Args)]
struct IntentAndBackend {
    #[command(flatten)]
    intent: IntentArgs,
    #[command(flatten)]
    backend: BackendArgs,
}

/// What the redirect is to do. Flags win over the file.
#[derive(clap::Args, Debug, Default)]
#[command(group = clap::ArgGroup::new("own").required(true).multiple(true).args(["config", "mark", "uid", "gid"]))]
struct IntentArgs {
    /// A file with these settings (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// SO_MARK of the sidecar's own sockets
    #[arg(long, value_name = "N", value_parser = mark)]
    mark: Option<u32>,
    /// Users that the sidecar runs as (numbers or names)
    #[arg(long, value_name = "USER,...", value_delimiter = ',', value_parser = user)]
    uid: Vec<u32>,
    /// Primary groups that the sidecar runs as (numbers or names)
    #[arg(long, value_name = "GROUP,...", value_delimiter = ',', value_parser = group)]
    gid: Vec<u32>,
    /// Inbound TCP ports to redirect: all, none, or 8080,9000-9010 [default: all]
    #[arg(long, value_name = "PORTS")]
    inbound_ports: Option<InboundPorts>,
    /// Inbound ports left alone, besides the sidecar's own
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_inbound_ports: Option<Vec<PortRange>>,
    /// The sidecar's own listeners that peers reach directly [default: 15008,15020,15021]
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    sidecar_ports: Option<Vec<u16>>,
    /// Destination ports left alone
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_outbound_ports: Option<Vec<PortRange>>,
    /// Destination networks left alone, IPv4 or IPv6
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    exclude_outbound_cidrs: Option<Vec<ipnet::IpNet>>,
    /// The sidecar's listener for outbound connections [default: 15001]
    #[arg(long, value_name = "PORT")]
    outbound_port: Option<u16>,
    /// The sidecar's listener for inbound connections [default: 15006]
    #[arg(long, value_name = "PORT")]
    inbound_port: Option<u16>,
    /// The application's outbound UDP, which cannot be redirected [default: leave]
    #[arg(long, value_enum)]
    udp: Option<Udp>,
    /// Drop TCP that should have been redirected and was not [default: on]
    #[arg(long, value_enum)]
    guard: Option<Switch>,
    /// IPv4, IPv6 or both; auto: IPv6 where the machine has it [default: auto]
    #[arg(long, value_enum)]
    family: Option<FamilyChoice>,
}

#[derive(clap::Args, Debug)]
struct BackendArgs {
    /// Which implementation of iptables; auto: the machine's own choice
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendChoice,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Udp {
    Leave,
    Reject,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FamilyChoice {
    Auto,
    Both,
    Ipv4,
    Ipv6,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BackendChoice {
    Auto,
    Nft,
    Legacy,
}

/// Runs the verb.
///
/// # Errors
/// A setting is wrong, a file is wrong, or the rules could not be made, taken away or read.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    match args.action {
        Action::Print(intent) => {
            print(&intent.intent()?, ui);
            Ok(Exit::Done)
        }
        Action::Apply(args) => {
            let intent = args.common.intent.intent()?;
            if !args.cut_ssh {
                ssh::spare(&intent)?;
            }
            apply(&intent, &args.common.backend.options(), ui)
        }
        Action::Undo(backend) => undo(&backend.options(), ui),
        Action::Check(args) => check(&args.intent.intent()?, &args.backend.options(), ui),
    }
}

fn print(intent: &Intent, ui: &Ui) {
    let families = intent.get().families;
    let plans = redirect::plan(intent)
        .families
        .into_iter()
        .filter(|plan| match families {
            Families::Auto | Families::Both => true,
            Families::Ipv4 => plan.family == Family::Ipv4,
            Families::Ipv6 => plan.family == Family::Ipv6,
        });
    let views: Vec<PlanView> = plans.map(|plan| PlanView::from(&plan)).collect();
    if ui.is_json() {
        return ui.json(&json!({"intent": intent, "plan": views, "notes": notes(intent)}));
    }
    for view in &views {
        ui.line(format!("# {}", view.program));
        ui.line(view.restore.trim_end());
    }
    for note in notes(intent) {
        ui.note(note);
    }
}

fn apply(intent: &Intent, options: &Options, ui: &Ui) -> Result<Exit, Failure> {
    let families =
        redirect::apply(intent, options).map_err(|error| failure("the redirect was not applied", &error))?;
    if ui.is_json() {
        ui.json(&json!({"intent": intent, "families": families, "notes": notes(intent)}));
        return Ok(Exit::Done);
    }
    told(
        &families,
        ("applied, and read back as planned", "in place already"),
        ui,
    );
    for note in notes(intent) {
        ui.note(note);
    }
    Ok(Exit::Done)
}

fn undo(options: &Options, ui: &Ui) -> Result<Exit, Failure> {
    let families = redirect::undo(options).map_err(|error| failure("the redirect was not undone", &error))?;
    if ui.is_json() {
        ui.json(&json!({"families": families}));
    } else {
        told(&families, ("undone", "nothing of hopguard's was there"), ui);
    }
    Ok(Exit::Done)
}

fn check(intent: &Intent, options: &Options, ui: &Ui) -> Result<Exit, Failure> {
    let checked =
        redirect::check(intent, options).map_err(|error| failure("the redirect cannot be read", &error))?;
    let exit = if checked.drift.is_empty() {
        Exit::Done
    } else {
        Exit::No
    };
    if ui.is_json() {
        ui.json(&json!({"in_place": checked.drift.is_empty(), "families": checked.families, "drift": checked.drift}));
        return Ok(exit);
    }
    told(&checked.families, ("", "in place, as planned"), ui);
    for drift in &checked.drift {
        ui.line(format!("{} {drift}", ui.paint("31", "×")));
    }
    if exit == Exit::No {
        ui.note("  hint: `hopguard iptables apply` with the same settings puts it right");
    }
    Ok(exit)
}

fn told(families: &[FamilyOutcome], (changed, unchanged): (&str, &str), ui: &Ui) {
    for family in families {
        let what = match family.outcome {
            Outcome::Changed => changed,
            Outcome::Unchanged => unchanged,
            Outcome::Differs => "differs from the plan",
            Outcome::Skipped => "skipped",
        };
        let why = family
            .why
            .as_ref()
            .map(|why| format!(" ({why})"))
            .unwrap_or_default();
        ui.line(format!("{}  {what}{why}", family.family.name()));
    }
}

/// What the redirect leaves open by choice: said each time it is made.
fn notes(intent: &Intent) -> Vec<String> {
    let intent = intent.get();
    let mut notes = Vec::new();
    notes.push(match intent.udp {
        redirect::Udp::Leave => {
            "UDP is left alone: it passes by the sidecar (--udp reject: QUIC clients then fall back to TCP)"
        }
        redirect::Udp::Reject => {
            "outbound UDP is rejected, but for loopback, DNS (port 53), exclusions and the sidecar's own"
        }
    });
    if !intent.guard {
        notes.push("the guard is off: TCP that another rule keeps from the redirect passes in the clear");
    }
    match (intent.families, Ipv6::here()) {
        (Families::Ipv4, Ipv6::Present | Ipv6::Off) => {
            notes.push("IPv6 is not redirected: it passes by the sidecar")
        }
        (Families::Ipv6, _) => notes.push("IPv4 is not redirected: it passes by the sidecar"),
        _ => {}
    }
    if intent.own.uids.contains(&0) {
        notes.push("everything that runs as uid 0 passes by the sidecar");
    }
    notes.into_iter().map(|note| format!("note: {note}")).collect()
}

fn failure(what: &str, error: &ApplyError) -> Failure {
    let exit = match error.cause.blame() {
        Blame::User => Exit::NotHere,
        Blame::Machine => match error.cause {
            redirect::Cause::Missing { .. } => Exit::NotHere,
            _ => Exit::No,
        },
    };
    let mut hint = error.cause.hint();
    if let Undone::Failed(_) = error.undone {
        hint = format!("run `hopguard iptables undo`, and look with iptables-save; then: {hint}");
    }
    Failure::new(format!("{what}: {error}")).hint(hint).exit(exit)
}

impl BackendArgs {
    fn options(&self) -> Options {
        Options::new(match self.backend {
            BackendChoice::Auto => Backend::Auto,
            BackendChoice::Nft => Backend::Nft,
            BackendChoice::Legacy => Backend::Legacy,
        })
    }
}

impl IntentArgs {
    fn intent(&self) -> Result<Intent, Failure> {
        let file = self.config.as_deref().map(read).transpose()?;
        let mut raw = file.clone().unwrap_or_default();
        self.overlay(&mut raw);
        raw.parse().map_err(|error: IntentError| {
            // What the file says by itself is its fault, what flags make of it is theirs.
            let of_file = file.map(RawIntent::parse).and_then(Result::err);
            let failure = match &self.config {
                Some(path) if of_file.as_ref() == Some(&error) => {
                    Failure::new(format!("{}: {error}", path.display())).exit(Exit::BadFile)
                }
                _ => Failure::new(error.to_string()).exit(Exit::Usage),
            };
            failure.hint(error.hint())
        })
    }

    fn overlay(&self, raw: &mut RawIntent) {
        // Who the sidecar is, is one statement: a flag replaces the file's whole answer, so that `--uid 5` does not leave the
        // file's mark open as a second way past.
        if self.mark.is_some() || !self.uid.is_empty() || !self.gid.is_empty() {
            raw.own.mark = self.mark;
            raw.own.uids.clone_from(&self.uid);
            raw.own.gids.clone_from(&self.gid);
        }
        set(&mut raw.inbound_ports, self.inbound_ports.as_ref());
        set(
            &mut raw.exclude_inbound_ports,
            self.exclude_inbound_ports.as_ref(),
        );
        set(&mut raw.sidecar_ports, self.sidecar_ports.as_ref());
        set(
            &mut raw.exclude_outbound_ports,
            self.exclude_outbound_ports.as_ref(),
        );
        set(
            &mut raw.exclude_outbound_cidrs,
            self.exclude_outbound_cidrs.as_ref(),
        );
        set(&mut raw.outbound_port, self.outbound_port.as_ref());
        set(&mut raw.inbound_port, self.inbound_port.as_ref());
        set(
            &mut raw.guard,
            self.guard.map(|guard| guard == Switch::On).as_ref(),
        );
        let udp = self.udp.map(|udp| match udp {
            Udp::Leave => redirect::Udp::Leave,
            Udp::Reject => redirect::Udp::Reject,
        });
        set(&mut raw.udp, udp.as_ref());
        let families = self.family.map(|family| match family {
            FamilyChoice::Auto => Families::Auto,
            FamilyChoice::Both => Families::Both,
            FamilyChoice::Ipv4 => Families::Ipv4,
            FamilyChoice::Ipv6 => Families::Ipv6,
        });
        set(&mut raw.families, families.as_ref());
    }
}

fn set<T: Clone>(setting: &mut T, flag: Option<&T>) {
    if let Some(flag) = flag {
        setting.clone_from(flag);
    }
}

/// Reads a redirect file.
///
/// # Errors
/// It cannot be read, or is wrong; with file, line and column.
pub fn read(path: &Path) -> Result<RawIntent, Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|error| bad_file(format!("{}: {error}", path.display())))?;
    parse(&text).map_err(|((line, column), message)| {
        bad_file(format!("{}:{line}:{column}: {message}", path.display()))
    })
}

/// What to do about a redirect file.
pub const FILE_HINT: &str = "see docs/redirect.md for its settings";

fn bad_file(message: String) -> Failure {
    Failure::new(message).exit(Exit::BadFile).hint(FILE_HINT)
}

/// Reads the text of a redirect file, not yet checked as a whole.
///
/// # Errors
/// Line and column (from 1) of what is wrong, and what it is.
pub fn parse(text: &str) -> Result<RawIntent, ((usize, usize), String)> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        (place(text, start), error.message().replace('\n', " "))
    })
}

/// Line and column (from 1) of a byte of `text`.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or_default();
    let line = before.matches('\n').count().saturating_add(1);
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        .saturating_add(1);
    (line, column)
}

/// A mark as people write it: 1337 or 0x539.
fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(0) => Err(IntentError::ZeroMark.to_string()),
        Ok(mark) => Ok(mark),
        Err(_) => Err("a mark is a number: 1337 or 0x539".to_owned()),
    }
}

/// A user by number, or by the name that it has on this machine.
fn user(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    let found = nix::unistd::User::from_name(text).map_err(|error| error.to_string())?;
    found
        .map(|user| user.uid.as_raw())
        .ok_or_else(|| format!("there is no user `{text}` on this machine"))
}

/// A group by number, or by the name that it has on this machine.
fn group(text: &str) -> Result<u32, String> {
    if let Ok(gid) = text.parse() {
        return Ok(gid);
    }
    let found = nix::unistd::Group::from_name(text).map_err(|error| error.to_string())?;
    found
        .map(|group| group.gid.as_raw())
        .ok_or_else(|| format!("there is no group `{text}` on this machine"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        intent: IntentArgs,
    }

    fn intent(line: &[&str]) -> Result<Intent, Failure> {
        Line::try_parse_from(std::iter::once("x").chain(line.iter().copied()))
            .unwrap()
            .intent
            .intent()
    }

    #[test]
    fn flags_win_over_the_file_and_replace_who_the_sidecar_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("redirect.toml");
        let text = "inbound_ports = [8080, \"9000-9010\"]\nudp = \"reject\"\n[own]\nmark = 7\nuids = [3]\n";
        std::fs::write(&file, text).unwrap();
        let config = file.to_str().unwrap();
        let from_file = intent(&["--config", config]).unwrap();
        assert_eq!(from_file.get().own.mark, Some(7));
        assert_eq!(from_file.get().udp, redirect::Udp::Reject);
        let mixed = intent(&["--config", config, "--gid", "5", "--udp", "leave"]).unwrap();
        assert_eq!(
            (
                mixed.get().own.mark,
                &mixed.get().own.uids[..],
                &mixed.get().own.gids[..]
            ),
            (None, &[][..], &[5][..])
        );
        assert_eq!(mixed.get().udp, redirect::Udp::Leave);
        assert_eq!(mixed.get().inbound_ports, from_file.get().inbound_ports);
    }

    #[test]
    fn a_wrong_file_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("redirect.toml");
        std::fs::write(&file, "udp = \"leave\"\ninbound_prots = \"all\"\n").unwrap();
        let failure = intent(&["--config", file.to_str().unwrap()]).unwrap_err();
        assert_eq!(failure.exit, Exit::BadFile);
        assert!(
            failure
                .message
                .contains("redirect.toml:2:1: unknown field `inbound_prots`"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn who_the_sidecar_is_may_be_said_in_several_ways() {
        let own = |line: &[&str]| intent(line).unwrap().get().own.clone();
        assert_eq!(own(&["--mark", "0x539"]).mark, Some(1337));
        assert_eq!(own(&["--uid", "root,4242"]).uids, [0, 4242]);
        assert_eq!(own(&["--gid", "root"]).gids, [0]);
        for wrong in [
            &["--mark", "0"][..],
            &["--uid", "no-such-user"],
            &["--gid", "no-such-group"],
            &[],
        ] {
            assert!(
                Line::try_parse_from(std::iter::once("x").chain(wrong.iter().copied())).is_err(),
                "{wrong:?}"
            );
        }
    }
}
