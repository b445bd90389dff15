//! A JWT library that nobody changed and that knows our issuer's URL alone accepts our JWT-SVIDs.

use std::path::Path;

use crate::support::*;

/// Both libraries, by discovery.
fn verified(web: &Web, issuer: &str, token: &str, audience: &str) -> std::process::Output {
    let file = web.path("token");
    std::fs::write(&file, token).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/discovery.py");
    let mut python = python();
    python.arg(script).args([issuer, audience]).arg(file);
    python.env("SSL_CERT_FILE", web.root()).output().unwrap()
}

const LIBRARIES: [&str; 3] = ["pyjwt", "authlib", "joserfc"];

#[test]
fn a_foreign_jwt_library_that_knows_only_our_issuer_accepts_our_jwt_svid() {
    let web = Web::new();
    let port = free_port();
    let issuer = format!("https://localhost:{port}/mesh");
    let authority = Authority::start(&format!(
        "{}[openid]\nissuer = \"{issuer}\"\n",
        web.endpoint(port)
    ));
    let token = authority.token(OURS, "db");
    let said_by = json(&verified(&web, &issuer, &token, "db"));
    for library in LIBRARIES {
        assert_eq!(
            (&said_by[library]["sub"], &said_by[library]["iss"]),
            (&OURS.into(), &issuer.clone().into()),
            "{library}"
        );
    }
    // Another audience, another issuer, a token that was changed: no library takes it.
    for (issuer, token, audience) in [
        (&issuer, token.clone(), "web"),
        (&issuer, tampered(&token), "db"),
        (&format!("https://localhost:{port}"), token.clone(), "db"),
    ] {
        let output = verified(&web, issuer, &token, audience);
        let said_by: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert!(
            LIBRARIES
                .iter()
                .all(|library| said_by[*library].get("sub").is_none()),
            "{}",
            said(&output)
        );
    }
    // The bundle is there too, and says the same keys.
    let url = format!("https://localhost:{port}");
    let bundle = stdout(&run(&[
        "bundle",
        "fetch",
        "--url",
        &url,
        "--profile",
        "https_web",
        "--ca-file",
        &web.root(),
        "--format",
        "jwks",
    ]));
    let keys = curl(&["--cacert", &web.root(), &format!("{issuer}/keys")]);
    let bundle: serde_json::Value = serde_json::from_str(&bundle).unwrap();
    assert!(
        keys.contains(bundle["keys"][0]["kid"].as_str().unwrap()),
        "{keys}"
    );
}

fn tampered(token: &str) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let last = if parts[2].starts_with('A') { "B" } else { "A" };
    parts[2].replace_range(0..1, last);
    parts.join(".")
}

#[test]
fn behind_a_proxy_the_documents_are_served_without_tls_on_this_machine_alone() {
    let issuer = "[openid]\nissuer = \"https://id.example.org/mesh\"\n";
    let authority = Authority::start(&format!("{issuer}listen = \"127.0.0.1:0\"\n"));
    let base = &authority.places[0];
    let document = curl(&[&format!("{base}/.well-known/openid-configuration")]);
    assert!(
        document.contains("\"jwks_uri\":\"https://id.example.org/mesh/keys\""),
        "{document}"
    );
    assert!(curl(&[&format!("{base}/keys")]).contains("ES256"));
    // A bundle is worth what its channel is worth: it is not there.
    let root = base.trim_end_matches("/mesh");
    assert!(curl(&[&format!("{root}/")]).contains(" 404"));

    let authority = Authority::start(&format!("{issuer}socket = \"openid.sock\"\n"));
    let socket = authority.path("openid.sock");
    let keys = curl(&["--unix-socket", socket.to_str().unwrap(), "http://x/mesh/keys"]);
    assert!(keys.contains("ES256"), "{keys}");

    let elsewhere = Authority::files("1h", &format!("{issuer}listen = \"0.0.0.0:8080\"\n"));
    let config = elsewhere.path("ca.toml");
    fails(&run(&["ca", "serve", config.to_str().unwrap()]), 3, "has no TLS");
    let nowhere = Authority::files("1h", issuer);
    let config = nowhere.path("ca.toml");
    fails(
        &run(&["config", "check", config.to_str().unwrap()]),
        3,
        "nobody would serve",
    );
}
