//! Where packets go: two namespaces joined by a veth pair, the redirect in one of them, real sockets in both.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hopguard_tests::eventually;

use socket2::{SockRef, Socket};

use crate::ns::{
    DEADLINE, How, MARK, NOT_COMING, Neighbour, PEER4, PEER6, POD4, POD6, accept, at, command, connect,
    connect_how, connect_marked, has_connection, hopguard, hopguard_ok, in_namespace, in_namespace_of,
    original, run,
};

/// The sidecar's listeners, as the sidecar opens them.
struct Sidecar {
    outbound4: TcpListener,
    outbound6: TcpListener,
    inbound: TcpListener,
}

impl Sidecar {
    fn listen() -> Self {
        Self {
            outbound4: TcpListener::bind("127.0.0.1:15001").unwrap(),
            outbound6: TcpListener::bind("[::1]:15001").unwrap(),
            inbound: TcpListener::bind("[::]:15006").unwrap(),
        }
    }

    fn outbound(&self, to: SocketAddr) -> &TcpListener {
        if to.is_ipv4() {
            &self.outbound4
        } else {
            &self.outbound6
        }
    }

    fn untouched(&self) -> bool {
        !has_connection(&self.outbound4) && !has_connection(&self.outbound6) && !has_connection(&self.inbound)
    }
}

fn apply(more: &[&str]) {
    hopguard_ok(&[&["apply", "--mark", "1337"], more].concat());
}

#[test]
fn an_applications_connections_arrive_at_the_sidecar_with_where_they_were_meant_to_go() {
    in_namespace(
        "traffic::an_applications_connections_arrive_at_the_sidecar_with_where_they_were_meant_to_go",
        || {
            let peer = Neighbour::new();
            let theirs = peer.listen(8080);
            let sidecar = Sidecar::listen();
            apply(&[]);
            // An address that answers, one that nobody has, and the own loopback addresses by another device.
            for to in [
                at(PEER4, 8080),
                at(PEER6, 8080),
                at("192.0.2.9", 443),
                at("2001:db8::9", 443),
            ] {
                let mut ours = connect(to).unwrap();
                let (mut arrived, _) = accept(sidecar.outbound(to));
                assert_eq!(original(&arrived).unwrap(), to);
                ours.write_all(b"hello").unwrap();
                let mut read = [0; 5];
                arrived.read_exact(&mut read).unwrap();
                assert_eq!(&read, b"hello");
            }
            assert!(!has_connection(&theirs));
        },
    );
}

#[test]
fn the_sidecars_own_connections_pass_and_do_not_loop() {
    in_namespace(
        "traffic::the_sidecars_own_connections_pass_and_do_not_loop",
        || {
            let peer = Neighbour::new();
            let theirs = peer.listen(8080);
            let app = TcpListener::bind("[::]:9000").unwrap();
            let sidecar = Sidecar::listen();
            apply(&[]);
            for (to, listener) in [
                (at(PEER4, 8080), &theirs),
                (at(PEER6, 8080), &theirs),
                // To the application at the pod's own address, as the sidecar dials it.
                (at(POD4, 9000), &app),
                (at(POD6, 9000), &app),
            ] {
                let ours = connect_marked(to).unwrap();
                let (_arrived, from) = accept(listener);
                assert_eq!(from.port(), ours.local_addr().unwrap().port());
            }
            assert!(sidecar.untouched());
        },
    );
}

#[test]
fn loopback_and_calls_to_the_own_address_are_left_alone() {
    in_namespace(
        "traffic::loopback_and_calls_to_the_own_address_are_left_alone",
        || {
            let _peer = Neighbour::new();
            let app = TcpListener::bind("[::]:9000").unwrap();
            let sidecar = Sidecar::listen();
            apply(&["--udp", "reject"]);
            for address in ["127.0.0.1", "127.1.2.3", "::1", POD4, POD6] {
                connect(at(address, 9000)).unwrap();
                accept(&app);
            }
            assert!(sidecar.untouched());
        },
    );
}

/// Packets that came over the veth for `to`, as the neighbour's kernel counts them.
struct Counted<'a>(&'a Neighbour);

impl Counted<'_> {
    fn add(&self, program: &str, to: &str) {
        self.0.run(
            program,
            &[
                "-t",
                "raw",
                "-A",
                "PREROUTING",
                "-i",
                "peer",
                "-p",
                "tcp",
                "-d",
                to,
            ],
        );
    }

    fn total(&self) -> u64 {
        let tables = ["iptables", "ip6tables"].map(|program| {
            let table = self
                .0
                .run(program, &["-t", "raw", "-L", "PREROUTING", "-v", "-x", "-n"]);
            let counts = table
                .lines()
                .skip(2)
                .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            counts.sum::<u64>()
        });
        tables.iter().sum()
    }
}

/// An unprivileged application may bind a socket to a network device. That must not lead around the sidecar: a loopback
/// address is then sent onto the wire (also the one that REDIRECT puts in), and `lo` is taken for an address outside.
#[test]
fn a_socket_bound_to_a_device_does_not_escape() {
    in_namespace("traffic::a_socket_bound_to_a_device_does_not_escape", || {
        let peer = Neighbour::new();
        let counted = Counted(&peer);
        for to in ["127.0.0.0/8", "192.0.2.9", PEER4] {
            counted.add("iptables", to);
        }
        for to in ["::1", "2001:db8::9", PEER6] {
            counted.add("ip6tables", to);
        }
        let fails = |to, device| {
            let tried = connect_how(
                to,
                How {
                    mark: None,
                    device: Some(device),
                },
            );
            assert!(tried.is_err(), "{to} by {device}");
        };
        let _sidecar = Sidecar::listen();
        apply(&["--guard", "off"]);
        fails(at("192.0.2.9", 80), "pod");
        assert_ne!(
            counted.total(),
            0,
            "the danger is real: the guard is what keeps it in"
        );

        apply(&[]);
        let before = counted.total();
        let addresses = ["127.0.0.2", "192.0.2.9", PEER4, "::1", "2001:db8::9", PEER6];
        std::thread::scope(|scope| {
            for to in addresses {
                scope.spawn(move || fails(at(to, 80), "pod"));
                scope.spawn(move || fails(at(to, 80), "lo"));
            }
        });
        assert_eq!(counted.total(), before, "nothing of it on the wire");
    });
}

#[test]
fn excluded_destinations_pass() {
    in_namespace("traffic::excluded_destinations_pass", || {
        let peer = Neighbour::new();
        let (web, database) = (peer.listen(8080), peer.listen(5432));
        let sidecar = Sidecar::listen();
        apply(&[
            "--exclude-outbound-ports",
            "5432",
            "--exclude-outbound-cidrs",
            &format!("{PEER6}/128"),
        ]);
        connect(at(PEER4, 5432)).unwrap();
        accept(&database);
        connect(at(PEER6, 8080)).unwrap();
        accept(&web);
        assert!(sidecar.untouched());
        let to = at(PEER4, 8080);
        let _ours = connect(to).unwrap();
        assert_eq!(original(&accept(&sidecar.outbound4).0).unwrap(), to);
        assert!(!has_connection(&web));
    });
}

#[test]
fn peers_arrive_at_the_sidecar_and_not_at_the_application() {
    in_namespace(
        "traffic::peers_arrive_at_the_sidecar_and_not_at_the_application",
        || {
            let peer = Neighbour::new();
            let app = TcpListener::bind("[::]:8080").unwrap();
            let hbone = TcpListener::bind("[::]:15008").unwrap();
            let ssh = TcpListener::bind("[::]:22").unwrap();
            let sidecar = Sidecar::listen();
            apply(&["--exclude-inbound-ports", "22"]);
            for pod in [POD4, POD6] {
                // 15001 is the outbound listener: a peer that knocks there is treated as any peer is.
                for port in [8080, 4000, 15001] {
                    let _theirs = peer.visit(|| connect(at(pod, port))).unwrap();
                    assert_eq!(original(&accept(&sidecar.inbound).0).unwrap(), at(pod, port));
                }
                peer.visit(|| connect(at(pod, 15008))).unwrap();
                accept(&hbone);
                peer.visit(|| connect(at(pod, 22))).unwrap();
                accept(&ssh);
                // Straight to the inbound listener: it arrives, and shows that it was not redirected.
                let _theirs = peer.visit(|| connect(at(pod, 15006))).unwrap();
                let (arrived, _) = accept(&sidecar.inbound);
                let shown = original(&arrived);
                assert!(
                    shown.is_err() || shown.as_ref().unwrap().port() == 15006,
                    "{shown:?}"
                );
            }
            assert!(!has_connection(&app));
            assert!(sidecar.untouched());
        },
    );
}

#[test]
fn with_a_list_of_ports_the_others_are_left_alone() {
    in_namespace("traffic::with_a_list_of_ports_the_others_are_left_alone", || {
        let peer = Neighbour::new();
        let (app, other) = (
            TcpListener::bind("[::]:8080").unwrap(),
            TcpListener::bind("[::]:9000").unwrap(),
        );
        let sidecar = Sidecar::listen();
        apply(&["--inbound-ports", "8080"]);
        for pod in [POD4, POD6] {
            let _theirs = peer.visit(|| connect(at(pod, 8080))).unwrap();
            assert_eq!(original(&accept(&sidecar.inbound).0).unwrap(), at(pod, 8080));
            peer.visit(|| connect(at(pod, 9000))).unwrap();
            accept(&other);
            let _theirs = peer.visit(|| connect(at(pod, 15001))).unwrap();
            assert_eq!(original(&accept(&sidecar.inbound).0).unwrap(), at(pod, 15001));
        }
        assert!(!has_connection(&app));
    });
}

/// A rule of somebody else's before ours takes the redirect away; the guard then keeps the connection from passing in the
/// clear, in both directions.
#[test]
fn what_escapes_the_redirect_is_dropped() {
    in_namespace("traffic::what_escapes_the_redirect_is_dropped", || {
        let peer = Neighbour::new();
        let theirs = peer.listen(8080);
        let app = TcpListener::bind("[::]:8080").unwrap();
        let _sidecar = Sidecar::listen();
        let intruders = [("iptables", POD4, PEER4), ("ip6tables", POD6, PEER6)];
        apply(&[]);
        for (program, ..) in intruders {
            run(program, &["-t", "nat", "-I", "OUTPUT", "-j", "ACCEPT"]);
            run(program, &["-t", "nat", "-I", "PREROUTING", "-j", "ACCEPT"]);
        }
        for (_, pod, other) in intruders {
            let error = connect(at(other, 8080)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "outbound");
            let error = peer.visit(|| connect(at(pod, 8080))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "inbound");
            // The sidecar itself, and what is meant to arrive without redirect, is not hindered.
            connect_marked(at(other, 8080)).unwrap();
            accept(&theirs);
        }
        assert!(!has_connection(&theirs) && !has_connection(&app));
        // The test of the test: without the guard both pass.
        hopguard_ok(&["apply", "--mark", "1337", "--guard", "off"]);
        for (program, ..) in intruders {
            run(program, &["-t", "nat", "-I", "OUTPUT", "-j", "ACCEPT"]);
            run(program, &["-t", "nat", "-I", "PREROUTING", "-j", "ACCEPT"]);
        }
        for (_, pod, other) in intruders {
            connect(at(other, 8080)).unwrap();
            accept(&theirs);
            peer.visit(|| connect(at(pod, 8080))).unwrap();
            accept(&app);
        }
    });
}

/// When connection tracking has forgotten a redirected connection and is strict, it finds the application's next packet
/// invalid and does not translate it: the packet then carries its bytes to the address that the application meant.
#[test]
fn a_packet_that_connection_tracking_finds_invalid_is_dropped() {
    in_namespace(
        "traffic::a_packet_that_connection_tracking_finds_invalid_is_dropped",
        || {
            let peer = Neighbour::new();
            let counted = Counted(&peer);
            counted.add("iptables", PEER4);
            counted.add("ip6tables", PEER6);
            let sidecar = Sidecar::listen();
            let forgotten = |to: SocketAddr| {
                let mut ours = connect(to).unwrap();
                let (arrived, _) = accept(sidecar.outbound(to));
                assert_eq!(original(&arrived).unwrap(), to);
                // Nothing comes; meanwhile the entry runs out, and stays away when the next packet comes.
                ours.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
                assert!(ours.read(&mut [0]).is_err());
                ours.write_all(b"marker").unwrap();
                (ours, arrived)
            };
            apply(&["--guard", "off"]);
            let tracking = Path::new("/proc/sys/net/netfilter");
            std::fs::write(tracking.join("nf_conntrack_tcp_timeout_established"), "1").unwrap();
            std::fs::write(tracking.join("nf_conntrack_tcp_loose"), "0").unwrap();
            let leaky = [at(PEER4, 8080), at(PEER6, 8080)].map(forgotten);
            eventually(DEADLINE, || {
                if counted.total() > 0 {
                    Ok(())
                } else {
                    Err("the danger is not real")
                }
            })
            .unwrap();
            drop(leaky);

            apply(&[]);
            let held = [at(PEER4, 9090), at(PEER6, 9090)].map(forgotten);
            // The packets of the first half are sent again until now; those to 9090 alone must not be among them.
            let dropped = || {
                let tables = ["iptables", "ip6tables"].map(|program| {
                    let table = run(
                        program,
                        &["-t", "mangle", "-L", "HOPGUARD_POSTROUTING", "-v", "-x", "-n"],
                    );
                    let rule = table
                        .lines()
                        .find(|line| line.contains("DROP"))
                        .unwrap()
                        .to_owned();
                    rule.split_whitespace().next().unwrap().parse::<u64>().unwrap()
                });
                if tables.iter().all(|count| *count > 0) {
                    Ok(())
                } else {
                    Err("not dropped yet")
                }
            };
            let seen = counted.total();
            eventually(DEADLINE, dropped).unwrap();
            assert_eq!(counted.total(), seen, "nothing more on the wire");
            drop(held);
        },
    );
}

/// By user: what the sidecar's user opens passes, what another user opens is redirected. In the namespace of an ordinary
/// user there is one user, so the second half takes root.
#[test]
fn the_sidecar_is_told_by_its_user() {
    let root = nix::unistd::geteuid().is_root();
    in_namespace_of("traffic::the_sidecar_is_told_by_its_user", root, || {
        let peer = Neighbour::new();
        let theirs = peer.listen(8080);
        let sidecar = Sidecar::listen();
        hopguard_ok(&["apply", "--uid", "0"]);
        for to in [at(PEER4, 8080), at(PEER6, 8080)] {
            connect(to).unwrap();
            accept(&theirs);
        }
        assert!(sidecar.untouched());
        let (code, _, err) = hopguard(&["apply", "--uid", "1337"]);
        if code == 4 && err.contains("does not exist in this user namespace") {
            return;
        }
        for (user, redirected) in [("1337", false), ("1338", true)] {
            for to in [PEER4, PEER6] {
                let connects = format!("exec 3<>/dev/tcp/{to}/8080");
                let ids = ["--reuid", user, "--regid", user, "--clear-groups"];
                run("setpriv", &[&ids[..], &["bash", "-c", &connects]].concat());
                assert_eq!(has_connection(&theirs), !redirected, "user {user} to {to}");
                assert_eq!(
                    has_connection(sidecar.outbound(at(to, 1))),
                    redirected,
                    "user {user} to {to}"
                );
            }
        }
    });
}

/// A connection older than the redirect, and not known to connection tracking, does not go on in the clear.
#[test]
fn a_connection_older_than_the_redirect_is_not_carried_on() {
    in_namespace(
        "traffic::a_connection_older_than_the_redirect_is_not_carried_on",
        || {
            let peer = Neighbour::new();
            let theirs = peer.listen(8080);
            let mut ours = connect(at(PEER4, 8080)).unwrap();
            let (mut arrived, _) = accept(&theirs);
            ours.write_all(b"before").unwrap();
            let mut read = [0; 6];
            arrived.read_exact(&mut read).unwrap();
            let _sidecar = Sidecar::listen();
            apply(&[]);
            ours.write_all(b"after").unwrap();
            arrived.set_read_timeout(Some(NOT_COMING)).unwrap();
            let end = arrived.read(&mut read);
            assert!(!matches!(end, Ok(n) if n > 0), "{end:?} {read:?}");
        },
    );
}

fn udp(from: &str, mark: Option<u32>) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark).unwrap();
    }
    socket
}

#[test]
fn udp_is_rejected_only_when_asked_and_never_for_names() {
    in_namespace(
        "traffic::udp_is_rejected_only_when_asked_and_never_for_names",
        || {
            let peer = Neighbour::new();
            let bound = |port| {
                let socket = peer.visit(|| UdpSocket::bind(("::", port)).unwrap());
                socket.set_read_timeout(Some(NOT_COMING)).unwrap();
                socket
            };
            let (quic, dns, ntp) = (bound(443), bound(53), bound(123));
            let mut buffer = [0; 16];
            for (any, to) in [("0.0.0.0", PEER4), ("::", PEER6)] {
                let send = |port: u16, mark| {
                    let socket = udp(any, mark);
                    socket.connect(at(to, port)).unwrap();
                    socket.send(b"x").map(|_| socket)
                };
                apply(&["--udp", "leave"]);
                send(443, None).unwrap();
                quic.recv_from(&mut buffer).unwrap();

                apply(&["--udp", "reject", "--exclude-outbound-ports", "123"]);
                // The refusal comes at once: on this send or the next receive.
                let refused = send(443, None).and_then(|socket| {
                    socket.set_read_timeout(Some(NOT_COMING))?;
                    socket.recv(&mut [0; 16])
                });
                let kind = refused.unwrap_err().kind();
                assert!(
                    matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied),
                    "{kind:?}"
                );
                send(53, None).unwrap();
                dns.recv_from(&mut buffer).unwrap();
                send(123, None).unwrap();
                ntp.recv_from(&mut buffer).unwrap();
                send(443, Some(MARK)).unwrap();
                // What arrives first is the sidecar's: the application's datagram never came.
                quic.recv_from(&mut buffer).unwrap();
                assert!(quic.recv_from(&mut buffer).is_err(), "one datagram, not two");
            }
            for own in ["127.0.0.1", "::1", POD4, POD6] {
                let here = UdpSocket::bind((own, 0)).unwrap();
                here.set_read_timeout(Some(NOT_COMING)).unwrap();
                here.send_to(b"x", here.local_addr().unwrap()).unwrap();
                here.recv_from(&mut buffer).unwrap();
            }
        },
    );
}

#[test]
fn a_pod_without_ipv4_addresses_is_redirected() {
    in_namespace("traffic::a_pod_without_ipv4_addresses_is_redirected", || {
        let peer = Neighbour::ipv6_only();
        run("ip", &["-4", "addr", "flush", "dev", "lo"]);
        let sidecar = TcpListener::bind("[::1]:15001").unwrap();
        let inbound = TcpListener::bind("[::]:15006").unwrap();
        apply(&[]);
        let _ours = connect(at(PEER6, 443)).unwrap();
        assert_eq!(original(&accept(&sidecar).0).unwrap(), at(PEER6, 443));
        let _theirs = peer.visit(|| connect(at(POD6, 8080))).unwrap();
        assert_eq!(original(&accept(&inbound).0).unwrap(), at(POD6, 8080));
    });
}

/// What an application in a pod may not do: set the sidecar's mark, or take the rules away. The second half of this test
/// runs in a process without capabilities.
#[test]
fn an_application_without_capabilities_can_neither_mark_nor_flush() {
    const STEP: &str = "HOPGUARD_TEST_UNCAPPED";
    let name = "traffic::an_application_without_capabilities_can_neither_mark_nor_flush";
    if std::env::var_os(STEP).is_some() {
        let error = connect_marked(at(PEER4, 8080)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(1), "SO_MARK is EPERM");
        for (program, args) in [
            ("iptables", &["-t", "nat", "-F"][..]),
            ("ip6tables", &["-t", "nat", "-F"]),
            ("iptables", &["-t", "nat", "-D", "OUTPUT", "1"]),
        ] {
            assert!(
                !command(program).args(args).output().unwrap().status.success(),
                "{program} {args:?}"
            );
        }
        assert_eq!(hopguard(&["undo"]).0, 4);
        let raw = Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::RAW,
            Some(socket2::Protocol::TCP),
        );
        assert_eq!(raw.unwrap_err().raw_os_error(), Some(1), "no raw socket either");
        return;
    }
    in_namespace(name, || {
        let _peer = Neighbour::new();
        let sidecar = Sidecar::listen();
        apply(&[]);
        let output = Command::new("setpriv")
            .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"])
            .arg(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(STEP, "1")
            .output()
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        hopguard_ok(&["check", "--mark", "1337"]);
        let to = at(PEER4, 8080);
        let _ours = connect(to).unwrap();
        assert_eq!(
            original(&accept(&sidecar.outbound4).0).unwrap(),
            to,
            "still redirected"
        );
    });
}
