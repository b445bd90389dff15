//! The demo in the host's namespaces: what was asked for enters, an exit code leaves. It holds the socket by which a demo
//! is found, and everything else ends with it, however it ends.

use std::env;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::control::{self, Status};
use super::spec::{Mode, Spec};
use super::{failed, host_pids, message};
use crate::ui::{Exit, Failure, Ui};

/// How long everything may take to end by itself.
const ENDING: Duration = Duration::from_secs(5);

/// Runs a demo until it ends, or until it is told to.
pub fn run(spec: Spec, ui: &Ui) -> Result<Exit, Failure> {
    needed_programs(&spec, &|program| {
        env::split_paths(&search_path()).any(|folder| folder.join(program).is_file())
    })?;
    let listener = OwnedFd::from(control::listen(&spec.name)?);
    let (near, far) = UnixStream::pair().map_err(failed("making the control socket"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("starting"))?;
    let ended = runtime.block_on(async {
        let mut child = launcher(far, ui)?;
        if let Err(error) = message::send(&near, &spec, &[listener.as_fd()]) {
            // It ended before it heard us, and has said why.
            let ended = tokio::time::timeout(ENDING, child.wait()).await;
            return match ended {
                Ok(Ok(status)) if !status.success() => Ok(Exit::of_code(status.code())),
                _ => Err(failed("starting the demo")(error)),
            };
        }
        drop(listener);
        watch(child, near, spec.mode, ui).await
    });
    runtime.shutdown_background();
    ended
}

/// Where programs are looked for: an ordinary user's path leaves out what Debian puts in `sbin`.
pub fn search_path() -> String {
    let own = env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

fn needed_programs(spec: &Spec, there: &dyn Fn(&str) -> bool) -> Result<(), Failure> {
    let mut needed = vec![("ip", "iproute2"), ("iptables-restore", "iptables")];
    if spec.families.v6 {
        needed.push(("ip6tables-restore", "iptables"));
    }
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|(program, _)| !there(program))
        .collect();
    let Some((_, package)) = missing.first() else {
        return Ok(());
    };
    let programs = missing
        .iter()
        .map(|(program, _)| *program)
        .collect::<Vec<_>>()
        .join(", ");
    let packages = missing
        .iter()
        .map(|(_, package)| *package)
        .filter(|other| other != package);
    let packages = packages.fold((*package).to_owned(), |all, one| {
        if all.contains(one) { all } else { all + " " + one }
    });
    Err(Failure::new(format!(
        "the demo needs {programs}, not found in PATH nor in sbin"
    ))
    .hint(format!("on Debian and Ubuntu: sudo apt-get install {packages}"))
    .exit(Exit::NotHere))
}

/// The process that makes the namespaces, in a process group of its own: a ctrl-C reaches only us, and we end the rest.
fn launcher(control: UnixStream, ui: &Ui) -> Result<Child, Failure> {
    let output = if ui.is_json() { "json" } else { "text" };
    Command::new(Path::new("/proc/self/exe"))
        .args(["-o", output, "demo", "launch"])
        .arg0("hopguard")
        .env("PATH", search_path())
        .stdin(OwnedFd::from(control))
        .process_group(0)
        .spawn()
        .map_err(failed("starting the demo"))
}

async fn watch(mut child: Child, control: UnixStream, mode: Mode, ui: &Ui) -> Result<Exit, Failure> {
    let launcher = child.id().unwrap_or_default();
    let heard = control.try_clone().map_err(failed("listening to the demo"))?;
    let mut events = listen_to_demo(heard)?;
    if mode == Mode::Bare && somebody_holds(&io::stdin()) {
        // Whoever started us ends us by closing our standard input.
        thread_for("input", {
            let control = control.try_clone().map_err(failed("watching standard input"))?;
            move || {
                let _until_closed = io::copy(&mut io::stdin().lock().take(u64::MAX), &mut io::sink());
                tell_to_end(&control);
            }
        })?;
    }
    let mut stop = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ]
    .map(signal)
    .into_iter()
    .collect::<Result<Vec<_>, _>>()
    .map_err(failed("watching signals"))?;
    let [interrupt, terminate, hangup] = stop.as_mut_slice() else {
        return Err(Failure::new("watching signals"));
    };
    loop {
        tokio::select! {
            status = child.wait() => return Ok(Exit::of_code(status.map_err(failed("waiting for the demo"))?.code())),
            Some(status) = events.recv() => ui.json(&Status::seen_from_host(status, &host_pids::below(launcher))),
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
        }
    }
    tell_to_end(&control);
    let ended = match tokio::time::timeout(ENDING, child.wait()).await {
        Ok(status) => Exit::of_code(status.map_err(failed("waiting for the demo"))?.code()),
        Err(_) => {
            child.kill().await.map_err(failed("ending the demo"))?;
            Exit::No
        }
    };
    match mode {
        // A story that was cut short has shown nothing, and a script must not take it for a pass.
        Mode::Story { once: true } => Err(Failure::new("interrupted before the story was told")),
        Mode::Story { once: false } | Mode::Bare => Ok(ended),
    }
}

/// Whether somebody can close this input later: nobody can where there was none to begin with (`/dev/null`, a file).
fn somebody_holds(input: &(impl AsFd + IsTerminal)) -> bool {
    let kind = rustix::fs::fstat(input).map(|found| rustix::fs::FileType::from_raw_mode(found.st_mode));
    input.is_terminal() || kind.is_ok_and(|kind| kind.is_fifo() || kind.is_socket())
}

fn tell_to_end(control: &UnixStream) {
    // Already gone is as good.
    let _gone = control.shutdown(std::net::Shutdown::Write);
}

/// What the demo's first process says: that it is ready.
fn listen_to_demo(control: UnixStream) -> Result<mpsc::Receiver<Status>, Failure> {
    let (events, heard) = mpsc::channel(1);
    thread_for("demo", move || {
        while let Ok(Some((status, _))) = message::receive::<Status>(&control) {
            if events.blocking_send(status).is_err() {
                return;
            }
        }
    })?;
    Ok(heard)
}

fn thread_for(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(failed("starting a thread"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::pods::Families;
    use super::*;

    #[test]
    fn an_input_that_nobody_holds_ends_nothing() {
        let (reader, _writer) = io::pipe().unwrap();
        let reader = std::fs::File::from(OwnedFd::from(reader));
        let (near, _far) = UnixStream::pair().unwrap();
        let socket = std::fs::File::from(OwnedFd::from(near));
        assert!(somebody_holds(&reader) && somebody_holds(&socket));
        let nothing = std::fs::File::open("/dev/null").unwrap();
        assert!(!somebody_holds(&nothing));
        assert!(!somebody_holds(&tempfile::tempfile().unwrap()));
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let spec = Spec {
            name: "x".into(),
            program: "hopguard".into(),
            families: Families { v4: true, v6: true },
            mode: Mode::Bare,
            set: Vec::new(),
            files: BTreeMap::new(),
        };
        assert!(needed_programs(&spec, &|_| true).is_ok());
        let none = needed_programs(&spec, &|_| false).unwrap_err();
        assert!(
            none.message.contains("ip, iptables-restore, ip6tables-restore"),
            "{}",
            none.message
        );
        assert!(none.hint.unwrap().ends_with("install iproute2 iptables"));
        let one = needed_programs(&spec, &|program| program != "ip6tables-restore").unwrap_err();
        assert!(one.hint.unwrap().ends_with("install iptables"));
        let four = Spec {
            families: Families { v4: true, v6: false },
            ..spec
        };
        assert!(needed_programs(&four, &|program| program != "ip6tables-restore").is_ok());
    }
}
