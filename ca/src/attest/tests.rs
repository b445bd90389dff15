use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::process::{Child, Command};

use super::*;
use crate::registration::Scope;

/// A process with an executable of its own, connected to us for as long as this lives.
struct Client {
    _child: Child,
    peer: Peer,
}

fn executable(dir: &Path, name: &str) -> PathBuf {
    let real = std::fs::canonicalize("/proc/self/exe").unwrap();
    let path = dir.join(name);
    std::fs::copy(real, &path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs a copy of this test program, which connects and waits (see `connect_and_wait`).
async fn client(program: &Path, dir: &Path) -> Client {
    client_that_runs(program, dir, "").await
}

/// One that becomes another program when it is told to.
async fn client_that_runs(program: &Path, dir: &Path, other: &str) -> Client {
    let socket = dir.join(format!("{}.sock", program.file_name().unwrap().to_str().unwrap()));
    let _old = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let child = Command::new(program)
        .args(["--exact", "attest::tests::connect_and_wait", "--ignored"])
        .env("HOPGUARD_TEST_CONNECT", &socket)
        .env("HOPGUARD_TEST_EXEC", other)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (stream, _) = tokio::time::timeout(Duration::from_secs(30), listener.accept())
        .await
        .unwrap()
        .unwrap();
    let peer = Peer::of(&stream, "default".into()).unwrap();
    Client { _child: child, peer }
}

#[test]
#[ignore = "the other side of these tests, run by them"]
fn connect_and_wait() {
    let Some(socket) = std::env::var_os("HOPGUARD_TEST_CONNECT") else {
        return;
    };
    let _held = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let _until_closed = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
    if let Some(other) = std::env::var_os("HOPGUARD_TEST_EXEC").filter(|other| !other.is_empty()) {
        use std::os::unix::process::CommandExt;
        let _failed = std::process::Command::new(other).arg("600").exec();
    }
}

fn entries(selectors: &[String]) -> Entries {
    let text = format!("[[entry]]\nspiffe_id = \"spiffe://td/a\"\nselectors = {selectors:?}\n");
    Entries::parse(Path::new("e"), &text, &Scope::default()).unwrap()
}

async fn granted(peer: &Peer, selectors: &[String]) -> Result<(), String> {
    let entries = entries(selectors);
    let facts = peer
        .facts(&entries, &Inspector::new())
        .await
        .map_err(|error| error.to_string())?;
    let matching = entries.matching(&facts);
    match (matching.grants.first(), matching.refused.first()) {
        (Some(_), _) => Ok(()),
        (None, Some(refused)) => Err(refused.reason.to_string()),
        (None, None) => Err("mismatch".to_owned()),
    }
}

fn uid() -> String {
    format!("unix:uid:{}", rustix::process::geteuid().as_raw())
}

fn path_of(path: &Path) -> String {
    format!("unix:path:{}", path.display())
}

fn hash_of(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    format!("unix:sha256:{}", hex::encode(hash))
}

#[tokio::test]
async fn uid_gid_path_and_hash_are_what_the_kernel_says() {
    let dir = tempfile::tempdir().unwrap();
    let program = executable(&dir.path().canonicalize().unwrap(), "orders");
    let client = client(&program, dir.path()).await;
    let gid = rustix::process::getegid().as_raw();
    let all = [
        uid(),
        format!("unix:gid:{gid}"),
        path_of(&program),
        hash_of(&program),
        "socket:default".to_owned(),
    ];
    assert_eq!(granted(&client.peer, &all).await, Ok(()));

    let mismatch = Err("mismatch".to_owned());
    let other_hash = format!("unix:sha256:{}", "00".repeat(32));
    for wrong in [
        format!("unix:uid:{}", rustix::process::geteuid().as_raw() + 1),
        format!("unix:gid:{}", gid + 1),
        path_of(&dir.path().join("other")),
        other_hash,
        "socket:other".to_owned(),
    ] {
        assert_eq!(
            granted(&client.peer, std::slice::from_ref(&wrong)).await,
            mismatch,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn an_executable_that_was_replaced_or_removed_has_no_path_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let program = executable(&dir.path().canonicalize().unwrap(), "orders");
    let (selectors, hash) = ([path_of(&program)], [hash_of(&program)]);
    let client = client(&program, dir.path()).await;
    assert_eq!(granted(&client.peer, &selectors).await, Ok(()));

    std::fs::remove_file(&program).unwrap();
    let refused = granted(&client.peer, &selectors).await.unwrap_err();
    assert!(refused.contains("removed") || refused == "mismatch", "{refused}");

    // The name that the kernel now shows: "orders (deleted)". A file of that name is not the one that runs.
    let marked = dir.path().canonicalize().unwrap().join("orders (deleted)");
    std::fs::copy("/bin/true", &marked).unwrap();
    for selectors in [[path_of(&program)], [path_of(&marked)]] {
        let refused = granted(&client.peer, &selectors).await.unwrap_err();
        assert!(refused.contains("replaced"), "{refused}");
    }
    std::fs::copy("/bin/true", &program).unwrap();
    assert!(granted(&client.peer, &selectors).await.is_err());
    // The hash is of what runs, not of what lies there now.
    assert_eq!(granted(&client.peer, &hash).await, Ok(()));
    assert_eq!(
        granted(&client.peer, &[hash_of(&program)]).await,
        Err("mismatch".to_owned())
    );
}

#[tokio::test]
async fn a_process_that_ended_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let program = executable(&dir.path().canonicalize().unwrap(), "orders");
    let Client { mut _child, peer } = client(&program, dir.path()).await;
    assert_eq!(granted(&peer, &[uid()]).await, Ok(()));
    _child.kill().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), peer.gone())
        .await
        .unwrap();
    assert!(granted(&peer, &[uid()]).await.unwrap_err().contains("is gone"));
    assert_eq!(peer.check(), Err(AttestError::Gone(peer.pid())));
}

#[tokio::test]
async fn a_remembered_hash_is_not_used_for_a_changed_file() {
    let dir = tempfile::tempdir().unwrap();
    let inspector = Inspector::new();
    let program = executable(&dir.path().canonicalize().unwrap(), "orders");
    let hash = hash_of(&program);
    let first = client(&program, dir.path()).await;
    let facts = first
        .peer
        .facts(&entries(std::slice::from_ref(&hash)), &inspector)
        .await
        .unwrap();
    assert!(matches!(facts.sha256, Fact::Proven(_)));
    drop(first);
    // Same size, other contents, same inode: a trailing byte of the file is not looked at by the loader.
    let mut bytes = std::fs::read(&program).unwrap();
    bytes.push(0);
    std::fs::write(dir.path().join("copy"), &bytes).unwrap();
    std::fs::set_permissions(dir.path().join("copy"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(dir.path().join("copy"), &program).unwrap();
    let second = client(&program, dir.path()).await;
    let entries = entries(&[hash]);
    let facts = second.peer.facts(&entries, &inspector).await.unwrap();
    assert!(entries.matching(&facts).grants.is_empty());
}

#[tokio::test]
async fn a_process_that_becomes_another_program_is_refused_for_good() {
    use tokio::io::AsyncWriteExt;
    let dir = tempfile::tempdir().unwrap();
    let program = executable(dir.path(), "program");
    let mut client = client_that_runs(&program, dir.path(), "sleep").await;
    let (inspector, by_path) = (
        Inspector::new(),
        entries(&["unix:path:/usr/bin/trusted".to_owned()]),
    );
    let before = client.peer.facts(&by_path, &inspector).await.unwrap();
    assert_eq!(before.path, Fact::Proven(program));
    let stdin = client._child.stdin.as_mut().unwrap();
    stdin.write_all(b"x").await.unwrap();
    let refused = async {
        loop {
            match client.peer.facts(&by_path, &inspector).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(30), refused)
        .await
        .unwrap();
    assert!(matches!(refused, AttestError::Replaced(_)), "{refused:?}");
    // Whatever is asked from now on.
    assert!(
        client
            .peer
            .facts(&entries(&["unix:uid:0".to_owned()]), &inspector)
            .await
            .is_err()
    );
}
