//! One hostile caller: its connections are counted, cut when they say nothing, and others are served all the while.

use std::io::Read;
use std::os::unix::net::UnixStream;

use hopguard_tests::eventually;

use crate::support::*;

fn connect(authority: &Authority) -> UnixStream {
    let stream = UnixStream::connect(authority.path("w.sock")).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_millis(50)))
        .unwrap();
    stream
}

/// Whether the authority has closed it.
fn closed(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn connections_of_one_uid_are_limited_and_silent_ones_are_cut() {
    let authority = Authority::with(
        &for_us("a"),
        "1h",
        "[limits]\nconnections = 64\nconnections_per_uid = 4\n",
    );
    let mut held: Vec<_> = (0..10).map(|_| connect(&authority)).collect();
    let over = eventually(DEADLINE, || {
        let count = held
            .iter_mut()
            .filter_map(|stream| closed(stream).then_some(()))
            .count();
        if count == 6 {
            Ok(())
        } else {
            Err(format!("{count} of 10 closed"))
        }
    });
    // Within the opening time exactly those over the limit are closed; the rest follows when that has passed.
    over.unwrap();
    authority.logged(&["connection refused", "too many connections of this uid"]);
    if is_root() {
        let nobody = call(&authority, &["--uid", "65534", "--first"]).next();
        assert_eq!(
            nobody["status"], "PERMISSION_DENIED",
            "another uid is answered meanwhile"
        );
    }
    let all = eventually(DEADLINE, || {
        if held.iter_mut().all(closed) {
            Ok(())
        } else {
            Err("silent connections are still open")
        }
    });
    all.unwrap();
    assert_eq!(
        first(&authority, &[])["ids"][0],
        "spiffe://mesh.local/a",
        "there is room again"
    );
}

#[test]
fn calls_of_one_uid_are_slowed() {
    let authority = Authority::with(
        &for_us("a"),
        "1h",
        "[limits]\ncalls_per_second = 1\ncall_burst = 4\n",
    );
    // All at once, so that a busy machine does not stretch them over the time in which they are allowed.
    let clients: Vec<_> = (0..12)
        .map(|_| call(&authority, &["--first", "--timeout", "5"]))
        .collect();
    let said: Vec<_> = clients.iter().map(Client::next).collect();
    assert!(
        said.iter().any(|said| said["ids"][0] == "spiffe://mesh.local/a"),
        "{said:?}"
    );
    assert!(
        said.iter().any(|said| said["status"] == "UNAVAILABLE"),
        "{said:?}"
    );
    authority.logged(&["refused", "too many calls of this uid"]);
}
