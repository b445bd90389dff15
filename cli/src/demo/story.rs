//! The story: each scenario is played in the pods, and what came of it is read from the answers, from the application's own
//! count and from the sidecars' records. It judges by what the script says and prints what it saw; it helps nothing to pass.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use hyper::Method;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::client::{Answer, Refused, Request, Security};
use super::cluster::Cluster;
use super::pods::{APP_PORT, Pod};
use super::records::{Hop, Records};
use super::script::{Attempt, Below, Expected, ExpectedHop, SCENARIOS, Scenario};
use super::spec::{Mode, Spec};
use super::{failed, files, init, show};
use crate::ui::{Exit, Failure, Ui};

/// How long the records of a scenario may take to be written.
const WRITING: Duration = Duration::from_secs(5);
const LOOKING: Duration = Duration::from_millis(10);
/// How often a demo that stays looks for what the user did.
const WATCHING: Duration = Duration::from_millis(100);

/// What came of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its number.
    pub id: u8,
    /// What happened.
    pub title: &'static str,
    /// What must have come of it.
    pub expected: Value,
    /// What did.
    pub observed: Observed,
    /// Whether both are the same.
    pub ok: bool,
    /// What is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Observed {
    /// The answer, when all attempts had the same.
    pub status: Option<u16>,
    /// Whether no attempt got any answer.
    pub refused: bool,
    /// Each attempt.
    pub attempts: Vec<Tried>,
    /// How many requests the application of `payments` counted meanwhile.
    pub application_requests: u64,
    /// The hops, in order.
    pub hops: Vec<Hop>,
}

/// One attempt.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// What was special about it.
    pub how: &'static str,
    /// The answer.
    pub status: Option<u16>,
    /// Where and how it was refused without one.
    pub refused: Option<String>,
}

/// Tells the story; stays afterwards unless it is told once.
pub async fn tell(spec: &Spec, cluster: &Cluster, provider_ca: &str, ui: &Ui) -> Result<Exit, Failure> {
    let mut teller = Teller {
        cluster,
        provider_ca,
        records: Records::new(&policies()?),
        forged: forged_certificate()?,
    };
    if !ui.is_json() {
        show::opening(spec, ui);
    }
    let mut outcomes = Vec::new();
    for scenario in &SCENARIOS {
        if !ui.is_json() {
            show::title(scenario, ui);
        }
        let outcome = teller.play(scenario).await?;
        if !ui.is_json() {
            show::outcome(&outcome, ui);
        }
        outcomes.push(outcome);
    }
    let ok = outcomes.iter().all(|outcome| outcome.ok);
    if ui.is_json() {
        ui.json(&json!({"ok": ok, "scenarios": outcomes}));
    } else {
        show::ending(&outcomes, ui);
    }
    if spec.mode == (Mode::Story { once: true }) {
        return Ok(if ok { Exit::Done } else { Exit::No });
    }
    if !ui.is_json() {
        show::commands(spec, ui);
    }
    teller.stay(ui).await
}

struct Teller<'a> {
    cluster: &'a Cluster,
    provider_ca: &'a str,
    records: Records,
    forged: (String, String),
}

impl Teller<'_> {
    async fn play(&mut self, scenario: &Scenario) -> Result<Outcome, Failure> {
        let before = self.charges().await?;
        let mut attempts = Vec::new();
        let mut traces = Vec::new();
        for attempt in scenario.attempts {
            let trace = trace_id()?;
            let token =
                init::token(self.cluster, self.provider_ca, (attempt.user, attempt.flaw), None).await?;
            let request = self.request(attempt, &token, &trace)?;
            attempts.push(tried(attempt.how, self.cluster.call(attempt.from, request).await));
            traces.push((trace, attempt.from));
        }
        let hops = self.hops(scenario.recorded(), &traces).await;
        let application_requests = self.charges().await? - before;
        let observed = observed(attempts, application_requests, hops);
        let problems = problems(scenario, &observed);
        Ok(Outcome {
            id: scenario.id,
            title: scenario.title,
            expected: expected(scenario),
            ok: problems.is_empty(),
            observed,
            problems,
        })
    }

    fn request(&self, attempt: &Attempt, token: &str, trace: &str) -> Result<Request, Failure> {
        let pod = Pod::named(attempt.to).ok_or_else(|| Failure::new(format!("no pod `{}`", attempt.to)))?;
        let (certificate, key) = self.forged.clone();
        Ok(Request {
            method: Method::POST,
            to: (pod.address(self.cluster.families), attempt.port).into(),
            host: attempt.to.to_owned(),
            path: attempt.path.to_owned(),
            headers: vec![
                ("authorization", format!("Bearer {token}")),
                (
                    "traceparent",
                    format!("00-{trace}-{}-01", trace.get(..16).unwrap_or_default()),
                ),
            ],
            body: String::new(),
            security: match attempt.below {
                Below::Plain => Security::Plain,
                Below::Anonymous => Security::Anonymous,
                Below::SelfMade => Security::Showing { certificate, key },
            },
        })
    }

    /// What the application of `payments` counted so far, asked for within its pod, past its sidecar.
    async fn charges(&self) -> Result<u64, Failure> {
        let request = Request::get((self.cluster.families.loopback(), APP_PORT).into(), "/count");
        let counting = "asking the application of payments for its count";
        let answer = self
            .cluster
            .call("payments", request)
            .await
            .map_err(failed(counting))?;
        let said: Value = serde_json::from_slice(&answer.body).map_err(failed(counting))?;
        said.get("count")
            .and_then(Value::as_u64)
            .ok_or_else(|| Failure::new(format!("{counting}: {said}")))
    }

    /// The hops of these traces, and those of the same callers that had no trace because they ended before HTTP.
    async fn hops(&mut self, wanted: usize, traces: &[(String, &'static str)]) -> Vec<Hop> {
        let deadline = Instant::now() + WRITING;
        let mut hops = Vec::new();
        loop {
            hops.extend(
                self.records
                    .new_hops()
                    .into_iter()
                    .filter(|hop| belongs(hop, traces)),
            );
            if hops.len() >= wanted || Instant::now() >= deadline {
                return in_order(hops, traces);
            }
            sleep(LOOKING).await;
        }
    }

    /// Shows what the user does, until the demo ends.
    async fn stay(&mut self, ui: &Ui) -> Result<Exit, Failure> {
        loop {
            for hop in self.records.new_hops() {
                if ui.is_json() {
                    ui.json(&hop)
                } else {
                    show::hop(&hop, ui)
                }
            }
            sleep(WATCHING).await;
        }
    }
}

fn belongs(hop: &Hop, traces: &[(String, &str)]) -> bool {
    traces.iter().any(|(trace, from)| match &hop.trace {
        Some(of_hop) => of_hop == trace,
        None => hop.src == *from,
    })
}

/// Trace by trace, each from its caller on.
fn in_order(mut hops: Vec<Hop>, traces: &[(String, &str)]) -> Vec<Hop> {
    let mut ordered = Vec::new();
    for (trace, from) in traces {
        let mut caller = (*from).to_owned();
        let next = |hops: &[Hop], caller: &str| {
            hops.iter()
                .position(|hop| hop.src == caller && hop.trace.as_ref() == Some(trace))
        };
        while let Some(index) = next(&hops, &caller) {
            let hop = hops.remove(index);
            caller.clone_from(&hop.dst);
            ordered.push(hop);
        }
    }
    ordered.extend(hops);
    ordered
}

fn tried(how: &'static str, outcome: Result<Answer, Refused>) -> Tried {
    match outcome {
        Ok(answer) => Tried {
            how,
            status: Some(answer.status),
            refused: None,
        },
        Err(refused) => Tried {
            how,
            status: None,
            refused: Some(refused.to_string()),
        },
    }
}

fn observed(attempts: Vec<Tried>, application_requests: u64, hops: Vec<Hop>) -> Observed {
    let first = attempts.first().and_then(|tried| tried.status);
    let same = attempts.iter().all(|tried| tried.status == first);
    Observed {
        status: first.filter(|_| same),
        refused: attempts.iter().all(|tried| tried.status.is_none()),
        attempts,
        application_requests,
        hops,
    }
}

fn expected(scenario: &Scenario) -> Value {
    let mut expected = match scenario.expected {
        Expected::Status(status) => json!({"status": status, "refused": false}),
        Expected::Refused => json!({"status": null, "refused": true}),
    };
    if let Value::Object(fields) = &mut expected {
        fields.insert("application_requests".to_owned(), scenario.charges().into());
        fields.insert("hops".to_owned(), json!(scenario.hops));
    }
    expected
}

/// What is not as the script says.
fn problems(scenario: &Scenario, observed: &Observed) -> Vec<String> {
    let mut problems = Vec::new();
    for tried in &observed.attempts {
        let as_expected = match scenario.expected {
            Expected::Status(status) => tried.status == Some(status),
            Expected::Refused => tried.status.is_none(),
        };
        if !as_expected {
            let came = tried.status.map_or_else(
                || tried.refused.clone().unwrap_or_default(),
                |status| status.to_string(),
            );
            problems.push(format!("{}: {came}", tried.how));
        }
    }
    if observed.application_requests != scenario.charges() {
        let (seen, wanted) = (observed.application_requests, scenario.charges());
        problems.push(format!(
            "the application of payments counted {seen} requests instead of {wanted}"
        ));
    }
    for hop in scenario.hops {
        let seen = observed.hops.iter().filter(|seen| matches(hop, seen)).count();
        let wanted = scenario.attempts.len();
        if seen != wanted {
            problems.push(format!(
                "{} hops {} to {} with verdict {} instead of {wanted}",
                seen, hop.src, hop.dst, hop.verdict
            ));
        }
    }
    let unforeseen =
        |seen: &&Hop| seen.verdict == "allow" && !scenario.hops.iter().any(|hop| matches(hop, seen));
    problems.extend(
        observed
            .hops
            .iter()
            .filter(unforeseen)
            .map(|hop| format!("{} reached {}", hop.src, hop.dst)),
    );
    problems
}

fn matches(expected: &ExpectedHop, seen: &Hop) -> bool {
    seen.src == expected.src
        && seen.dst == expected.dst
        && seen.verdict == expected.verdict
        && expected
            .user
            .is_none_or(|user| seen.user.as_deref() == Some(user))
        && expected
            .rule
            .is_none_or(|rule| seen.rule.as_deref() == Some(rule))
        && expected.reason.is_none_or(|reason| seen.reason == reason)
}

/// The text of all policies, for what their annotations say.
fn policies() -> Result<String, Failure> {
    let folder = Path::new(files::SHARED).join("policies");
    let reading = "reading the policies";
    let mut text = String::new();
    for entry in fs::read_dir(&folder).map_err(failed(reading))? {
        text += &fs::read_to_string(entry.map_err(failed(reading))?.path()).map_err(failed(reading))?;
    }
    Ok(text)
}

/// W3C Trace Context: 16 random bytes.
fn trace_id() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(failed("reading random bytes"))?;
    Ok(hex::encode(bytes))
}

/// A certificate that says everything that an SVID of `orders` says, from a CA that nobody knows; and its key (PEM).
pub fn forged_certificate() -> Result<(String, String), Failure> {
    let making = || failed::<rcgen::Error>("making a forged certificate");
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(making())?;
    let mut params = CertificateParams::default();
    let id = "spiffe://mesh.local/ns/shop/sa/orders"
        .try_into()
        .map_err(making())?;
    params.subject_alt_names = vec![SanType::URI(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::minutes(5);
    params.not_after = now + time::Duration::hours(1);
    let (issuer_key, mut issuer) = (
        KeyPair::generate().map_err(making())?,
        CertificateParams::default(),
    );
    issuer.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params
        .signed_by(&key, &rcgen::Issuer::new(issuer, issuer_key))
        .map_err(making())?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Callers and called, with how often which verdict: what the map draws.
pub fn edges(outcomes: &[Outcome]) -> BTreeMap<(String, String), Edge> {
    let mut edges: BTreeMap<_, Edge> = BTreeMap::new();
    for hop in outcomes.iter().flat_map(|outcome| &outcome.observed.hops) {
        let edge = edges.entry((hop.src.clone(), hop.dst.clone())).or_default();
        if hop.verdict == "allow" {
            edge.allowed += 1
        } else {
            edge.refused += 1
        }
        edge.identity |= hop.identity;
        if let Some(user) = hop.user.as_ref().filter(|user| !edge.users.contains(user)) {
            edge.users.push(user.clone());
        }
    }
    edges
}

/// One arrow of the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// Hops that were let in.
    pub allowed: u32,
    /// Hops that were not.
    pub refused: u32,
    /// Whether the caller proved an identity.
    pub identity: bool,
    /// The users for whom.
    pub users: Vec<String>,
}

#[cfg(test)]
mod tests;
