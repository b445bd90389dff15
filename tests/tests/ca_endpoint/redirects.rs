//! What the client of bundle endpoints follows, and what it does not take.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::support::*;

/// An endpoint of the Web that answers each path with what stands there. It ends with its test's process.
fn serve(web: &Web, pages: Vec<(String, String)>) -> String {
    let chain = vec![CertificateDer::from_pem_file(web.path("cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(web.path("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let page = pages.iter().find(|(known, _)| *known == path);
            let answer = page.map_or("HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n", |(_, answer)| {
                answer.as_str()
            });
            // Who has hung up has heard enough.
            let _gone = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
            stream.conn.send_close_notify();
            let _gone = stream.flush();
        }
    });
    format!("https://localhost:{port}")
}

fn page(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

#[test]
fn redirects_are_temporary_and_lead_to_what_the_same_rules_allow() {
    let authority = Authority::start("");
    let bundle = std::fs::read_to_string(authority.bundle()).unwrap();
    let web = Web::new();
    let json = "content-type: application/json\r\n";
    let to = |location: &str| format!("location: {location}\r\n");
    let other = serve(&web, vec![("/there".to_owned(), page("200 OK", json, &bundle))]);
    let big = format!("{}{}", " ".repeat(2 << 20), bundle);
    let pages = [
        ("/bundle", page("200 OK", json, &bundle)),
        (
            "/utf8",
            page(
                "200 OK",
                "content-type: application/json; charset=utf-8\r\n",
                &bundle,
            ),
        ),
        ("/302", page("302 Found", &to("/bundle"), "")),
        ("/307", page("307 x", &to(&format!("{other}/there")), "")),
        ("/301", page("301 x", &to("/bundle"), "")),
        ("/308", page("308 x", &to("/bundle"), "")),
        ("/plain", page("307 x", &to("http://localhost:1/bundle"), "")),
        (
            "/user",
            page("307 x", &to(&other.replace("https://", "https://u:p@")), ""),
        ),
        ("/loop", page("302 x", &to("/loop"), "")),
        ("/nowhere", page("302 x", "", "")),
        ("/html", page("200 OK", "content-type: text/html\r\n", &bundle)),
        ("/untold", page("200 OK", "", &bundle)),
        ("/500", page("500 x", json, &bundle)),
        ("/empty", page("200 OK", json, "{\"keys\":[]}")),
        ("/bad", page("200 OK", json, "{\"keys\":[],\"keys\":[]}")),
        ("/big", page("200 OK", json, &big)),
    ];
    let url = serve(&web, pages.map(|(path, answer)| (path.to_owned(), answer)).into());
    let fetch = |path: &str| {
        let url = format!("{url}{path}");
        run(&[
            "bundle",
            "fetch",
            "--url",
            &url,
            "--profile",
            "https_web",
            "--ca-file",
            &web.root(),
        ])
    };
    for good in ["/bundle", "/utf8", "/302", "/307"] {
        assert!(stdout(&fetch(good)).starts_with("mesh.local\n"), "{good}");
    }
    // S-66, S-64, S-61.
    for (path, words) in [
        ("/301", "move for ever"),
        ("/308", "move for ever"),
        ("/plain", "https alone"),
        ("/user", "a user has no place"),
        ("/loop", "more than 5 redirects"),
        ("/nowhere", "redirect to nowhere"),
        ("/html", "not application/json"),
        ("/untold", "not application/json"),
        ("/500", "status 500"),
        ("/none", "status 404"),
        ("/empty", "nobody is trusted"),
        ("/bad", "not a bundle document"),
        ("/big", "length limit"),
    ] {
        fails(&fetch(path), 1, words);
    }
    // Without the authority of the Web that stands behind it, and over plain HTTP, nothing is asked.
    let stranger = Web::new();
    let bundle_url = format!("{url}/bundle");
    let foreign = [
        "bundle",
        "fetch",
        "--url",
        &bundle_url,
        "--profile",
        "https_web",
        "--ca-file",
        &stranger.root(),
    ];
    fails(&run(&foreign), 1, "handshake failed");
    let plain = url.replace("https:", "http:");
    fails(
        &run(&["bundle", "fetch", "--url", &plain, "--profile", "https_web"]),
        2,
        "https alone",
    );
    fails(
        &run(&["bundle", "fetch", "--url", &url, "--profile", "https_spiffe"]),
        2,
        "--server-id",
    );
    // An SVID of the Web is none.
    let spiffe = [
        "bundle",
        "fetch",
        "--url",
        &bundle_url,
        "--profile",
        "https_spiffe",
        "--server-id",
        OURS,
        "--bootstrap",
        authority.path("bundle.json").to_str().unwrap(),
    ]
    .map(str::to_owned);
    fails(
        &run(&spiffe.each_ref().map(String::as_str)),
        1,
        "not the one that was named",
    );
}
