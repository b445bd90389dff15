//! The two meshes, each started once.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hopguard_tests::{Echo, Flight, Mesh, Options, Sender, Shot, Until, Via, Who, eventually, folder};

use crate::ask::{Ask, Wire, fire};
use crate::keys::{KEYS, user_token};

/// The application under attack, as the attacker reaches it.
pub const TARGET: &str = "10.77.0.12:8080";

/// What both meshes have in common.
const MESH: &str = r#"trust_domain = "mesh.local"

[[service]]
name = "shop/web"
hosts = ["web", "web.shop"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/web"]
  [[service.port]]
  port = 8080

[[service]]
name = "shop/orders"
hosts = ["orders", "orders.shop", "10--0.nip.example"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/orders"]
  [[service.port]]
  port = 8080
  mode = "permissive"
  [[service.route]]
  name = "public"
  methods = ["GET", "HEAD", "POST"]
  path = "/public/{**}"
  [[service.route]]
  name = "admin"
  methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
  path = "/admin/{**}"
  [[service.route]]
  name = "tenant"
  methods = ["GET"]
  path = "/tenants/{t}/orders"
  [[service.route]]
  name = "files"
  methods = ["GET"]
  path = "/files/{name}"
  encoded_slash = "data"
  [[service.route]]
  name = "merged"
  methods = ["GET"]
  path = "/merged/{**}"
  merge_slashes = true
  [[service.route]]
  name = "servlet"
  methods = ["GET"]
  path = "/servlet/{**}"
  allow_semicolon = true
  [[service.route]]
  name = "servlet-admin"
  methods = ["GET"]
  path = "/servlet/admin/{**}"
  allow_semicolon = true
  [[service.route]]
  name = "percent"
  methods = ["GET"]
  path = "/percent/{**}"
  encoded_percent = true

[[service]]
name = "shop/payments"
hosts = ["payments", "payments.shop"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/payments"]
  [[service.port]]
  port = 8080

[groups]
inside = ["spiffe://mesh.local/**"]

[headers]
role = { name = "x-role" }
region = { name = "x-region", list = true }

[[issuer]]
alias = "corp"
issuer = "https://idp:8443"
audiences = ["shop"]
ca_file = "idp-ca.pem"

[[issuer]]
alias = "test"
issuer = "http://127.0.0.1:9999"
jwks_uri = "http://127.0.0.1:9999/jwks"
allow_http_loopback = true
audiences = ["shop"]
roles = ["roles"]
role_names = ["admin", "clerk"]
"#;

/// A list of permits.
const A: &str = r#"
@id("peers-read-public")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action in [Action::"GET", Action::"HEAD"],
  resource == Service::"shop/orders"
) when { context.path == "/public" || context.path like "/public/*" };
@id("peers-post-public")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action in Action::"shop/orders#public",
  resource == Service::"shop/orders"
) when { context.path == "/public/form" };
@id("tenants")
permit(principal in Group::"inside", action == Action::"shop/orders#tenant", resource == Service::"shop/orders");
@id("admins-alone")
permit(principal in Group::"inside", action in Action::"shop/orders#admin", resource == Service::"shop/orders")
when { context has user && context.user in Role::"test|admin" };
@id("scoped")
permit(principal in Group::"inside", action == Action::"GET", resource == Service::"shop/orders")
when { context.path == "/scoped" && context has user && context.user.scope.contains("orders:read") };
@id("no-admin-region")
forbid(principal, action in Action::"http", resource == Service::"shop/orders")
when { context.headers has region && context.headers.region.contains("admin") };
@id("loopback-alone")
permit(principal, action == Action::"GET", resource == Service::"shop/orders")
when { context.path == "/loopback" && context.src_ip.isLoopback() };
"#;

/// Everything but a list of forbids.
const D: &str = r#"
@id("peers-do-anything")
permit(principal in Group::"inside", action in Action::"http", resource == Service::"shop/orders");
@id("admins-alone")
forbid(principal, action in Action::"shop/orders#admin", resource == Service::"shop/orders")
unless { context has user && context.user in Role::"test|admin" };
@id("secrets")
forbid(principal, action in Action::"GET", resource == Service::"shop/orders")
when { ["/merged/secret", "/servlet/secret", "/percent/%2541"].contains(context.path) };
@id("secret-files")
forbid(principal, action == Action::"shop/orders#files", resource == Service::"shop/orders")
when { context.params.name == "secret/plan" };
@id("admins-alone-other")
forbid(principal, action == Action::"OTHER", resource == Service::"shop/orders")
when { context.path == "/admin" || context.path like "/admin/*" };
"#;

/// A mesh under attack.
pub struct Rig {
    pub mesh: Mesh,
    pub echo: Echo,
    sender: Sender,
    web: String,
}

/// The mesh with the list of permits, for one test at a time.
pub fn permits() -> MutexGuard<'static, Rig> {
    static RIG: LazyLock<Mutex<Rig>> = LazyLock::new(|| Mutex::new(Rig::start(A)));
    RIG.lock().unwrap_or_else(PoisonError::into_inner).cleared()
}

/// The mesh with the list of forbids, for one test at a time.
pub fn forbids() -> MutexGuard<'static, Rig> {
    static RIG: LazyLock<Mutex<Rig>> = LazyLock::new(|| Mutex::new(Rig::start(D)));
    RIG.lock().unwrap_or_else(PoisonError::into_inner).cleared()
}

trait Cleared {
    fn cleared(self) -> Self;
}

impl Cleared for MutexGuard<'static, Rig> {
    /// What a failed test left is not the next one's.
    fn cleared(self) -> Self {
        self.echo.clear();
        self
    }
}

impl Rig {
    fn start(policies: &str) -> Self {
        let dir = folder(&[("mesh.toml", MESH), ("policies/shop.cedar", policies)]);
        let mesh = Mesh::start(&Options {
            dir: Some(dir.path().to_path_buf()),
            ..Options::default()
        })
        .unwrap();
        let echo = Echo::start(&mesh, "orders").unwrap();
        echo.keys(&KEYS.document()).unwrap();
        let web = mesh.svid("web", "stranger").unwrap();
        let sender = Sender::start(&mesh, "stranger").unwrap();
        let rig = Self {
            mesh,
            echo,
            sender,
            web,
        };
        // The issuer's keys are asked for again and again until they are there.
        eventually(Duration::from_secs(60), || {
            let said = fire(
                &rig,
                Wire::Mtls,
                &Ask::get("/public").token(&user_token()),
                "ready",
            );
            if said.status == Some(200) {
                Ok(())
            } else {
                Err(format!("{said:?}"))
            }
        })
        .unwrap();
        rig.echo.take("x-case: ready", 1).unwrap();
        rig
    }

    /// Sends these pieces as the pod web.
    pub fn send(&self, via: Via, pieces: &[&[u8]], until: Until) -> Flight {
        let pieces: Vec<(&[u8], &str)> = pieces.iter().map(|piece| (*piece, "")).collect();
        self.send_waiting(via, &pieces, until)
    }

    /// The same; each piece waits for its text.
    pub fn send_waiting(&self, via: Via, pieces: &[(&[u8], &str)], until: Until) -> Flight {
        self.send_as(Who::Folder(self.web.clone()), via, pieces, until)
    }

    /// The same as whoever is told.
    pub fn send_as(&self, who: Who, via: Via, pieces: &[(&[u8], &str)], until: Until) -> Flight {
        let shot = Shot {
            to: TARGET.to_owned(),
            via,
            who: if via == Via::Plain { Who::Nobody } else { who },
            pieces: pieces
                .iter()
                .map(|(piece, wait)| (hex::encode(piece), (*wait).to_owned()))
                .collect(),
            until,
        };
        self.sender.shoot(&shot).unwrap()
    }

    /// The end of a table: a last good request arrives, and nothing has arrived that no case has claimed.
    pub fn settle(&self) {
        let said = fire(
            self,
            Wire::Mtls,
            &Ask::get("/public").token(&user_token()),
            "settled",
        );
        assert_eq!(said.status, Some(200), "{said:?}");
        self.echo.take("x-case: settled", 1).unwrap();
        let left = self.echo.sights();
        let lines: Vec<_> = left
            .iter()
            .map(|sight| String::from_utf8_lossy(&sight.head))
            .collect();
        assert!(
            left.is_empty(),
            "the application received what it should not have: {lines:#?}"
        );
    }
}
