//! What a decision and a token cost: CPU time of one thread, through the functions that a request runs through. Ends with
//! one line of JSON; `make bench-decision` runs it.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hopguard_sidecar::assertion::{self, AssertionOptions, Said, Signer};
use hopguard_sidecar::authn::{Authenticator, AuthnOptions};
use hopguard_sidecar::authz::{ClaimValue, Facts, HttpFacts, Policies, Principal, User, Verdict, What, load};
use hopguard_sidecar::config::{Mesh, parse_mesh};
use hopguard_sidecar::dial::DialOptions;
use serde_json::{Value, json};
use spiffe::SpiffeId;

type Res<T> = Result<T, Box<dyn Error>>;

/// Workloads that call a service, and routes that it has.
const PEERS: usize = 25;
const ROUTES: usize = 20;
/// Policies that a service has when there are many services.
const PER_SERVICE: usize = 10;

fn main() -> Res<()> {
    let mut decisions = serde_json::Map::new();
    let mut slices = serde_json::Map::new();
    for (name, services, per_service) in [
        ("10", 1, 10),
        ("100", 100 / PER_SERVICE, PER_SERVICE),
        ("1000", 1000 / PER_SERVICE, PER_SERVICE),
        ("1000_one_service", 1, 1000),
    ] {
        let set = set(services, per_service)?;
        let known = decide(&set, Users::Known)?;
        decisions.insert(name.to_owned(), json!(rounded(known)));
        slices.insert(name.to_owned(), json!(set.enforced()));
    }
    let set = set(1, 1000)?;
    let fresh = decide(&set, Users::Fresh)?;
    let anonymous = decide(&set, Users::None)?;
    let tokens = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(tokens())?;
    let line = json!({
        "decision_us": decisions, "policies_of_the_service": slices,
        "decision_new_user_us": rounded(fresh), "decision_denied_without_user_us": rounded(anonymous),
        "token_hit_us": rounded(tokens.hit), "token_miss_us": rounded(tokens.es256_miss),
        "token_miss_rs256_us": rounded(tokens.rs256_miss), "assertion_us": rounded(sign()?),
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn rounded(micros: f64) -> f64 {
    (micros * 1000.0).round() / 1000.0
}

/// CPU time of this thread in nanoseconds, user and system.
fn cpu() -> Res<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().unwrap_or_default().parse()?)
}

/// The median of seven runs, in microseconds of CPU time for one of `count`.
fn median(count: u32, mut run: impl FnMut() -> Res<()>) -> Res<f64> {
    run()?; // what is kept between decisions is kept after it
    let mut times = Vec::new();
    for _ in 0..7 {
        let before = cpu()?;
        run()?;
        times.push(cpu()?.saturating_sub(before));
    }
    times.sort_unstable();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(Duration::from_nanos(middle).as_secs_f64() * 1e6 / f64::from(count))
}

fn mesh(services: usize, issuer: &str) -> Res<Mesh> {
    let mut text = String::from(
        "trust_domain = \"mesh.local\"\n[headers]\nx_region = { name = \"x-region\", list = false }\n",
    );
    for service in 0..services {
        text += &format!(
            "[[service]]\nname = \"shop/s{service}\"\nhosts = [\"s{service}.shop\"]\n\
             spiffe_ids = [\"spiffe://mesh.local/ns/shop/sa/s{service}\"]\n[[service.port]]\nport = 8080\n"
        );
        for route in 0..ROUTES {
            text += &format!(
                "[[service.route]]\nname = \"r{route}\"\nmethods = [\"POST\"]\npath = \"/tenants/{{tenant}}/r{route}\"\n"
            );
        }
    }
    text += "[groups]\ncallers = [\"spiffe://mesh.local/ns/web/sa/*\"]\n";
    text += &format!(
        "[[issuer]]\nalias = \"corp\"\nissuer = \"{issuer}\"\naudiences = [\"shop\"]\nroles = [\"roles\"]\n\
         role_names = [\"clerk\", \"auditor\"]\nallow_http_loopback = true\n[issuer.claims]\ntenant = {{ path = \"tenant\", type = \"string\" }}\n"
    );
    parse_mesh(Path::new("mesh.toml"), &text).map_err(|problems| format!("{problems:?}").into())
}

/// The policies of one service: two that forbid, and permits of peer, route and user together.
fn policies(service: usize, count: usize) -> String {
    let mut text = format!(
        "@id(\"s{service}-identity\") forbid(principal is Plaintext, action in Action::\"write\", resource == Service::\"shop/s{service}\") unless {{ context has user }};\n\
         @id(\"s{service}-window\") forbid(principal, action in Action::\"write\", resource == Service::\"shop/s{service}\")\n\
         when {{ context.now >= datetime(\"2026-12-31T00:00:00Z\") && context.now < datetime(\"2027-01-02T00:00:00Z\") }};\n"
    );
    for at in 0..count - 2 {
        let (peer, route, role) = (at % PEERS, at / PEERS % ROUTES, at / PEERS / ROUTES);
        let who = match role {
            0 => "context.user in Role::\"corp|clerk\"",
            _ => "context.user in Role::\"corp|auditor\" && context.user.scope.contains(\"orders:write\")",
        };
        text += &format!(
            "@id(\"s{service}-{at}\") permit(principal == Workload::\"spiffe://mesh.local/ns/web/sa/w{peer}\",\n\
             action == Action::\"shop/s{service}#r{route}\", resource == Service::\"shop/s{service}\")\n\
             when {{ context has user && {who} && context.user.claims has tenant && context.user.claims.tenant == context.params.tenant }};\n"
        );
    }
    text
}

fn set(services: usize, per_service: usize) -> Res<Policies> {
    let model = mesh(services, "http://127.0.0.1:9")?.authz_model();
    let files: Vec<(PathBuf, String)> = (0..services)
        .map(|service| {
            (
                PathBuf::from(format!("s{service}.cedar")),
                policies(service, per_service),
            )
        })
        .collect();
    load(&model, &files, "shop/s0").map_err(|problems| format!("{problems:?}").into())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Users {
    /// A few dozen, as a busy sidecar sees them again and again.
    Known,
    /// Never the same one again.
    Fresh,
    /// No token.
    None,
}

fn user(name: usize) -> User {
    User {
        alias: "corp".to_owned(),
        issuer: "http://127.0.0.1:9".to_owned(),
        subject: format!("user-{name}"),
        audience: vec!["shop".to_owned()],
        scope: vec!["orders:read".to_owned(), "orders:write".to_owned()],
        roles: vec!["clerk".to_owned(), "auditor".to_owned()],
        exp: 1_795_000_600,
        claims: vec![("tenant".to_owned(), ClaimValue::String("t1".to_owned()))],
        ..User::default()
    }
}

/// Microseconds for one decision about a write on a declared route.
fn decide(set: &Policies, users: Users) -> Res<f64> {
    const COUNT: usize = 20_000;
    let peers: Vec<SpiffeId> = (0..4)
        .map(|peer| SpiffeId::new(format!("spiffe://mesh.local/ns/web/sa/w{peer}")))
        .collect::<Result<_, _>>()?;
    let many = if users == Users::Fresh { COUNT * 8 } else { 32 };
    let all: Vec<User> = (0..many).map(user).collect();
    let headers = [("x_region".to_owned(), vec!["eu".to_owned()])];
    let mut turn = 0;
    median(u32::try_from(COUNT)?, || {
        for _ in 0..COUNT {
            let (peer, user) = (peers.get(turn % peers.len()), all.get(turn % all.len()));
            turn += 1;
            let decision = set.decide(&Facts {
                principal: peer.map_or(Principal::Plaintext, Principal::Workload),
                port: 8080,
                tls: true,
                src_ip: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
                now_millis: 1_795_000_000_000,
                what: What::Http(HttpFacts {
                    method: "POST",
                    path: "/tenants/t1/r0",
                    host: "s0.shop",
                    headers: &headers,
                    user: user.filter(|_| users != Users::None),
                }),
            });
            let allowed = decision.verdict == Verdict::Allow;
            if allowed == (users == Users::None) {
                return Err(format!("not what the benchmark is about: {decision:?}").into());
            }
        }
        Ok(())
    })
}

/// Microseconds for one signed statement to the application.
fn sign() -> Res<f64> {
    const COUNT: u32 = 2_000;
    let options = AssertionOptions {
        port: 9,
        audience: "shop/s0".to_owned(),
        ttl: Duration::from_secs(30),
        request: true,
    };
    let now = SystemTime::now();
    let signer = Signer::new(options, now)?;
    let id = |name: &str| SpiffeId::new(format!("spiffe://mesh.local/ns/shop/sa/{name}"));
    let (own, caller) = (id("s0")?, id("web")?);
    let roles = ["clerk".to_owned(), "auditor".to_owned()];
    median(COUNT, || {
        for _ in 0..COUNT {
            let said = Said {
                issuer: &own,
                caller: Some(&caller),
                user: Some(assertion::User {
                    issuer: "https://idp.example",
                    subject: "user-1",
                    roles: &roles,
                    actors: &[],
                }),
                decision: "3f9c0b1d2e4a5f60",
                request: ("POST", "/tenants/t1/r0", "s0.shop"),
            };
            signer.sign(&said, now)?;
        }
        Ok(())
    })
}

struct Tokens {
    hit: f64,
    es256_miss: f64,
    rs256_miss: f64,
}

async fn tokens() -> Res<Tokens> {
    let keys = Keys::new()?;
    let (issuer, _provider) = provider(&keys)?;
    let dial = DialOptions {
        mark: None,
        timeout: Duration::from_secs(5),
    };
    let authn = Authenticator::new(mesh(1, &issuer)?.issuer_options(), AuthnOptions::new(dial))?;
    let running = tokio::spawn(Arc::clone(&authn).run());
    let first = keys.es256(&issuer, 0)?;
    while authn.verify(&first, SystemTime::now()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.abort();
    let many: Vec<String> = (0..64).map(|at| keys.es256(&issuer, at)).collect::<Res<_>>()?;
    let fresh = |rs: bool| -> Res<Vec<String>> {
        (1000..1500)
            .map(|at| {
                if rs {
                    keys.rs256(&issuer, at)
                } else {
                    keys.es256(&issuer, at)
                }
            })
            .collect()
    };
    Ok(Tokens {
        hit: verify(&authn, &many, 300, 1).await?,
        es256_miss: verify(&authn, &fresh(false)?, 1, 0).await?,
        rs256_miss: verify(&authn, &fresh(true)?, 1, 0).await?,
    })
}

/// Microseconds for one verification of one of `tokens`, each verified `times` times, after `before` rounds.
async fn verify(authn: &Authenticator, tokens: &[String], times: u32, before: u32) -> Res<f64> {
    let now = SystemTime::now();
    let mut took = 0;
    for round in 0..before + times {
        let began = cpu()?;
        for token in tokens {
            authn.verify(token, now).await.map_err(|e| format!("{e:?}"))?;
        }
        if round >= before {
            took += cpu()?.saturating_sub(began);
        }
    }
    let count = f64::from(times) * f64::from(u32::try_from(tokens.len())?);
    Ok(Duration::from_nanos(took).as_secs_f64() * 1e6 / count)
}

struct Keys {
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
}

impl Keys {
    fn new() -> Res<Self> {
        Ok(Self {
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
            rsa: RsaKeyPair::generate(KeySize::Rsa2048)?,
        })
    }

    fn jwks(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        let half =
            |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
        let public = self.rsa.public_key();
        let (n, e) = (public.modulus(), public.exponent());
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "ec", "x": half(1..33), "y": half(33..65)},
            {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "rsa",
             "n": URL_SAFE_NO_PAD.encode(n.big_endian_without_leading_zero()),
             "e": URL_SAFE_NO_PAD.encode(e.big_endian_without_leading_zero())},
        ]})
    }

    fn es256(&self, issuer: &str, at: usize) -> Res<String> {
        let input = input("ES256", "ec", issuer, at)?;
        let signature = self.ec.sign(&SystemRandom::new(), input.as_bytes())?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    fn rs256(&self, issuer: &str, at: usize) -> Res<String> {
        let input = input("RS256", "rsa", issuer, at)?;
        let mut signature = vec![0; self.rsa.public_modulus_len()];
        self.rsa.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            input.as_bytes(),
            &mut signature,
        )?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(&signature)))
    }
}

fn input(alg: &str, kid: &str, issuer: &str, at: usize) -> Res<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let header = json!({"alg": alg, "kid": kid, "typ": "JWT"});
    let claims = json!({
        "iss": issuer, "sub": format!("user-{at}"), "aud": "shop", "iat": now, "exp": now + 3600,
        "roles": ["clerk", "auditor"], "scope": "orders:read orders:write", "tenant": "t1", "azp": "web",
    });
    Ok(format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    ))
}

/// A provider on loopback that answers with its configuration and its keys until the process ends.
fn provider(keys: &Keys) -> Res<(String, std::thread::JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let issuer = format!("http://{}", listener.local_addr()?);
    let configuration = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks")}).to_string();
    let jwks = keys.jwks().to_string();
    let serving = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut head = [0; 4096];
            let got = stream.read(&mut head).unwrap_or_default();
            let asks_keys = head.get(..got).is_some_and(|head| head.starts_with(b"GET /jwks"));
            let body = if asks_keys { &jwks } else { &configuration };
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _gone = stream.write_all(answer.as_bytes());
        }
    });
    Ok((issuer, serving))
}
