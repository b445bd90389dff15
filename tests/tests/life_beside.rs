//! `hopguard wait` and `hopguard run`: a command beside a sidecar starts when its traffic can pass, hears its signals, and
//! its end is the end of all. Each test has a network namespace of its own, a real authority and a real sidecar.

#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use hopguard_tests::{hopguard_bin, output_within};

const PATIENCE: Duration = Duration::from_secs(120);

/// What every script finds: a configuration in `d`, the binary as `$H`, and functions to start the parts.
const START: &str = r#"
ip link set lo up
"$H" config init d >/dev/null 2>&1
sed -i "s/unix:uid:[0-9]*/unix:uid:$(id -u)/" d/entries.toml
printf '\n[traffic]\nprobe = false\n' >> d/sidecar.toml
authority() {
  "$H" ca serve d/ca.toml >ca.out 2>ca.err & ca=$!
  until [ -s ca.out ]; do kill -0 $ca || exit 99; sleep 0.05; done
}
"#;

fn script(dir: &Path, text: &str) -> Output {
    // Whatever our caller ignores (a shell's background job: SIGINT and SIGQUIT) is not the matter here.
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,QUIT", "unshare"]);
    // With its own processes, so that nothing is left behind whatever happens.
    command
        .args([
            "-Urn",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
        ])
        .arg(format!("{START}\n{text}"))
        .env("H", hopguard_bin())
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .current_dir(dir)
        .stdin(Stdio::null());
    output_within(PATIENCE, command).unwrap()
}

/// Standard output of a script, with what went wrong beside it.
fn said(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = script(dir.path(), text);
    let out = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(
        output.status.success(),
        "{out}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    out
}

#[test]
fn a_command_ends_with_its_own_code_and_takes_its_sidecar_with_it() {
    let out = said(
        r#"authority
        "$H" run --config d/sidecar.toml -- sh -c 'exit 9' 2>/dev/null; echo "code $?"
        "$H" run --config d/sidecar.toml -- sh -c 'kill -KILL $$' 2>/dev/null; echo "killed $?"
        "$H" run --config d/sidecar.toml -- sh -c 'kill -TERM $$' 2>/dev/null; echo "ended $?"
        "$H" run --config d/sidecar.toml -- true 2>/dev/null; echo "true $?"
        pgrep -f '[s]idecar --die' || echo none left"#,
    );
    assert_eq!(out, "code 9\nkilled 137\nended 143\ntrue 0\nnone left");
}

#[test]
fn a_command_starts_only_when_the_sidecar_is_ready_and_has_its_traffic_then() {
    let out = said(
        r#"authority
        "$H" run --config d/sidecar.toml -- "$H" wait --timeout 1 2>/dev/null; echo "code $?""#,
    );
    assert_eq!(out, "ready\ncode 0");
}

#[test]
fn without_an_identity_the_command_never_starts_and_the_reason_is_told() {
    let out = said(
        r#""$H" run --config d/sidecar.toml --timeout 2 -- touch started 2>err; echo "code $?"
        [ -e started ] || echo never started
        grep -o 'not ready after 2 s: no identity: cannot reach the Workload API' err
        pgrep -f '[s]idecar --die' || echo none left"#,
    );
    assert_eq!(
        out,
        "code 1\nnever started\nnot ready after 2 s: no identity: cannot reach the Workload API\nnone left"
    );
}

#[test]
fn a_sidecar_that_cannot_start_is_not_waited_for() {
    let out = said(
        r#"echo 'nonsense = 1' >> d/sidecar.toml
        "$H" run --config d/sidecar.toml --timeout 60 -- touch started 2>err; echo "code $?"
        [ -e started ] || echo never started
        grep -o 'unknown key `nonsense`' err | head -n 1"#,
    );
    assert_eq!(out, "code 3\nnever started\nunknown key `nonsense`");
    let out = said(
        r#"authority
        # Its port is taken by another sidecar, which is not the one that was meant, but ready.
        sed 's/^mesh = .*/mesh = "other.toml"/' d/sidecar.toml > d/other-sidecar.toml
        cp d/mesh.toml d/other.toml
        "$H" sidecar --config d/other-sidecar.toml >/dev/null 2>&1 & other=$!
        "$H" wait 2>/dev/null
        "$H" run --config d/sidecar.toml -- touch started 2>err; echo "code $?"
        [ -e started ] || echo never started
        grep -o 'a sidecar answers at 127.0.0.1:15021 already' err"#,
    );
    assert_eq!(
        out,
        "ready\ncode 4\nnever started\na sidecar answers at 127.0.0.1:15021 already"
    );
}

#[test]
fn signals_are_the_commands_to_hear() {
    let out = said(
        r#"authority
        "$H" sidecar --config d/sidecar.toml >/dev/null 2>&1 & sidecar=$!
        "$H" wait 2>/dev/null
        for s in TERM INT HUP QUIT USR1 USR2; do
          "$H" run -- bash -c "trap 'echo heard $s; exit 5' $s; kill -$s \$PPID; while :; do sleep 0.05; done" 2>/dev/null
          echo "code $?"
        done
        kill -0 $sidecar && echo the sidecar was not ours to stop"#,
    );
    let mut wanted = String::from("ready\n");
    for signal in ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"] {
        wanted += &format!("heard {signal}\ncode 5\n");
    }
    assert_eq!(out, wanted + "the sidecar was not ours to stop");
}

#[test]
fn a_signal_before_the_sidecar_is_ready_ends_the_waiting() {
    let out = said(
        r#""$H" run --config d/sidecar.toml --timeout 60 -- touch started 2>err & run=$!
        until grep -q 'no identity' err; do sleep 0.05; done
        kill -TERM $run; wait $run; echo "code $?"
        [ -e started ] || echo never started
        pgrep -f '[s]idecar --die' || echo none left"#,
    );
    assert_eq!(out, "code 1\nnever started\nnone left");
}

#[test]
fn what_cannot_be_executed_is_told_as_shells_do() {
    let out = said(
        r#"authority
        "$H" run --config d/sidecar.toml -- /nonexistent 2>err; echo "code $?"
        grep -o '`/nonexistent`' err
        "$H" run --config d/sidecar.toml -- /etc/hostname 2>/dev/null; echo "code $?"
        "$H" run -- 2>/dev/null; echo "code $?"
        "$H" run --user no-such-user -- true 2>err; echo "code $?"; grep -o 'no user `no-such-user`' err"#,
    );
    assert_eq!(
        out,
        "code 127\n`/nonexistent`\ncode 126\ncode 2\ncode 2\nno user `no-such-user`"
    );
}

#[test]
fn the_first_process_of_a_container_leaves_no_dead_process_behind() {
    let out = said(
        r#"authority
        # Its grandchild ends after its parent, and is handed to the first process of the namespace.
        unshare --pid --fork --mount-proc "$H" run --config d/sidecar.toml -- bash -c '
          (bash -c "sleep 0.2 & exec true"); n=1
          until [ "$n" = 0 ] && [ -z "$(pgrep -x sleep)" ]; do n=$(ps -eo stat | grep -c "^Z"); done; echo "dead $n"' 2>/dev/null"#,
    );
    assert_eq!(out, "dead 0");
}

#[test]
fn waiting_has_an_end_and_says_what_was_missing() {
    let out = said(
        r#""$H" wait --timeout 1 2>err; echo "code $?"; grep -o 'nothing answers at 127.0.0.1:15021' err | tail -n 1
        "$H" sidecar --config d/sidecar.toml >/dev/null 2>&1 &
        "$H" wait --config d/sidecar.toml --timeout 2 2>err; echo "code $?"; grep -o 'after 2 s: no identity' err
        authority
        "$H" wait --config d/sidecar.toml -o json 2>/dev/null | grep -o '"ready":true'
        "$H" wait --health 127.0.0.1:1 --timeout 1 -o json 2>&1 >/dev/null | grep -o '"error":"[^:]*'"#,
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[..5],
        [
            "code 1",
            "nothing answers at 127.0.0.1:15021",
            "code 1",
            "after 2 s: no identity",
            "\"ready\":true"
        ],
        "{out}"
    );
}

#[test]
fn a_signal_without_a_name_ends_it_too_and_an_ignored_one_stays_ignored() {
    let out = said(
        r#"authority
        "$H" sidecar --config d/sidecar.toml >/dev/null 2>&1 &
        "$H" wait 2>/dev/null
        "$H" run -- bash -c 'kill -s RTMIN+1 $$' 2>/dev/null; echo "code $?"
        # As `nohup` does it: the command is not to hear of the hangup, whoever sends it.
        (trap '' HUP; "$H" run -- bash -c 'kill -HUP $PPID; kill -HUP $$; echo lived' 2>/dev/null); echo "code $?""#,
    );
    assert_eq!(out, "ready\ncode 163\nlived\ncode 0");
}

#[test]
fn whatever_holds_the_health_port_cannot_keep_it_waiting_or_say_that_it_is_ready() {
    let out = said(
        r#"cat > holder.py <<'END'
import socket, sys, time
server = socket.create_server(("127.0.0.1", 7777))
print("up", flush=True)
for _ in range(2):
    peer, _ = server.accept()
    try:
        if sys.argv[1] == "slow":
            for byte in b"HTTP/1.1 200 OK\r\n\r\n" * 40:
                peer.sendall(bytes([byte])); time.sleep(0.5)
        else:
            peer.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n{\"ready\":true}")
        peer.close()
    except OSError:
        pass
END
        for kind in slow wrong; do
          python3 holder.py $kind > up & holder=$!
          until [ -s up ]; do sleep 0.05; done
          timeout 30 "$H" wait --health 127.0.0.1:7777 --timeout 1 2>/dev/null; echo "code $?"
          kill $holder; wait $holder 2>/dev/null; rm up
        done"#,
    );
    assert_eq!(out, "code 1\ncode 1");
}
