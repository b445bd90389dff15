//! Network namespaces for the tests of the redirect: a test runs itself again inside a user, network, mount and PID
//! namespace of its own, so that it may do to the network what it likes, without root, and nothing outlives it.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use hopguard_tests::{Guard, eventually, hopguard_bin};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// How long anything may take before a test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// How long a connection is waited for that must not come about; long enough for one retransmission.
pub const NOT_COMING: Duration = Duration::from_millis(1500);

/// Runs `body` in namespaces of its own. `name` is the test's path, by which this binary is run again inside.
pub fn in_namespace(name: &str, body: impl FnOnce()) {
    in_namespace_of(name, false, body);
}

/// The same; with `all_users` without a user namespace, so that every user exists in it, which takes root.
pub fn in_namespace_of(name: &str, all_users: bool, body: impl FnOnce()) {
    const INSIDE: &str = "HOPGUARD_TEST_NAMESPACE";
    if std::env::var(INSIDE).as_deref() == Ok(name) {
        run("ip", &["link", "set", "lo", "up"]);
        return body();
    }
    let output = Command::new("unshare")
        .args(if all_users {
            &[][..]
        } else {
            &["--user", "--map-root-user"]
        })
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .output()
        .expect("unshare (util-linux) is needed");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success(),
        "in its namespace (user namespaces must be allowed here):\n{text}"
    );
    assert!(
        text.contains("1 passed"),
        "`{name}` is not the name of the test:\n{text}"
    );
}

/// Runs a program that must succeed, and returns what it printed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = command(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {err}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A command whose programs are also found where an ordinary user's PATH does not look.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env(
        "PATH",
        format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()),
    );
    // iptables-legacy locks a file that only the real root may write.
    command.env(
        "XTABLES_LOCKFILE",
        std::env::temp_dir().join(format!("xtables-{}.lock", nix::unistd::getuid())),
    );
    command
}

/// `hopguard iptables ...` with its exit code, stdout and stderr.
pub fn hopguard(args: &[&str]) -> (i32, String, String) {
    told(
        command(hopguard_bin().to_str().unwrap())
            .arg("iptables")
            .args(args),
    )
}

/// Runs a command and returns its exit code, stdout and stderr.
pub fn told(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// `hopguard iptables ...`, which must succeed.
pub fn hopguard_ok(args: &[&str]) -> String {
    let (code, out, err) = hopguard(args);
    assert_eq!(code, 0, "hopguard iptables {args:?}: {out}{err}");
    out
}

/// What `iptables-save` and `ip6tables-save` print, without the comments, which carry the time, and the counts of packets.
pub fn saved(backend: &str) -> String {
    let infix = match backend {
        "auto" => String::new(),
        other => format!("{other}-"),
    };
    let text: String = ["iptables", "ip6tables"]
        .map(|family| run(&format!("{family}-{infix}save"), &[]))
        .concat();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(" [").next().unwrap().to_owned() + "\n")
        .collect()
}

/// Another network namespace, joined by a veth pair to the one the test is in.
pub struct Neighbour {
    holder: Guard,
}

/// The test's own addresses on the veth, and the neighbour's.
pub const POD4: &str = "10.77.0.1";
/// IPv6 of the test.
pub const POD6: &str = "fd77::1";
/// IPv4 of the neighbour.
pub const PEER4: &str = "10.77.0.2";
/// IPv6 of the neighbour.
pub const PEER6: &str = "fd77::2";

impl Neighbour {
    /// Makes it, with addresses of both families, and routes everything there.
    pub fn new() -> Self {
        Self::with(true)
    }

    /// The same without any IPv4 address.
    pub fn ipv6_only() -> Self {
        Self::with(false)
    }

    fn with(ipv4: bool) -> Self {
        // The holder says when it is in its namespace, by a line.
        let child = command("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "echo ready; exec tail -f /dev/null >/dev/null",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut neighbour = Self { holder: Guard(child) };
        wait_for_line(&mut neighbour.holder.0);
        let pid = neighbour.holder.0.id().to_string();
        run(
            "ip",
            &["link", "add", "pod", "type", "veth", "peer", "name", "peer"],
        );
        run("ip", &["link", "set", "peer", "netns", &pid]);
        run("ip", &["link", "set", "pod", "up"]);
        neighbour.run("ip", &["link", "set", "lo", "up"]);
        neighbour.run("ip", &["link", "set", "peer", "up"]);
        if ipv4 {
            run("ip", &["addr", "add", &format!("{POD4}/24"), "dev", "pod"]);
            neighbour.run("ip", &["addr", "add", &format!("{PEER4}/24"), "dev", "peer"]);
            run("ip", &["route", "add", "default", "via", PEER4]);
        }
        run(
            "ip",
            &["addr", "add", &format!("{POD6}/64"), "dev", "pod", "nodad"],
        );
        neighbour.run(
            "ip",
            &["addr", "add", &format!("{PEER6}/64"), "dev", "peer", "nodad"],
        );
        run("ip", &["route", "add", "default", "via", PEER6]);
        neighbour
    }

    /// Runs a program there.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let net = format!("--net=/proc/{}/ns/net", self.holder.0.id());
        let mut all = vec![net.as_str(), program];
        all.extend(args);
        run("nsenter", &all)
    }

    /// Runs `body` on a thread that is there, and returns what it returns: sockets made there stay there.
    pub fn visit<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let net = fs::File::open(format!("/proc/{}/ns/net", self.holder.0.id())).unwrap();
        thread::scope(|scope| {
            let there = scope.spawn(move || {
                setns(net.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                body()
            });
            there.join().unwrap()
        })
    }

    /// A listener there on every address and `port`.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.visit(|| TcpListener::bind(("::", port)).unwrap())
    }
}

fn wait_for_line(child: &mut Child) {
    use io::BufRead;
    let mut line = String::new();
    io::BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
}

/// `address:port` as a socket address.
pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

/// How an application or the sidecar opens a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct How<'a> {
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// `SO_BINDTODEVICE`.
    pub device: Option<&'a str>,
}

/// Connects as an application does.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    connect_how(to, How::default())
}

/// Connects as the sidecar does, with its mark.
pub fn connect_marked(to: SocketAddr) -> io::Result<TcpStream> {
    connect_how(
        to,
        How {
            mark: Some(MARK),
            device: None,
        },
    )
}

/// The mark that the tests give the sidecar.
pub const MARK: u32 = 1337;

/// Connects with socket options.
pub fn connect_how(to: SocketAddr, how: How<'_>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(mark) = how.mark {
        socket.set_mark(mark)?;
    }
    socket.bind_device(how.device.map(str::as_bytes))?;
    socket.connect_timeout(&to.into(), NOT_COMING)?;
    Ok(socket.into())
}

/// Waits for one connection.
pub fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).unwrap();
    let (stream, peer) = eventually(DEADLINE, || listener.accept()).expect("a connection");
    stream.set_nonblocking(false).unwrap();
    (stream, plain(peer))
}

/// Whether a connection waits at a listener. Sound once the connecting side has its answer: a connection that is
/// established there is in the queue here.
pub fn has_connection(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    match listener.accept() {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

/// Where a redirected connection was meant to go.
pub fn original(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let address = match plain(stream.local_addr()?) {
        SocketAddr::V4(_) => socket.original_dst_v4()?,
        SocketAddr::V6(_) => socket.original_dst_v6()?,
    };
    Ok(plain(address.as_socket().unwrap()))
}

/// An IPv4 address seen through an IPv6 socket, as IPv4; without scope.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
