//! Keys under a passphrase, through the binary.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use hopguard_tests::{hopguard, output_within};

use super::support::{Authority, for_us};
use super::{PATIENCE, lists, refused};

fn keys(authority: &Authority, arguments: &[&str]) -> std::process::Output {
    let mut command = hopguard();
    command
        .args(["ca", "keys"])
        .args(arguments)
        .arg(authority.path("ca.toml"));
    output_within(PATIENCE, command).unwrap()
}

fn passphrase(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// With a line more, or without it, for `key_passphrase_file`.
fn configured(authority: &Authority, with: bool) {
    let path = authority.path("ca.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = "key_passphrase_file = \"passphrase\"\n";
    let text = text.replace(line, "");
    std::fs::write(&path, if with { format!("{line}{text}") } else { text }).unwrap();
}

/// What the authority says when it does not start.
fn start(authority: &Authority) -> String {
    let mut command: Command = hopguard();
    command
        .args(["ca", "serve"])
        .arg(authority.path("ca.toml"))
        .stdin(Stdio::null());
    refused(&output_within(PATIENCE, command).unwrap())
}

#[test]
fn keys_are_encrypted_and_decrypted_offline_and_the_authority_stays_the_same() {
    let mut authority = Authority::files(&for_us("us"), "1h", "");
    authority.run(hopguard());
    let (before, after) = (authority.path("before"), authority.path("after"));
    lists::fetch(&authority, &before, 0);
    passphrase(&authority.path("passphrase"), "correct horse battery\n");
    configured(&authority, true);
    let said = refused(&keys(&authority, &["encrypt"]));
    assert!(
        said.contains("in use by another process"),
        "not while it runs: {said}"
    );
    authority.terminate();

    let said = start(&authority);
    assert!(
        said.contains("not encrypted") && said.contains("ca keys encrypt"),
        "{said}"
    );
    assert!(keys(&authority, &["encrypt"]).status.success());
    assert!(keys(&authority, &["encrypt"]).status.success(), "again");
    for entry in std::fs::read_dir(authority.path("data")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "p8") {
            let bytes = std::fs::read(&path).unwrap();
            assert!(bytes.starts_with(b"hopguard key\0"), "{}", path.display());
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
    authority.run(hopguard());
    lists::fetch(&authority, &after, 0);
    let roots = |dir: &Path| std::fs::read(dir.join("roots.pem")).unwrap();
    assert_eq!(roots(&before), roots(&after), "the same authority");
    authority.terminate();

    passphrase(&authority.path("passphrase"), "another horse battery\n");
    let said = start(&authority);
    assert!(said.contains("does not open") && said.contains("hint"), "{said}");
    let said = refused(&keys(&authority, &["decrypt"]));
    assert!(said.contains("does not open"), "{said}");
    configured(&authority, false);
    let said = start(&authority);
    assert!(
        said.contains("is encrypted") && said.contains("key_passphrase_file"),
        "{said}"
    );
    assert!(!said.contains("horse"), "{said}");

    passphrase(&authority.path("passphrase"), "correct horse battery\n");
    let file = authority.path("passphrase");
    let decrypted = keys(
        &authority,
        &["decrypt", "--passphrase-file", file.to_str().unwrap()],
    );
    assert!(decrypted.status.success(), "{decrypted:?}");
    authority.run(hopguard());
    lists::fetch(&authority, &after, 0);
    assert_eq!(roots(&before), roots(&after));
}

#[test]
fn the_passphrase_may_be_a_credential_of_systemd() {
    let mut authority = Authority::files(&for_us("us"), "1h", "");
    let path = authority.path("ca.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        format!("key_passphrase_credential = \"hopguard-keys\"\n{text}"),
    )
    .unwrap();
    let said = start(&authority);
    assert!(said.contains("CREDENTIALS_DIRECTORY"), "{said}");
    std::fs::create_dir(authority.path("credentials")).unwrap();
    std::fs::write(
        authority.path("credentials/hopguard-keys"),
        "correct horse battery",
    )
    .unwrap();
    let mut command = hopguard();
    command.env("CREDENTIALS_DIRECTORY", authority.path("credentials"));
    authority.run(command);
    lists::fetch(&authority, &authority.path("out"), 0);
}
