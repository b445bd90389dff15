//! H1 to H8: hosts that try to be two.

use hopguard_tests::{Until, Via};

use crate::ask::{Ask, Wire, passes, refused};
use crate::keys::user_token;
use crate::rig::{Rig, forbids, permits};

pub fn spellings(wire: Wire) {
    for rig in [permits(), forbids()] {
        for host in [
            "orders",
            "ORDERS",
            "Orders.Shop",
            "orders.shop",
            "orders.shop.",
            "orders:8080",
            "orders.shop:8080",
            "orders:",
            "orders.:80",
            "10.77.0.12",
            "10.77.0.12:8080",
            "[fd77::12]",
            "[fd77::12]:8080",
            "[FD77:0:0::0012]:8080",
            "10--0.nip.example",
        ] {
            let (_, sight) = passes(&rig, wire, &Ask::get("/public").host(host).with_bob());
            assert_eq!(sight.values("host"), [host]);
            refused(&rig, wire, &Ask::get("/admin").host(host).with_bob(), &[403]);
        }
        // H8: another service, or none.
        for host in [
            "payments",
            "payments.shop",
            "admin.internal",
            "orders.shop.evil",
            "xorders",
            "10.77.0.13",
            "[::1]",
            "127.0.0.1",
            "localhost",
        ] {
            refused(&rig, wire, &Ask::get("/public").host(host).with_bob(), &[404]);
        }
        for host in [
            "orders, orders",
            "orders payments",
            "orders/x",
            "orders\\x",
            "orders..",
            ".orders",
            "orders:80:80",
            "orders:x",
            "orders:-1",
            "orders:65536",
            "user@orders",
            "orders@evil",
            "[::1",
            "::1",
            "[orders]",
            "orders#x",
            "orders?x",
            "orders%2eshop",
            "\"orders\"",
            "[fd77::12%25eth0]",
            "ord\u{e9}rs",
        ] {
            refused(&rig, wire, &Ask::get("/public").host(host).with_bob(), &[400]);
        }
        // H6: what a header says of the host is nobody's business.
        for name in [
            "X-Forwarded-Host",
            "X-Host",
            "X-Original-Host",
            "x_forwarded_host",
            "X-HTTP-Host-Override",
            "Forwarded",
        ] {
            passes(
                &rig,
                wire,
                &Ask::get("/public").with_bob().claim(name, "admin.internal"),
            );
            refused(
                &rig,
                wire,
                &Ask::get("/admin").with_bob().claim(name, "admin.internal"),
                &[403],
            );
        }
        rig.settle();
    }
}

/// The status of the answer to these raw bytes; the connection ends after it.
fn raw(rig: &Rig, lines: &str) -> u16 {
    let text = format!(
        "GET /public HTTP/1.1\r\n{lines}Authorization: Bearer {}\r\nx-case: raw\r\n\r\n",
        user_token()
    );
    let flight = rig.send(Via::Mtls, &[text.as_bytes()], Until::Closed);
    let answers = flight.answers(&["GET"]);
    assert_eq!(answers.len(), 1, "{lines:?}: {flight:?}");
    answers[0].status
}

#[test]
fn a_host_in_any_spelling_is_one_service() {
    spellings(Wire::Mtls);
}

/// H2.
#[test]
fn two_hosts_and_none_are_refused() {
    for rig in [permits(), forbids()] {
        for lines in [
            "",
            "Host: orders\r\nHost: orders\r\n",
            "Host: orders\r\nHost: payments\r\n",
            "Host: orders\r\nhost: orders\r\n",
            "Host: a, b\r\n",
            " Host : orders\r\n",
            "Host : orders\r\n",
            "Host: orders\r\n payments\r\n",
            "Host:\r\n orders\r\n",
            "Host: \r\n",
            "Host:\torders\x0b\r\n",
            "Host: orders\r\nX: y\r\n\tHost: payments\r\n",
        ] {
            assert_eq!(raw(&rig, lines), 400, "{lines:?}");
        }
        rig.settle();
    }
}
