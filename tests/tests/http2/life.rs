//! What is long: streams that are open when something changes or ends, connections that nobody uses, clients that do not read.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use hopguard_tests::{Mesh, Options, eventually, folder, succeeded};
use serde_json::{Value, json};

use crate::support::*;

/// Two calls on one connection: a change of policy ends the one, and the other goes on.
#[test]
fn a_change_of_policy_ends_one_stream_and_leaves_the_other() {
    let grpc = grpc(&[("policies/bob.cedar", BOB)], None);
    let mesh = &grpc.mesh;
    let (alice, bob) = (
        mesh.token("alice", "none").unwrap(),
        mesh.token("bob", "none").unwrap(),
    );
    let chat = Chat::start(mesh, &[&alice, &bob]);
    chat.goes_on(0);
    chat.goes_on(1);
    fs::remove_file(mesh.file(BOB_FILE)).unwrap();
    let end = eventually(PATIENCE, || chat.ended(1).ok_or("bob goes on")).unwrap();
    assert_ne!(end["code"], 0, "{end}");
    assert!(chat.ended(0).is_none());
    chat.goes_on(0);
    let record = eventually(PATIENCE, || {
        requests(mesh, "payments", |record| {
            record["error"] == "denied_after_change"
        })
        .pop()
        .ok_or("no record")
    })
    .unwrap();
    assert_eq!(record["decision"]["verdict"], "deny", "{record}");
    assert_eq!(record["http"]["proto"], "HTTP/2");
}

/// SVIDs end, and with them connections: clients are told to come again before.
#[test]
fn calls_go_on_while_svids_rotate() {
    let grpc = grpc(&[], Some("10s"));
    let mesh = &grpc.mesh;
    let alice = mesh.token("alice", "none").unwrap();
    let first = Chat::start(mesh, &[&alice]);
    first.goes_on(0);
    // The stream that was open rests on the SVID of its time, and ends with it, with a record.
    let end = eventually(PATIENCE, || first.ended(0).ok_or("goes on")).unwrap();
    assert_ne!(end["code"], 0, "{end}");
    eventually(PATIENCE, || {
        let cut = requests(mesh, "payments", |record| {
            record["error"] == "svid_expired" || record["error"] == "client_closed"
        });
        if cut.is_empty() { Err("no record") } else { Ok(()) }
    })
    .unwrap();
    // Short calls never notice: a GOAWAY comes before the end, and the next call has a connection of its own.
    let said = called(mesh, &["repeat", "http://payments:8081", "15", &alice]);
    assert!(said[0]["answered"].as_u64() > Some(100), "{said:?}");
    assert_eq!(said[0]["failed"], serde_json::json!([]), "{said:?}");
}

/// The record of payments that says that something open was cut for this.
fn cut(mesh: &Mesh, pod: &str, why: &str) -> Value {
    eventually(PATIENCE, || {
        let found = requests(mesh, pod, |record| record["error"] == why).pop();
        found.ok_or_else(|| format!("no {why}: {:?}", requests(mesh, pod, |_| true)))
    })
    .unwrap()
}

/// Two calls of alice on one connection, with tokens of their own: the one ends with its token, the other goes on.
#[test]
fn a_call_ends_with_its_token() {
    let grpc = grpc(&[], None);
    let mesh = &grpc.mesh;
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 8;
    let short = mesh.token_with("alice", &json!({"exp": exp})).unwrap();
    let chat = Chat::start(mesh, &[&short, &mesh.token("alice", "none").unwrap()]);
    chat.goes_on(0);
    chat.goes_on(1);
    let end = eventually(PATIENCE, || chat.ended(0).ok_or("goes on")).unwrap();
    let ended = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(ended >= exp, "ended before its token did: {end}");
    assert_ne!(end["code"], 0, "{end}");
    let record = cut(mesh, "payments", "token_expired");
    assert!(record["user"].to_string().contains("alice"), "{record}");
    assert_eq!(
        (&record["http"]["proto"], &record["src"]["spiffe_id"]),
        (&"HTTP/2".into(), &"spiffe://mesh.local/ns/shop/sa/orders".into()),
        "{record}"
    );
    assert_eq!(record["http"]["status"], 200, "{record}");
    assert!(record["http"]["resp_bytes"].as_u64() > Some(0), "{record}");
    assert!(chat.ended(1).is_none());
    chat.goes_on(1);
}

/// An issuer that is taken out of the mesh file takes the calls of its users with it.
#[test]
fn a_call_ends_with_the_issuer_that_vouched_for_it() {
    let grpc = grpc(&[], None);
    let mesh = &grpc.mesh;
    let any_user = POLICY.replace(" && context.user in Role::\"corp|clerk\"", "");
    assert_ne!(any_user, POLICY);
    mesh.put("mesh/policies/http2.cedar", &any_user).unwrap();
    let bob = mesh.token("bob", "none").unwrap();
    // Bob is no clerk: once he is let in, the new policy is in force.
    eventually(PATIENCE, || {
        match &called(mesh, &["say", "http://payments:8081", "x", &bob])[0]["code"] {
            code if *code == 0 => Ok(()),
            code => Err(code.to_string()),
        }
    })
    .unwrap();
    let chat = Chat::start(mesh, &[&bob]);
    chat.goes_on(0);
    let text = fs::read_to_string(mesh.file("mesh/mesh.toml")).unwrap();
    let without = text.split("[[issuer]]").next().unwrap();
    assert_ne!(without, text);
    mesh.put("mesh/mesh.toml", without).unwrap();
    let end = eventually(PATIENCE, || chat.ended(0).ok_or("bob goes on")).unwrap();
    assert_ne!(end["code"], 0, "{end}");
    let record = cut(mesh, "payments", "token_revoked");
    assert!(record["user"].to_string().contains("bob"), "{record}");
    assert_eq!(record["http"]["proto"], "HTTP/2", "{record}");
}

fn with_web(set: &[&str]) -> Mesh {
    let dir = folder(&[("policies/http2.cedar", POLICY)]);
    Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        set: set.iter().map(|text| (*text).to_owned()).collect(),
        ..Options::default()
    })
    .unwrap()
}

/// A sidecar that is told to end says so, and lets what is under way come to its end.
#[test]
fn a_drain_says_goaway_and_lets_streams_finish() {
    let mesh = with_web(&["sidecar.web:drain.timeout=\"30s\""]);
    let mut client = Script::start(
        &mesh,
        r#"
s = door(); s.sendall(frame(1, 4, 1, head(b'/echo', b'POST')) + frame(0, 0, 1, b'one'))
for kind, flags, stream, payload in frames(s):
    if kind == 0 and payload: say('data', payload.decode())
    if kind == 7:
        say('goaway', int.from_bytes(payload[4:8], 'big'))
        if int.from_bytes(payload[:4], 'big') == 1: s.sendall(frame(0, 1, 1, b'two'))
    if kind == 3: say('reset')
    if kind in (0, 1) and flags & 1: say('ended', stream)
say('closed')
"#,
    );
    assert_eq!(client.line(), "data one");
    mesh.ctl("stop", "web").unwrap();
    let mut said = Vec::new();
    while said
        .last()
        .is_none_or(|line: &String| line != "closed" && !line.is_empty())
    {
        said.push(client.line());
    }
    // The first GOAWAY warns, the last names the stream that is still served.
    let goaways = said.iter().filter(|line| *line == "goaway 0").count();
    assert!(goaways >= 1, "{said:?}");
    let rest: Vec<_> = said.iter().filter(|line| *line != "goaway 0").collect();
    assert_eq!(rest, ["data two", "ended 1", "closed"], "{said:?}");
    let told = requests(&mesh, "web", |record| record["http"]["path"] == "/echo");
    assert!(
        told.len() == 1 && told[0]["http"]["status"] == 200 && told[0]["error"].is_null(),
        "{told:?}"
    );
}

/// What does not end by itself is ended when the drain's time is over, with a record, by whichever version it came.
#[test]
fn what_outlives_the_drain_is_cut_and_told() {
    let mesh = with_web(&["sidecar.web:drain.timeout=\"2s\""]);
    let mut client = Script::start(
        &mesh,
        r#"
s = door(); s.sendall(frame(1, 4, 1, head(b'/echo', b'POST')) + frame(0, 0, 1, b'one'))
ended = False
for kind, flags, stream, payload in frames(s):
    if kind == 0 and payload: say('data', payload.decode())
    ended |= kind in (0, 1) and flags & 1
say('whole' if ended else 'cut')
"#,
    );
    assert_eq!(client.line(), "data one");
    let mut old = Script::start(
        &mesh,
        r#"
s = socket.create_connection(('web', 8080)); s.settimeout(50)
s.sendall(b'POST /echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n')
data = b''
def more():
    try: return s.recv(65536)
    except ConnectionResetError: return b''
while not data.endswith(b'one\r\n'): data += more() or sys.exit('closed early')
say('data one')
while part := more(): data += part
say('whole' if data.endswith(b'0\r\n\r\n') else 'cut')
"#,
    );
    assert_eq!(old.line(), "data one");
    mesh.ctl("stop", "web").unwrap();
    assert_eq!((client.line(), old.line()), ("cut".to_owned(), "cut".to_owned()));
    let mut protos: Vec<String> = requests(&mesh, "web", |record| record["error"] == "drained")
        .iter()
        .map(|record| record["http"]["proto"].as_str().unwrap().to_owned())
        .collect();
    protos.sort();
    assert_eq!(protos, ["HTTP/1.1", "HTTP/2"], "{:?}", mesh.records("web"));
}

/// A connection that nobody uses is told to end and closed: one that was used, and one that never was.
#[test]
fn an_idle_connection_is_closed_in_order() {
    let mesh = with_web(&["sidecar.web:limits.idle_timeout=\"2s\""]);
    let script = r#"
s = door()
if FIRST: s.sendall(frame(1, 5, 1, head(b'/')))
for kind, flags, stream, payload in frames(s):
    if kind in (0, 1) and flags & 1: say('ended', stream)
    if kind == 7: say('goaway', int.from_bytes(payload[4:8], 'big'))
say('closed')
"#;
    let mut used = Script::start(&mesh, &script.replace("FIRST", "True"));
    let mut unused = Script::start(&mesh, &script.replace("FIRST", "False"));
    assert_eq!(used.line(), "ended 1");
    for client in [&mut used, &mut unused] {
        let mut said = vec![client.line()];
        while said.last().is_some_and(|line| line == "goaway 0") {
            said.push(client.line());
        }
        assert!(said.len() > 1 && said.last().unwrap() == "closed", "{said:?}");
    }
}

fn resident_kib(mesh: &Mesh, part: &str) -> u64 {
    let pid = mesh.pid(part).unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A client that asks for much and takes nothing: what is held for it is bounded, others are served, and in the end it goes.
#[test]
fn a_client_that_opens_no_window_costs_little_and_stops_nobody() {
    let mesh = with_web(&["sidecar.web:limits.idle_timeout=\"8s\""]);
    let before = resident_kib(&mesh, "web");
    let mut client = Script::start(
        &mesh,
        r#"
heads = [door(struct.pack('>HI', 4, 0)) for _ in range(4)]
for s in heads: s.sendall(b''.join(frame(1, 5, 2 * i + 1, head(b'/bytes/1000000000')) for i in range(40)))
answered = 0
for s in heads:
    seen = set()
    for kind, flags, stream, payload in frames(s):
        if kind == 1: seen.add(stream)
        if kind == 0 and payload: sys.exit('data without a window')
        if len(seen) == 40: break
    answered += len(seen)
say('answered', answered)
sys.stdin.readline()
# All of them are ended by the sidecar, not by us.
for s in heads:
    reset = set()
    for kind, flags, stream, payload in frames(s):
        if kind == 3: reset.add(stream)
    say('gone', len(reset))
"#,
    );
    assert_eq!(client.line(), "answered 160");
    let held = resident_kib(&mesh, "web").saturating_sub(before);
    println!("{held} KiB for 160 streams without a window");
    assert!(
        held < 64 * 1024,
        "{held} KiB are held for a client that reads nothing"
    );
    for more in [&["--http2-prior-knowledge"][..], &[]] {
        let line = [
            "curl",
            "-sS",
            "--max-time",
            "20",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{size_download}",
        ];
        let line = [&line[..], more, &["http://web:8080/bytes/1000000"]].concat();
        assert_eq!(
            succeeded(mesh.exec("laptop", &line).unwrap()).unwrap(),
            "200 1000000"
        );
    }
    client.go_on();
    for _ in 0..4 {
        let said = client.line();
        assert!(said.starts_with("gone "), "{said}");
    }
    let stalled = eventually(PATIENCE, || {
        let found = requests(&mesh, "web", |record| record["error"] == "client_stalled").len();
        if found > 0 {
            Ok(found)
        } else {
            Err("nobody was ended for reading nothing")
        }
    })
    .unwrap();
    println!("{stalled} streams were ended because their client read nothing");
}

/// What of a refused request's body nobody reads does not use up the window that the connection's other streams need.
#[test]
fn refused_bodies_give_their_window_back() {
    let mesh = with_web(&[]);
    let mut client = Script::start(
        &mesh,
        r#"
s = door(); coming = frames(s)
connection, answered, echoed, part = 65535, 0, 0, b'x' * 16384
def heard():
    global connection, answered, echoed
    kind, flags, stream, payload = next(coming)
    if kind == 8 and stream == 0: connection += int.from_bytes(payload, 'big')
    if kind == 1: answered += 1
    if kind == 0 and stream == 1001:
        echoed += len(payload)
        s.sendall(frame(8, 0, 0, struct.pack('>I', len(payload))) + frame(8, 0, stream, struct.pack('>I', len(payload))))
# Eight times what the connection's window holds, in streams that are refused.
for number in range(160):
    s.sendall(frame(1, 4, 2 * number + 1, head(b'/forbidden', b'POST')))
    for piece in range(12):
        while connection < len(part): heard()
        connection -= len(part)
        s.sendall(frame(0, 1 if piece == 11 else 0, 2 * number + 1, part))
while answered < 160: heard()
say('refused', answered)
s.sendall(frame(1, 4, 1001, head(b'/echo', b'POST')))
for piece in range(12):
    while connection < len(part): heard()
    connection -= len(part)
    s.sendall(frame(0, 1 if piece == 11 else 0, 1001, part))
while echoed < 12 * len(part): heard()
say('echoed', echoed)
"#,
    );
    assert_eq!(client.line(), "refused 160");
    assert_eq!(client.line(), "echoed 196608");
}
