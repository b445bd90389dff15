//! Whether the sidecar is ready, and what its admin socket tells: the state of the process enters, reasons and sections
//! leave. Nothing here changes anything but its own notes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::admin::{AdminState, Readiness};
use crate::config::Sidecar;
use crate::flow::Context;
use crate::tls::PublicServer;
use crate::tools::explain;

use super::probe::Redirect;

/// The shared state of the process.
pub(super) struct State {
    pub(super) ctx: Arc<Context>,
    pub(super) sidecar: Sidecar,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    listening: bool,
    draining: bool,
    /// Why the last set of files was refused.
    refused: Option<String>,
    /// Whether files cannot be read for now.
    postponed: bool,
    /// Why the last shadow set was refused.
    shadow_refused: Option<String>,
    /// Whether a good set was ever in force.
    files_good: bool,
    /// The redirect as last seen; `None` before the first look.
    redirect: Option<Redirect>,
    /// The certificate of `public` ports in force, if there is one.
    public: Option<PublicServer>,
    /// Why its changed files were refused.
    public_refused: Option<String>,
}

impl Notes {
    /// What became of files that changed; nothing of it makes the sidecar unready.
    fn about_files(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.files_good && self.refused.is_some() {
            // Everyone may ask for readiness; what stands in the files is for the log and the administration socket.
            reasons
                .push("changed files were refused, and the ones before are in force: see the log".to_owned());
        }
        if self.postponed {
            reasons.push(
                "files cannot be read for now, and are tried again; those before are in force: see the log"
                    .to_owned(),
            );
        }
        if self.public_refused.is_some() {
            reasons.push(
                "the changed certificate of public ports was refused, and the one before is shown: see the log"
                    .to_owned(),
            );
        }
        if self.shadow_refused.is_some() {
            // Nothing that decides is missing, so it is ready all the same.
            reasons.push("the shadow policies were refused: see the log".to_owned());
        }
        reasons
    }
}

impl State {
    pub(super) fn new(
        ctx: Arc<Context>,
        sidecar: Sidecar,
        refused: Option<String>,
        public: Option<PublicServer>,
    ) -> Arc<Self> {
        let notes = Notes {
            files_good: refused.is_none(),
            refused,
            public,
            ..Notes::default()
        };
        Arc::new(Self {
            ctx,
            sidecar,
            notes: Mutex::new(notes),
        })
    }

    pub(super) fn listening(&self) {
        self.notes().listening = true;
    }

    pub(super) fn draining(&self) {
        self.notes().draining = true;
    }

    pub(super) fn files_taken(&self) {
        let mut notes = self.notes();
        notes.refused = None;
        notes.files_good = true;
    }

    /// Notes why a set was refused; whether that is news.
    pub(super) fn files_refused(&self, trouble: &str) -> bool {
        let mut notes = self.notes();
        let news = notes.refused.as_deref() != Some(trouble);
        notes.refused = Some(trouble.to_owned());
        news
    }

    /// Notes whether files cannot be read for now; whether that is news.
    pub(super) fn files_postponed(&self, postponed: bool) -> bool {
        std::mem::replace(&mut self.notes().postponed, postponed) != postponed
    }

    pub(super) fn refused(&self) -> bool {
        let notes = self.notes();
        notes.refused.is_some() || notes.shadow_refused.is_some()
    }

    /// Notes why the shadow set was refused, or that it was not; whether a refusal is news.
    pub(super) fn shadow_seen(&self, trouble: Option<&str>) -> bool {
        let mut notes = self.notes();
        let news = trouble.is_some() && notes.shadow_refused.as_deref() != trouble;
        notes.shadow_refused = trouble.map(str::to_owned);
        news
    }

    /// Notes the certificate of `public` ports that is in force now; whether it is another one.
    pub(super) fn public_taken(&self, server: PublicServer) -> bool {
        let mut notes = self.notes();
        notes.public_refused = None;
        let before = notes.public.replace(server);
        let in_force = notes.public.as_ref().map(|public| &public.chain);
        before.as_ref().map(|public| &public.chain) != in_force
    }

    /// Notes why its changed files were refused; whether that is news.
    pub(super) fn public_refused(&self, trouble: &str) -> bool {
        let mut notes = self.notes();
        let news = notes.public_refused.as_deref() != Some(trouble);
        notes.public_refused = Some(trouble.to_owned());
        news
    }

    /// Notes what a probe found; whether that is news.
    pub(super) fn redirect_seen(&self, found: Redirect) -> bool {
        let mut notes = self.notes();
        let news = notes.redirect.as_ref() != Some(&found);
        notes.redirect = Some(found);
        news
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn identity(&self) -> Value {
        match &self.ctx.current.load().tls {
            Ok(tls) => {
                let identity = tls.identity();
                json!({
                    "spiffe_id": identity.id.to_string(),
                    "not_before": unix(identity.not_before),
                    "not_after": unix(identity.not_after),
                    "trust_domains": identity.bundles.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>(),
                })
            }
            Err(reason) => json!({"waiting": &**reason}),
        }
    }

    fn services(&self) -> Value {
        let table = self.ctx.services.table();
        let services: Vec<Value> = table
            .services()
            .map(|service| {
                json!({
                    "name": &*service.name,
                    "addresses": table.addresses_of(&service.name),
                    "spiffe_ids": service.spiffe_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "ports": service.ports.iter().map(|port| json!({
                        "port": port.port, "protocol": port.protocol.label(), "mode": port.mode.label(),
                    })).collect::<Vec<_>>(),
                })
            })
            .collect();
        let problems: Vec<Value> = self
            .ctx
            .services
            .problems()
            .into_iter()
            .map(|problem| json!({"host": problem.host, "message": problem.message}))
            .collect();
        json!({"services": services, "problems": problems})
    }

    fn policy(&self) -> Value {
        let snapshot = self.ctx.current.load();
        let notes = self.notes();
        json!({
            "version": snapshot.policies.version(),
            "policies": snapshot.policies.count(),
            "enforced_here": snapshot.policies.enforced(),
            "generation": snapshot.generation,
            "refused": notes.refused,
            "shadow": self.sidecar.shadow_policies.as_ref().map(|folder| json!({
                "folder": folder,
                "version": snapshot.policies.shadow().map(|shadow| shadow.version()),
                "policies": snapshot.policies.shadow().map(|shadow| shadow.count()),
                "refused": notes.shadow_refused,
            })),
        })
    }

    fn public(&self) -> Value {
        let notes = self.notes();
        match (&notes.public, &self.sidecar.inbound.public) {
            (Some(public), Some(files)) => json!({
                "file": files.certificate,
                "not_after": unix(public.not_after),
                "refused": notes.public_refused,
            }),
            _ => Value::Null,
        }
    }

    fn config(&self) -> Value {
        let snapshot = self.ctx.current.load();
        json!({
            "file": self.sidecar.file,
            "service": self.sidecar.service,
            "mesh": {"file": snapshot.mesh.file, "hash": snapshot.mesh.hash},
            "policies": self.sidecar.policies,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

impl AdminState for State {
    fn section(&self, name: &str) -> Option<Value> {
        let value = match name {
            "status" => {
                json!({
                    "readiness": self.readiness(),
                    "identity": self.identity(),
                    "policy": self.policy(),
                    "public_certificate": self.public(),
                })
            }
            "config" => self.config(),
            "services" => self.services(),
            "policy" => self.policy(),
            "identity" => self.identity(),
            "issuers" => serde_json::to_value(self.ctx.authn.status(SystemTime::now())).ok()?,
            "tunnels" => {
                let (tunnels, streams) = self.ctx.pool.usage();
                json!({"tunnels": tunnels, "streams": streams})
            }
            _ => return None,
        };
        Some(value)
    }

    fn explain(&self, id: &str) -> Result<Value, Value> {
        let denials = &self.ctx.denials;
        let Some(denial) = denials.find(id, SystemTime::now()) else {
            let keeping = denials.keeping();
            return Err(json!({
                "error": "no such id is kept here",
                "kept": {"now": keeping.now, "most": keeping.most, "seconds": keeping.age.as_secs()},
            }));
        };
        let unreadable = |error: serde_json::Error| json!({"error": error.to_string()});
        let record: Value = serde_json::from_str(&denial.record).map_err(unreadable)?;
        // Those that decided, if they are still there; else those in force, and the answer says so.
        let policies = denial
            .policies
            .unwrap_or_else(|| Arc::clone(&self.ctx.current.load().policies));
        let explained = explain(&record, denial.inputs.as_deref(), Some(&policies));
        serde_json::to_value(explained).map_err(unreadable)
    }

    fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        let identity = match &self.ctx.current.load().tls {
            Ok(tls) if tls.identity().not_after <= SystemTime::now() => {
                Some("the own SVID has expired".to_owned())
            }
            Ok(_) => None,
            Err(reason) => Some(reason.to_string()),
        };
        reasons.extend(identity.map(|reason| format!("no identity: {reason}")));
        let notes = self.notes();
        if !notes.listening {
            reasons.push("not listening yet".to_owned());
        }
        if notes.draining {
            reasons.push("draining".to_owned());
        }
        if !notes.files_good {
            // Without the problems themselves: the health port is open to everyone, the admin socket is not.
            reasons.push(
                "no policy set could be loaded: `policy` on the admin socket and the log say why".to_owned(),
            );
        }
        if self.sidecar.traffic.probe {
            match &notes.redirect {
                Some(Redirect::InPlace) => {}
                Some(Redirect::Missing(family)) => {
                    reasons.push(format!(
                        "the redirect is not in place for {family}: run `hopguard iptables apply`"
                    ));
                }
                Some(Redirect::Unknown(error)) => {
                    reasons.push(format!(
                        "whether traffic is redirected cannot be found out: {error}"
                    ));
                }
                None => reasons.push("the redirect has not been seen yet".to_owned()),
            }
        }
        let ready = reasons.is_empty();
        if !self.sidecar.traffic.probe {
            reasons.push(
                "whether traffic is redirected is not watched (`traffic.probe = false`): `hopguard iptables check` tells"
                    .to_owned(),
            );
        }
        reasons.extend(notes.about_files());
        Readiness { ready, reasons }
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
