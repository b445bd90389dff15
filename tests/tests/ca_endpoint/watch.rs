//! `hopguard svid watch`: files that change together, and a program that is told.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;

use hopguard_tests::{Guard, eventually, hopguard};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::support::*;

struct Watch {
    process: Guard,
    sets: Receiver<String>,
    log: PathBuf,
}

impl Watch {
    fn start(authority: &Authority, dir: &Path, more: &[&str]) -> Self {
        let log = authority.path("watch.log");
        let mut child = hopguard()
            .args([
                "-o",
                "json",
                "svid",
                "watch",
                "--socket",
                &authority.socket(),
                "--write",
            ])
            .arg(dir)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let sets = lines(child.stdout.take().unwrap());
        Self {
            process: Guard(child),
            sets,
            log,
        }
    }

    fn next(&self) -> Value {
        let line = self
            .sets
            .recv_timeout(DEADLINE)
            .unwrap_or_else(|error| panic!("{error}: {}", self.log()));
        serde_json::from_str(&line).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn logged(&self, words: &str) {
        eventually(DEADLINE, || {
            if self.log().contains(words) {
                Ok(())
            } else {
                Err(self.log())
            }
        })
        .unwrap();
    }
}

/// The set behind a folder, read as a careful program does; whether key and certificate belong together.
fn whole(set: &Path) -> Result<CertificateDer<'static>, String> {
    let chain = CertificateDer::from_pem_file(set.join("svid.pem")).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_file(set.join("svid.key")).map_err(|error| error.to_string())?;
    CertificateDer::from_pem_file(set.join("bundle.pem")).map_err(|error| error.to_string())?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(vec![chain.clone()], key, &provider)
        .map_err(|error| error.to_string())?;
    Ok(chain)
}

#[test]
fn a_reader_never_sees_half_a_set() {
    let authority = Authority::with("2s", "");
    let dir = authority.path("svid");
    let watch = Watch::start(&authority, &dir, &[]);
    assert_eq!(watch.next()["spiffe_id"], OURS);
    let mut seen = std::collections::BTreeSet::new();
    let several = eventually(DEADLINE, || {
        // Whoever looks once where `..data` leads has one set, whole, also when the next one comes meanwhile.
        let set = dir.join(std::fs::read_link(dir.join("..data")).unwrap());
        let certificate = whole(&set).unwrap_or_else(|error| panic!("{error}"));
        seen.insert(certificate.to_vec());
        if seen.len() >= 5 { Ok(()) } else { Err(seen.len()) }
    });
    several.unwrap();
    let sets = std::fs::read_dir(&dir).unwrap().filter_map(Result::ok);
    assert!(sets.filter(|entry| entry.file_type().unwrap().is_dir()).count() <= 3);
    let socket = authority.socket();
    let second = run(&[
        "svid",
        "watch",
        "--socket",
        &socket,
        "--write",
        dir.to_str().unwrap(),
    ]);
    fails(&second, 4, "another `svid watch`");
}

#[test]
fn without_the_authority_the_files_stay_and_the_log_says_until_when() {
    let mut authority = Authority::with("8s", "");
    let dir = authority.path("svid");
    let watch = Watch::start(&authority, &dir, &[]);
    watch.next();
    authority.kill_9();
    let held = whole(&dir).unwrap();
    let until = watch.log();
    watch.logged("no new SVID came although it is time; the files are good until then");
    assert!(until.contains("until"), "{until}");
    watch.logged("has ended");
    assert_eq!(whole(&dir).unwrap(), held, "nothing is removed");
    // It comes back, and so does the rest, without anybody's help.
    authority.run();
    let renewed = eventually(DEADLINE, || match whole(&dir) {
        Ok(other) if other != held => Ok(()),
        _ => Err("the old one still"),
    });
    renewed.unwrap();
    // An identity that is taken back: told, and the files stay.
    let entries = authority.path("entries.toml");
    put(&entries, 0o644, "");
    watch.logged("the identity is not ours any more");
    whole(&dir).unwrap();
}

#[test]
fn a_command_is_run_after_each_change_and_again_when_it_failed() {
    let authority = Authority::with("4s", "");
    let dir = authority.path("svid");
    let (told, broken) = (authority.path("told"), authority.path("broken"));
    std::fs::write(&broken, "").unwrap();
    let script = format!("test ! -e {broken:?} && cat \"$HOPGUARD_SVID_DIR/svid.pem\" >> {told:?}");
    let watch = Watch::start(&authority, &dir, &["--", "sh", "-c", &script]);
    assert_eq!(watch.next()["told"], false);
    watch.logged("the change could not be told");
    assert!(!told.exists());
    std::fs::remove_file(&broken).unwrap();
    let twice = eventually(DEADLINE, || {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        if text.matches("BEGIN").count() >= 2 {
            Ok(())
        } else {
            Err(text)
        }
    });
    twice.unwrap();
    let once = authority.path("once");
    let output = run(&[
        "svid",
        "watch",
        "--once",
        "--socket",
        &authority.socket(),
        "--write",
        once.to_str().unwrap(),
    ]);
    assert!(stdout(&output).starts_with(OURS), "{}", said(&output));
    whole(&once).unwrap();
    let other = run(&[
        "svid",
        "watch",
        "--socket",
        "nowhere",
        "--write",
        once.to_str().unwrap(),
    ]);
    fails(&other, 2, "not a Workload API endpoint");
}

/// nginx with its files in a folder of its own.
struct Nginx {
    process: Guard,
    port: u16,
}

impl Drop for Nginx {
    /// Its workers end with it when it is asked to, and not when it is killed.
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.0.id()).unwrap());
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _in_time = eventually(DEADLINE, || match self.process.0.try_wait() {
            Ok(None) => Err("it runs"),
            _ => Ok(()),
        });
    }
}

impl Nginx {
    fn start(home: &Path, svid: &Path, port: u16) -> Self {
        let config = format!(
            "daemon off;\nworker_processes 1;\npid {home}/nginx.pid;\nerror_log {home}/error.log;\nevents {{}}\nhttp {{\n\
             access_log off;\nclient_body_temp_path {home}/a;\nproxy_temp_path {home}/b;\nfastcgi_temp_path {home}/c;\n\
             uwsgi_temp_path {home}/d;\nscgi_temp_path {home}/e;\nserver {{\nlisten 127.0.0.1:{port} ssl;\n\
             ssl_certificate {svid}/svid.pem;\nssl_certificate_key {svid}/svid.key;\n\
             ssl_client_certificate {svid}/bundle.pem;\nreturn 200 'here\\n';\n}}\n}}\n",
            home = home.display(),
            svid = svid.display()
        );
        std::fs::write(home.join("nginx.conf"), config).unwrap();
        let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"]
            .into_iter()
            .find(|program| Path::new(program).exists())
            .expect("nginx (tests/setup.sh installs it)");
        let process = Command::new(program)
            .arg("-p")
            .arg(home)
            .arg("-c")
            .arg(home.join("nginx.conf"))
            .arg("-e")
            .arg(home.join("error.log"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            process: Guard(process),
            port,
        }
    }

    /// What it shows, and whether openssl trusts it now by the bundle in the folder.
    fn shown(&self, bundle: &Path) -> Result<String, String> {
        let place = format!("127.0.0.1:{}", self.port);
        let answer = said(&openssl(&[
            "s_client",
            "-connect",
            &place,
            "-verify_return_error",
            "-CAfile",
            bundle.to_str().unwrap(),
        ]));
        if !answer.contains("Verify return code: 0 (ok)") {
            return Err(answer);
        }
        let (_, pem) = answer
            .split_once("-----BEGIN CERTIFICATE-----")
            .ok_or("no certificate")?;
        Ok(pem.split("-----END").next().unwrap_or_default().to_owned())
    }
}

#[test]
fn nginx_reads_the_files_again_by_a_signal_and_never_shows_one_that_has_ended() {
    let authority = Authority::with("8s", "");
    let (dir, home) = (authority.path("svid"), authority.path("nginx"));
    std::fs::create_dir(&home).unwrap();
    let socket = authority.socket();
    stdout(&run(&[
        "svid",
        "watch",
        "--once",
        "--socket",
        &socket,
        "--write",
        dir.to_str().unwrap(),
    ]));
    let nginx = Nginx::start(&home, &dir, free_port());
    let bundle = dir.join("bundle.pem");
    let first = eventually(DEADLINE, || nginx.shown(&bundle)).unwrap();
    let pid = home.join("nginx.pid");
    let watch = Watch::start(
        &authority,
        &dir,
        &["--signal", "hup", "--pid-file", pid.to_str().unwrap()],
    );
    let mut seen = std::collections::BTreeSet::from([first]);
    let followed = eventually(DEADLINE, || {
        seen.insert(
            nginx
                .shown(&bundle)
                .unwrap_or_else(|answer| panic!("{answer}\n{}", watch.log())),
        );
        if seen.len() >= 5 {
            Ok(())
        } else {
            Err(format!("{} certificates", seen.len()))
        }
    });
    followed.unwrap();
    assert!(watch.log().contains("the signal was sent"), "{}", watch.log());
    drop(watch.process);
    whole(&dir).unwrap();
}

#[test]
fn once_ends_with_the_reason_whatever_fails() {
    use std::os::unix::fs::PermissionsExt;
    let authority = Authority::with("1h", "");
    let (dir, socket) = (authority.path("svid"), authority.socket());
    let once = |dir: &Path, more: &[&str]| {
        let start = ["svid", "watch", "--once", "--socket", &socket, "--write"];
        run(&[&start, &[dir.to_str().unwrap()][..], more].concat())
    };
    fails(&once(&dir, &["--", "false"]), 4, "`false`: exit status: 1");
    let pid = authority.path("pid");
    std::fs::write(&pid, "no number").unwrap();
    let pid = pid.to_str().unwrap();
    fails(
        &once(&dir, &["--signal", "hup", "--pid-file", pid]),
        4,
        "no process id",
    );
    fails(
        &once(&dir, &["--id", "spiffe://mesh.local/other"]),
        1,
        "not offered",
    );
    let open = authority.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    fails(&once(&open.join("svid"), &[]), 4, "other users");
    std::fs::create_dir(open.join("issued")).ok();
    let config = authority.path("ca.toml");
    let issued = run(&[
        "svid",
        "issue",
        OURS,
        "--config",
        config.to_str().unwrap(),
        "--write",
        open.join("issued").to_str().unwrap(),
    ]);
    fails(&issued, 4, "other users");
    let config = config.to_str().unwrap();
    stdout(&run(&["ca", "revoke", "--id", OURS, "--config", config]));
    fails(&once(&dir, &[]), 1, "is revoked");
    let fetched = run(&["svid", "fetch", "--socket", &socket]);
    fails(&fetched, 1, "ca revoke --list");
}
