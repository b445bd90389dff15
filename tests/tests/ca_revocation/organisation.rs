//! An authority under the organisation's root, made by openssl as an organisation would.

use std::path::{Path, PathBuf};

use hopguard_tests::{eventually, hopguard};

use super::support::{Authority, for_us};
use super::{PATIENCE, ca, done, lists, refused, run};

/// The organisation's root in a folder.
struct Organisation(PathBuf);

impl Organisation {
    fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let made = Self(dir.to_owned());
        run(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-sha256",
                "-days",
                "30",
                "-subj",
                "/O=Acme/CN=Acme Root",
                "-addext",
                "basicConstraints=critical,CA:TRUE",
                "-addext",
                "keyUsage=critical,keyCertSign,cRLSign",
                "-keyout",
                &made.path("root.key"),
                "-out",
                &made.path("root.pem"),
            ],
        );
        made
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Signs a request with these extensions; the chain, PEM.
    fn sign(&self, csr: &str, extensions: &str) -> PathBuf {
        std::fs::write(self.path("a.csr"), csr).unwrap();
        std::fs::write(self.path("a.ext"), extensions).unwrap();
        run(
            "openssl",
            &[
                "x509",
                "-req",
                "-in",
                &self.path("a.csr"),
                "-CA",
                &self.path("root.pem"),
                "-CAkey",
                &self.path("root.key"),
                "-CAcreateserial",
                "-sha256",
                "-days",
                "20",
                "-extfile",
                &self.path("a.ext"),
                "-out",
                &self.path("a.pem"),
            ],
        );
        let chain = self.0.join("chain.pem");
        let text = |name| std::fs::read_to_string(self.path(name)).unwrap();
        std::fs::write(&chain, text("a.pem") + &text("root.pem")).unwrap();
        chain
    }
}

const GOOD: &str = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
                    subjectAltName=URI:spiffe://mesh.local\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";

#[test]
fn an_intermediate_takes_over_and_openssl_verifies_by_the_organisations_root_alone() {
    let mut authority = Authority::with(&for_us("us"), "4s", "");
    let path = authority.path("ca.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("refresh_hint = \"1s\"\n{text}")).unwrap();
    authority.kill_9();
    authority.run(hopguard());
    let organisation = Organisation::new(&authority.path("acme"));
    let csr = |authority: &Authority| {
        done(ca(&authority.path("ca.toml"), &["csr"]))["csr"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let request = csr(&authority);
    std::fs::write(organisation.path("a.csr"), &request).unwrap();
    let shown = run(
        "openssl",
        &[
            "req",
            "-in",
            &organisation.path("a.csr"),
            "-noout",
            "-text",
            "-verify",
        ],
    );
    assert!(
        shown.contains("URI:spiffe://mesh.local") && shown.contains("CA:TRUE"),
        "{shown}"
    );
    // The key survives a crash and waits.
    authority.kill_9();
    authority.run(hopguard());
    let chain = organisation.sign(&csr(&authority), GOOD);
    let imported = done(ca(&path, &["import", chain.to_str().unwrap()]));
    let id = imported["prepared"].as_str().unwrap().to_owned();
    eventually(PATIENCE, || {
        let status = done(ca(&path, &["status"]));
        let active = lists::active(&status);
        if active == id {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .unwrap();

    let (one, two) = (authority.path("one"), authority.path("two"));
    let said = lists::fetch(&authority, &one, 0);
    assert_eq!(said["chain"], 2, "{said}");
    let root = organisation.path("root.pem");
    let verify = |dir: &Path| {
        let (leaf, between) = (dir.join("leaf.pem"), dir.join("between.pem"));
        let arguments = [
            "verify",
            "-CAfile",
            &root,
            "-untrusted",
            between.to_str().unwrap(),
            leaf.to_str().unwrap(),
        ];
        run("openssl", &arguments)
    };
    verify(&one);
    // Its lists are signed by it, and openssl takes them below the organisation's root.
    let revoked = done(ca(
        &path,
        &["revoke", "--serial", said["serial"].as_str().unwrap()],
    ));
    assert_eq!(revoked["svids"], 1);
    lists::fetch(&authority, &two, 1);
    std::fs::copy(&root, two.join("roots.pem")).unwrap();
    let (good, said) = lists::openssl(&two, &two);
    assert!(good, "{said}");
    let (good, said) = lists::openssl(&one, &two);
    assert!(!good && said.contains("certificate revoked"), "{said}");
    authority.kill_9();
    authority.run(hopguard());
    assert_eq!(
        lists::fetch(&authority, &one, 0)["chain"],
        2,
        "after a restart too"
    );
    verify(&one);
}

#[test]
fn a_chain_that_is_not_what_it_must_be_changes_nothing() {
    let authority = Authority::start(&for_us("us"));
    let path = authority.path("ca.toml");
    let organisation = Organisation::new(&authority.path("acme"));
    let early = organisation.path("root.pem");
    let said = refused(&ca(&path, &["import", &early]));
    assert!(said.contains("hint"), "{said}");
    let request = done(ca(&path, &["csr"]))["csr"].as_str().unwrap().to_owned();
    for (change, with) in [
        ("CA:TRUE,pathlen:0", "CA:FALSE"),
        ("basicConstraints=critical", "basicConstraints="),
        (",cRLSign", ""),
        ("keyUsage=critical", "keyUsage="),
        ("spiffe://mesh.local", "spiffe://other.example"),
        ("spiffe://mesh.local", "spiffe://mesh.local/path"),
        ("spiffe://mesh.local", "spiffe://mesh.local,DNS:mesh.local"),
        (
            "subjectKeyIdentifier=hash\n",
            "nameConstraints=permitted;URI:mesh.local\nsubjectKeyIdentifier=hash\n",
        ),
    ] {
        let extensions = GOOD.replace(change, with).replace("=,", "=");
        let chain = organisation.sign(&request, &extensions);
        let said = refused(&ca(&path, &["import", chain.to_str().unwrap()]));
        assert!(said.contains("hint"), "{change} -> {with}: {said}");
    }
    let chain = organisation.sign(&request, GOOD);
    let text = std::fs::read_to_string(&chain).unwrap();
    let end = "-----END CERTIFICATE-----\n";
    let (own, _) = text.split_at(text.find(end).unwrap() + end.len());
    let alone = authority.path("alone.pem");
    std::fs::write(&alone, own).unwrap();
    let said = refused(&ca(&path, &["import", alone.to_str().unwrap()]));
    assert!(said.contains("root"), "{said}");
    assert_eq!(
        lists::fetch(&authority, &authority.path("out"), 0)["roots"],
        1,
        "the bundle is as it was"
    );
    done(ca(&path, &["import", chain.to_str().unwrap()]));
    let said = refused(&ca(&path, &["import", chain.to_str().unwrap()]));
    assert!(said.contains("prepared already"), "{said}");
}
