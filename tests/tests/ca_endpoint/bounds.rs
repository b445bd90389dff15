//! Whoever only connects keeps nobody out, and is cut.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hopguard_tests::eventually;

use crate::support::*;

#[test]
fn clients_that_say_nothing_are_cut_and_others_are_served() {
    let web = Web::new();
    let more = format!(
        "{}[openid]\nissuer = \"https://id.test\"\nlisten = \"127.0.0.1:0\"\n",
        web.endpoint(0)
    );
    let authority = Authority::start(&more);
    let [https, http] = authority.places.as_slice() else {
        panic!("{:?}", authority.places)
    };
    let place = |url: &str| {
        url.split("//")
            .nth(1)
            .unwrap()
            .split('/')
            .next()
            .unwrap()
            .to_owned()
    };
    let silent = |place: &str| TcpStream::connect(place).unwrap();
    // No handshake; half a head; a head that never ends; a handshake that is none.
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..100 {
        idle.push(silent(&place(https)));
        idle.push(silent(&place(http)));
    }
    let mut half = silent(&place(http));
    half.write_all(b"GET /keys HTTP/1.1\r\nhost: x\r\nx: ").unwrap();
    idle.push(half);
    let mut rubbish = silent(&place(https));
    rubbish.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut flood = silent(&place(http));
    // Refused as soon as it is too much, so the rest may not be taken.
    let _until_cut = flood.write_all(&[b"GET /".as_slice(), &[b'a'; 1 << 20]].concat());
    idle.push(flood);

    let url = https.replace("127.0.0.1", "localhost");
    assert!(curl(&["--cacert", &web.root(), &url]).contains("spiffe_sequence"));
    assert!(curl(&[&format!("{http}/keys")]).contains("\"kid\""));
    // Nothing of the bundle comes to who speaks no TLS.
    let mut answer = Vec::new();
    let _reset_or_ended = rubbish.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/"), "{answer:?}");

    for stream in &mut idle {
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let cut = eventually(DEADLINE, || match stream.read(&mut [0; 4096]) {
            Ok(0) => Ok(()),
            Ok(_) => Err("an answer"),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
            Err(_) => Err("still open"),
        });
        cut.unwrap();
    }
}
