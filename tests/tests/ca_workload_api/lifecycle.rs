//! Starting, ending, crashing: the trust root stays, the sockets are what they should be, and errors say what to do.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Output;
use std::time::Duration;

use hopguard_tests::hopguard;

use crate::support::*;

fn roots(authority: &Authority) -> serde_json::Value {
    let said = Client::start(&["fetch", &authority.endpoint()]).next();
    assert!(said["roots"].is_array(), "{said}");
    said["roots"].clone()
}

/// A start that must fail.
fn fails(authority: &Authority) -> (Option<i32>, String) {
    let output: Output = hopguard()
        .args(["ca", "serve", "--config"])
        .arg(authority.path("ca.toml"))
        .output()
        .unwrap();
    assert!(output.stdout.is_empty(), "nothing is announced");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_trust_root_survives_kill_9_and_a_clean_end() {
    let mut authority = Authority::start(&for_us("a"));
    let first_roots = roots(&authority);
    authority.kill_9();
    assert!(authority.path("w.sock").exists(), "a stale socket is left");
    authority.run(hopguard());
    assert_eq!(roots(&authority), first_roots);
    let (status, _) = authority.terminate();
    assert!(status.success());
    authority.run(hopguard());
    assert_eq!(roots(&authority), first_roots);
}

#[test]
fn the_stock_stream_outlives_a_restart() {
    let mut authority = Authority::with(&for_us("a"), "3s", "");
    let stream = Client::start(&["stream", &authority.endpoint()]);
    let before = stream.next()["svids"][0]["serial"].clone();
    authority.kill_9();
    authority.run(hopguard());
    let after = std::iter::repeat_with(|| stream.next())
        .find(|said| said["svids"].is_array())
        .unwrap();
    assert_ne!(after["svids"][0]["serial"], before);
}

#[test]
fn sigterm_tells_streams_to_come_back_and_ends_within_five_seconds() {
    let mut authority = Authority::start(&for_us("a"));
    let client = call(&authority, &[]);
    client.next();
    // One more that never reads: it must not hold the end up.
    let _silent = std::os::unix::net::UnixStream::connect(authority.path("w.sock")).unwrap();
    let (status, took) = authority.terminate();
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(client.next()["status"], "UNAVAILABLE");
    assert!(!authority.path("w.sock").exists(), "the socket is gone");
}

#[test]
fn a_second_authority_on_the_same_data_is_refused() {
    let authority = Authority::start(&for_us("a"));
    let (code, error) = fails(&authority);
    assert_eq!(code, Some(4), "{error}");
    assert!(
        error.contains("in use by another process") && error.contains("hint:"),
        "{error}"
    );
    assert_eq!(
        first(&authority, &[])["ids"][0],
        "spiffe://mesh.local/a",
        "the first one is unharmed"
    );
}

#[test]
fn keys_are_for_the_authority_alone() {
    let mut authority = Authority::start(&for_us("a"));
    let data = authority.path("data");
    assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
    let key = std::fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let key = key
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "p8"))
        .unwrap();
    assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    authority.terminate();

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let (code, error) = fails(&authority);
    assert_eq!(code, Some(4), "{error}");
    assert!(
        error.contains("others may have read it") && error.contains("chmod 600"),
        "{error}"
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (code, error) = fails(&authority);
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("chmod 700"), "{error}");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();

    // Another key in its place is noticed before anything is signed with it.
    std::fs::write(&key, "not a key").unwrap();
    assert_eq!(fails(&authority).0, Some(4));
}

#[test]
fn data_of_another_trust_domain_is_refused() {
    let mut authority = Authority::start("");
    authority.terminate();
    let config = std::fs::read_to_string(authority.path("ca.toml")).unwrap();
    std::fs::write(
        authority.path("ca.toml"),
        config.replace("mesh.local", "other.mesh"),
    )
    .unwrap();
    let (code, error) = fails(&authority);
    assert_eq!(code, Some(3), "{error}");
    assert!(
        error.contains("`mesh.local`") && error.contains("`other.mesh`"),
        "{error}"
    );
}

#[test]
fn bad_files_at_the_start_are_told_with_place_and_remedy() {
    let authority = Authority::files(&entry("a", &["unix:udi:1".to_owned()]), "1h", "");
    let (code, error) = fails(&authority);
    assert_eq!(code, Some(3), "{error}");
    assert!(
        error.contains("entries.toml:3:14: unknown selector `unix:udi:1`"),
        "{error}"
    );
    assert!(error.contains("hint: known are unix:uid:N"), "{error}");
    let authority = Authority::files("", "1s", "");
    let (code, error) = fails(&authority);
    assert_eq!(code, Some(3), "{error}");
    assert!(
        error.contains("ca.toml:4:12: `svid_ttl` must be between 2s and 24h"),
        "{error}"
    );
    assert!(
        !authority.path("data").exists(),
        "nothing was made before the files were read"
    );
}

#[test]
fn the_file_may_be_named_with_or_without_a_flag_and_the_sockets_are_announced_as_absolute() {
    let authority = Authority::files("", "1s", "");
    for arguments in [
        &["ca", "serve", "--config", "ca.toml"][..],
        &["ca", "serve", "ca.toml"],
        &["ca", "serve"],
    ] {
        let output = hopguard()
            .args(arguments)
            .current_dir(authority.dir.path())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            error.contains("ca.toml:4:12: `svid_ttl`"),
            "{arguments:?}: {error}"
        );
    }
    let mut authority = Authority::files("", "1h", "");
    let mut command = hopguard();
    command.current_dir(authority.dir.path());
    let announced = authority.run(command);
    assert_eq!(announced, authority.endpoint());
}

#[test]
fn a_living_socket_is_not_taken_over() {
    let authority = Authority::start("");
    let other = Authority::files("", "1h", "");
    let config = std::fs::read_to_string(other.path("ca.toml")).unwrap();
    let taken = authority.path("w.sock").display().to_string();
    std::fs::write(
        other.path("ca.toml"),
        config.replace("\"w.sock\"", &format!("{taken:?}")),
    )
    .unwrap();
    let (code, error) = fails(&other);
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("in use by another process"), "{error}");
    assert!(!error.contains("ready"), "it has no socket: {error}");
}

#[test]
fn it_is_ready_when_its_sockets_listen() {
    let authority = Authority::start(&for_us("a"));
    let said = authority.logged(&["the authority is ready"]);
    let socket = authority.path("w.sock").display().to_string();
    assert!(said.to_string().contains(&socket), "{said}");
}

#[test]
fn a_shared_directory_is_not_taken_from_others() {
    let authority = Authority::files("", "1h", "");
    let shared = authority.path("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let config = std::fs::read_to_string(authority.path("ca.toml")).unwrap();
    let config = config.replace("data_dir = \"data\"", "data_dir = \"shared\"");
    std::fs::write(authority.path("ca.toml"), config).unwrap();
    let (code, error) = fails(&authority);
    assert_eq!(code, Some(4), "{error}");
    assert!(
        error.contains("shared/hopguard-ca") && !error.contains("chmod"),
        "{error}"
    );
}

#[test]
fn what_is_no_grpc_is_answered_as_grpc_servers_do() {
    let authority = Authority::start(&for_us("a"));
    let status = |content_type: Option<&str>| {
        let socket = authority.path("w.sock");
        let mut request = http::Request::get("http://workload/");
        if let Some(kind) = content_type {
            request = request.header("content-type", kind);
        }
        let request = request.body(()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
            let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let (response, _) = client.send_request(request, true).unwrap();
            let answered = tokio::time::timeout(DEADLINE, response).await.unwrap();
            answered.unwrap().status().as_u16()
        })
    };
    for kind in [
        None,
        Some("text/html"),
        Some("application/grpc-web"),
        Some("application/json"),
    ] {
        assert_eq!(status(kind), 415, "{kind:?}");
    }
    // The router's own answer: Unimplemented, in gRPC.
    for kind in ["application/grpc", "application/grpc+proto"] {
        assert_eq!(status(Some(kind)), 200, "{kind}");
    }
}
