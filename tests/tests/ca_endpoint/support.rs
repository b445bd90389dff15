//! An authority of its own for each test, server certificates, and what it takes to ask.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use hopguard_tests::{Guard, eventually, hopguard};
use serde_json::Value;
use tempfile::TempDir;

/// Generous: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(60);
pub const OURS: &str = "spiffe://mesh.local/ns/shop/sa/web";

/// A running authority in a directory of its own, with an entry for whoever runs the tests.
pub struct Authority {
    pub dir: TempDir,
    process: Option<Guard>,
    /// The URLs that it announced beside its socket.
    pub places: Vec<String>,
}

impl Authority {
    /// With these lines at the end of its ca.toml.
    pub fn start(more: &str) -> Self {
        Self::with("1h", more)
    }

    pub fn with(svid_ttl: &str, more: &str) -> Self {
        let mut authority = Self::files(svid_ttl, more);
        authority.run();
        authority
    }

    /// The files alone.
    pub fn files(svid_ttl: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uid = nix::unistd::geteuid();
        let entries = format!("[[entry]]\nspiffe_id = \"{OURS}\"\nselectors = [\"unix:uid:{uid}\"]\n");
        std::fs::write(dir.path().join("entries.toml"), entries).unwrap();
        let config = format!(
            "trust_domain = \"mesh.local\"\ndata_dir = \"data\"\nentries = \"entries.toml\"\nsvid_ttl = \"{svid_ttl}\"\n\
             jwt_svid_ttl = \"60s\"\nrefresh_hint = \"1s\"\n[[workload_api]]\nsocket = \"w.sock\"\n{more}"
        );
        std::fs::write(dir.path().join("ca.toml"), config).unwrap();
        Self {
            dir,
            process: None,
            places: Vec::new(),
        }
    }

    /// Runs it until its sockets listen.
    pub fn run(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let mut child = hopguard()
            .args(["ca", "serve", "--config"])
            .arg(self.path("ca.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the hopguard binary is built (cargo build -p hopguard)");
        let lines = lines(child.stdout.take().unwrap());
        self.process = Some(Guard(child));
        let config = std::fs::read_to_string(self.path("ca.toml")).unwrap();
        let (_, openid) = config.split_once("[openid]").unwrap_or_default();
        let more = usize::from(config.contains("[bundle_endpoint]"))
            + usize::from(openid.contains("listen") || openid.contains("socket"));
        let next = || {
            lines
                .recv_timeout(DEADLINE)
                .unwrap_or_else(|_| panic!("not ready: {}", self.log()))
        };
        assert!(next().starts_with("unix:///"));
        self.places = (0..more).map(|_| next()).collect();
    }

    pub fn kill_9(&mut self) {
        // The guard kills with SIGKILL.
        self.process = None;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> String {
        format!("unix://{}", self.path("w.sock").display())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits for these words in a line of the log.
    pub fn logged(&self, words: &str) {
        eventually(DEADLINE, || {
            let log = self.log();
            if log.contains(words) {
                Ok(())
            } else {
                Err(format!("no `{words}` in\n{log}"))
            }
        })
        .unwrap();
    }

    /// The trust bundle, written into a file by the Workload API's client.
    pub fn bundle(&self) -> PathBuf {
        let document = stdout(&run(&[
            "bundle",
            "show",
            "--socket",
            &self.socket(),
            "--format",
            "spiffe",
        ]));
        let file = self.path("bundle.json");
        std::fs::write(&file, document).unwrap();
        file
    }

    /// A JWT-SVID of an identity for an audience.
    pub fn token(&self, id: &str, audience: &str) -> String {
        let config = self.path("ca.toml");
        let config = config.to_str().unwrap();
        let issued = run(&[
            "svid",
            "issue",
            id,
            "--config",
            config,
            "--jwt",
            "--audience",
            audience,
        ]);
        stdout(&issued).trim().to_owned()
    }
}

/// A certificate authority of the Web, and a certificate for `localhost` of it.
pub struct Web {
    pub dir: TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Web {
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "the Web");
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("root.pem"), root.pem()).unwrap();
        let web = Self {
            dir,
            issuer: rcgen::Issuer::new(params, key),
        };
        web.renew();
        web
    }

    /// A new pair takes the place of the one before.
    pub fn renew(&self) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&rand()));
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        put(&self.path("key.pem"), 0o600, &key.serialize_pem());
        put(&self.path("cert.pem"), 0o644, &leaf.pem());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn root(&self) -> String {
        self.path("root.pem").to_str().unwrap().to_owned()
    }

    /// `[bundle_endpoint]` that shows the certificate.
    pub fn endpoint(&self, port: u16) -> String {
        format!(
            "[bundle_endpoint]\nlisten = \"127.0.0.1:{port}\"\nprofile = \"https_web\"\ncertificate = {:?}\nkey = {:?}\n",
            self.path("cert.pem"),
            self.path("key.pem")
        )
    }
}

fn rand() -> [u8; 8] {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes[0] = 1;
    bytes
}

/// As certbot does it: a new file takes the place of the old.
pub fn put(path: &Path, mode: u32, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// A port that nobody listens on, below those that the kernel gives to clients.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::from_be_bytes([rand()[1], rand()[2]]) % 10_000;
    (0..1000)
        .map(|_| 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// Runs a verb.
pub fn run(arguments: &[&str]) -> Output {
    hopguard().args(arguments).output().unwrap()
}

/// Its result; it must be done.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}{} ({})",
        text(&output.stdout),
        text(&output.stderr),
        output.status
    )
}

/// It must have failed with this code, and with these words.
pub fn fails(output: &Output, code: i32, words: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    assert!(said(output).contains(words), "no `{words}`: {}", said(output));
}

pub fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// An answer of HTTP, by curl.
pub fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sS", "-i", "--max-time", "30"])
        .args(arguments)
        .output()
        .unwrap();
    said(&output)
}

pub fn openssl(arguments: &[&str]) -> Output {
    Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The python of tests/python/setup.sh.
pub fn python() -> Command {
    let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/setup.sh");
    let done = Command::new("sh").arg(setup).output().unwrap();
    let mut command = Command::new(stdout(&done).trim());
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The JWK of a root with this ID or none, made for the test; the root as PEM lies beside `place`.
pub fn root_jwk(place: &Path, id: Option<&str>) -> Value {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let names = id.map(|id| rcgen::SanType::URI(id.try_into().unwrap()));
    params.subject_alt_names = names.into_iter().collect();
    let root = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let pem = place.with_extension("pem");
    std::fs::write(&pem, root.pem()).unwrap();
    let shown = run(&["bundle", "show", pem.to_str().unwrap(), "--format", "spiffe"]);
    json(&shown)["keys"][0].clone()
}

pub fn lines(stdout: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
