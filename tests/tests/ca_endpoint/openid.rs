//! A JWT library that nobody changed and that knows our issuer's URL alone accepts our JWT-SVIDs.

use std::path::Path;

use hopguard_tests::eventually;

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

#[test]
fn tokens_are_accepted_before_and_after_a_rotation_of_the_jwt_key() {
    let web = Web::new();
    let port = free_port();
    let issuer = format!("https://localhost:{port}");
    let more = format!(
        "{}path = \"/bundle\"\n[openid]\nissuer = \"{issuer}\"\n",
        web.endpoint(port)
    );
    let authority = Authority::start(&more);
    let config = authority.path("ca.toml");
    let config = config.to_str().unwrap();
    let rotate = |step: &str| {
        run(&[
            "ca", "rotate", "--kind", "jwt", "--step", step, "--config", config,
        ])
    };
    let published = || {
        let keys = curl(&["--cacert", &web.root(), &format!("{issuer}/keys")]);
        let kid = |part: &str| part.split('"').next().unwrap().to_owned();
        let kids: Vec<String> = keys.split("\"kid\":\"").skip(1).map(kid).collect();
        kids
    };
    let kid = |token: &str| {
        let file = authority.path("inspected");
        std::fs::write(&file, token).unwrap();
        let said = run(&["-o", "json", "token", "inspect", file.to_str().unwrap()]);
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        said["header"]["kid"].as_str().unwrap().to_owned()
    };
    let before = authority.token(OURS, "db");
    assert_eq!(published(), [kid(&before)]);
    stdout(&rotate("prepare"));
    // S-63: the new key is there before it signs.
    let both = eventually(DEADLINE, || {
        let kids = published();
        if kids.len() == 2 {
            Ok(kids)
        } else {
            Err(format!("{kids:?}"))
        }
    });
    let both = both.unwrap();
    assert_eq!(kid(&authority.token(OURS, "db")), kid(&before));
    eventually(DEADLINE, || {
        let output = rotate("activate");
        if output.status.success() {
            Ok(())
        } else {
            Err(said(&output))
        }
    })
    .unwrap();
    let after = authority.token(OURS, "db");
    assert_ne!(kid(&after), kid(&before));
    assert!(both.contains(&kid(&after)));
    for token in [&before, &after] {
        let said_by = json(&verified(&web, &issuer, token, "db"));
        for library in LIBRARIES {
            assert_eq!(said_by[library]["sub"], OURS, "{library}: {said_by}");
        }
    }
}
