//! `hopguard ca revoke`: takes an identity, a certificate or an authority back, in a running authority.

use std::time::Duration;

use hopguard_ca::admin::{Request, Revoke, Target};
use serde_json::Value;

use super::ask::{Which, ask, list, moment, number, text};
use crate::ui::{Exit, Failure, Ui, printable};

/// Signing lists of tens of thousands of certificates takes moments, not minutes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shown by `--help`.
pub const EXAMPLES: &str = "\
Revoking an identity ends its connections within seconds and gives it no new SVID until the revocation is lifted. Revoking a \
serial number ends what uses that one certificate; its holder gets another one at once. Revoking an authority takes it out \
of the bundle, and with it all that it signed.

Examples:
  hopguard ca revoke --id spiffe://mesh.local/ns/shop/sa/web --reason 'the host was broken into'
  hopguard ca revoke --id spiffe://mesh.local/ns/shop/sa/web --dry-run
  hopguard ca revoke --serial 4f0c...                     # from `hopguard svid inspect`
  hopguard ca revoke --authority 5be1... --force          # a stolen key; ids are in `hopguard ca status`
  hopguard ca revoke --list
  hopguard ca revoke --id spiffe://mesh.local/ns/shop/sa/web --lift";

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// An identity: it loses its connections and gets no new SVID
    #[arg(long, value_name = "SPIFFE-ID", group = "what")]
    id: Option<String>,
    /// One certificate, by its serial number
    #[arg(long, value_name = "HEX", group = "what")]
    serial: Option<String>,
    /// An authority, by its id: all that it signed is worthless at once
    #[arg(long, value_name = "ID", group = "what")]
    authority: Option<String>,
    /// Say what is revoked now
    #[arg(long, group = "what", conflicts_with_all = ["reason", "lift", "dry_run", "force"])]
    list: bool,
    /// Why, for the log and for `--list`
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Let the identity have SVIDs again
    #[arg(long, requires = "id")]
    lift: bool,
    /// Say what would end, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Also the only authority that can sign: peers that were not sent its successor yet refuse each other for a moment
    #[arg(long, requires = "authority")]
    force: bool,
}

/// Runs it.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    let target = match (args.id, args.serial, args.authority) {
        (Some(id), ..) => Target::Identity(id),
        (_, Some(serial), _) => Target::Serial(serial),
        (_, _, Some(id)) => Target::Authority(id),
        (None, None, None) => {
            let listed = ask(&args.which, &Request::Revoked, Some(PATIENCE), |_| ())?;
            print_list(ui, &listed);
            return Ok(Exit::Done);
        }
    };
    let request = Request::Revoke(Revoke {
        target,
        reason: args.reason,
        lift: args.lift,
        dry_run: args.dry_run,
        force: args.force,
    });
    let done = ask(&args.which, &request, Some(PATIENCE), |_| ())?;
    if ui.is_json() {
        ui.json(&done);
    } else {
        for line in outcome(&done) {
            ui.line(line);
        }
    }
    match text(&done, "warning") {
        "" => {}
        warning => ui.note(format!("warning: {warning}")),
    }
    match number(&done, "left_out").unwrap_or_default() {
        0 => Ok(Exit::Done),
        left_out => Err(Failure::new(format!(
            "{left_out} more SVIDs of it are alive and had no room on the revocation list"
        ))
        .hint("`hopguard ca rotate`, then revoke the old authority: that ends them all")),
    }
}

fn outcome(done: &Value) -> Vec<String> {
    let dry = done.get("dry_run").and_then(Value::as_bool) == Some(true);
    let (is, ends) = if dry {
        ("would be", "would end")
    } else {
        ("is", "end")
    };
    let svids = number(done, "svids").unwrap_or_default();
    let until = number(done, "until")
        .filter(|_| svids > 0)
        .map_or(String::new(), |until| {
            format!(", and not by {} only", moment(until))
        });
    if let Some(id) = done.get("lifted").and_then(Value::as_str) {
        return vec![format!(
            "{id} {} have SVIDs again",
            if dry { "would" } else { "may" }
        )];
    }
    if let Some(id) = done.get("identity").and_then(Value::as_str) {
        let mut lines = vec![format!(
            "{id} {is} revoked; SVIDs of it that {ends} now{until}: {svids}"
        )];
        if let Some(until) = number(done, "jwt_until") {
            lines.push(format!(
                "its JWT-SVIDs cannot be taken back one by one: who checks them without us takes them until {}",
                moment(until)
            ));
        }
        return lines;
    }
    if let Some(serial) = done.get("serial").and_then(Value::as_str) {
        return vec![format!(
            "the SVID {serial} of {} {is} revoked now{until}",
            text(done, "spiffe_id")
        )];
    }
    let id = text(done, "authority");
    let mut lines = vec![format!(
        "{id} {} the bundle; SVIDs of it that {ends} now{until}: {svids}",
        if dry { "would leave" } else { "left" }
    )];
    if let Some(successor) = done.get("successor").and_then(Value::as_str) {
        lines.push(format!(
            "{successor} {} from now on",
            if dry { "would sign" } else { "signs" }
        ));
    }
    lines
}

fn print_list(ui: &Ui, listed: &Value) {
    if ui.is_json() {
        return ui.json(listed);
    }
    let (identities, certificates) = (list(listed, "identities"), list(listed, "certificates"));
    if identities.is_empty() && certificates.is_empty() {
        return ui.line("nothing is revoked");
    }
    let why = |one: &Value| match text(one, "reason") {
        "" => String::new(),
        reason => format!("  {}", printable(reason)),
    };
    for one in identities {
        let since = number(one, "since").map(moment).unwrap_or_default();
        ui.line(format!(
            "identity  {}  since {since}{}",
            text(one, "spiffe_id"),
            why(one)
        ));
    }
    for one in certificates {
        let until = number(one, "not_after").map(moment).unwrap_or_default();
        ui.line(format!(
            "SVID      {}  {}  ends {until}{}",
            text(one, "serial"),
            text(one, "spiffe_id"),
            why(one)
        ));
    }
}
