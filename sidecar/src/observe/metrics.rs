//! The metrics of a sidecar: counts and times enter through handles that a worker keeps, one text leaves at a scrape. No
//! label is a user, a path, a host or an address, and no family has more than a thousand series.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};
use spiffe::SpiffeId;

use super::known::KnownWorkloads;
use super::meters::{ConnectionMeter, DecisionLabels, RequestMeter};
use super::process::Process;
use super::record::{Direction, Proven};
use super::series::{Family, Histogram, Label, Series};

type Seconds = Gauge<f64, AtomicU64>;
type SecondsTotal = Counter<f64, AtomicU64>;
type OnScrape = Box<dyn Fn(&Metrics) + Send + Sync>;

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    known: ArcSwap<KnownWorkloads>,
    on_scrape: Mutex<Vec<Arc<OnScrape>>>,
    pub(super) requests: Family<7, Histogram>,
    pub(super) decisions: Family<5, Counter>,
    token_checks: Family<3, Counter>,
    handshakes: Family<4, Counter>,
    detections: Family<1, Histogram>,
    plaintext: Family<2, Counter>,
    opened: Family<3, Counter>,
    open: Family<3, Gauge>,
    bytes: Family<4, Counter>,
    jwks_age: Family<1, Seconds>,
    jwks_fetches: Family<2, Counter>,
    introspections: Family<2, Counter>,
    svid_expiry: Family<1, Seconds>,
    bundle_expiry: Family<1, Seconds>,
    svid_rotations: Family<1, Counter>,
    dropped_records: Counter,
    config_info: Family<3, Gauge>,
    config_reloads: Family<2, Counter>,
    process: ProcessMetrics,
    began: Instant,
    /// The last second, from `began` on, in which the log said what policies in shadow would have answered.
    would_told: AtomicU64,
}

struct ProcessMetrics {
    resident_bytes: Gauge,
    cpu_seconds: SecondsTotal,
    cpu_told: Mutex<f64>,
    open_fds: Gauge,
    max_fds: Gauge,
    start_time: Seconds,
}

struct Builder {
    registry: Registry,
    overflow: Counter,
}

impl Builder {
    fn one<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.registry.register(name, help, metric.clone());
        metric
    }

    fn family<const N: usize, M>(&mut self, name: &str, help: &str, labels: [&'static str; N]) -> Family<N, M>
    where
        M: Series + std::fmt::Debug + Send + Sync + 'static,
    {
        let family = Family::new(labels, self.overflow.clone());
        self.registry.register(name, help, family.clone());
        family
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Arc<Self> {
        let mut build = Builder {
            registry: Registry::default(),
            overflow: Counter::default(),
        };
        build.registry.register(
            "hopguard_metric_series_refused",
            "Uses of a label set that came under `other` because its family was full",
            build.overflow.clone(),
        );
        Arc::new(Self::with(build))
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one line of help and labels for each family, read as a list"
    )]
    fn with(mut build: Builder) -> Self {
        let b = &mut build;
        Self {
            requests: b.family(
                "http_server_request_duration_seconds",
                "Time from the head of a request to the end of its answer",
                [
                    "http_request_method",
                    "http_response_status_code",
                    "error_type",
                    "http_route",
                    "src_workload",
                    "dst_workload",
                    "identity_state",
                ],
            ),
            decisions: b.family(
                "hopguard_decisions",
                "Decisions, once a request or once an opaque connection",
                ["verdict", "reason", "rule_id", "direction", "identity_state"],
            ),
            token_checks: b.family(
                "hopguard_token_checks",
                "User tokens checked",
                ["issuer", "result", "cache_hit"],
            ),
            handshakes: b.family(
                "hopguard_tls_handshakes",
                "TLS handshakes ended",
                ["direction", "version", "kx_group", "result"],
            ),
            detections: b.family(
                "hopguard_protocol_detect_seconds",
                "Time until the first bytes showed the protocol",
                ["result"],
            ),
            plaintext: b.family(
                "hopguard_plaintext_accepted",
                "Plaintext connections that a port's mode let in",
                ["port", "src"],
            ),
            opened: b.family(
                "hopguard_connections_opened",
                "Connections begun",
                ["direction", "protocol", "identity_state"],
            ),
            open: b.family(
                "hopguard_connections_open",
                "Connections open now",
                ["direction", "protocol", "identity_state"],
            ),
            bytes: b.family(
                "hopguard_connections_bytes",
                "Bytes carried, as the application sees them",
                ["direction", "protocol", "identity_state", "way"],
            ),
            jwks_age: b.family(
                "hopguard_jwks_age_seconds",
                "Age of the keys of an issuer",
                ["issuer"],
            ),
            jwks_fetches: b.family(
                "hopguard_jwks_fetch",
                "Fetches of the keys of an issuer",
                ["issuer", "result"],
            ),
            introspections: b.family(
                "hopguard_introspections",
                "Questions to an issuer what a token means",
                ["issuer", "result"],
            ),
            svid_expiry: b.family(
                "hopguard_svid_expiry_timestamp_seconds",
                "When the own SVID ends",
                ["trust_domain"],
            ),
            bundle_expiry: b.family(
                "hopguard_bundle_expiry_timestamp_seconds",
                "When the last of a trust domain's authorities ends",
                ["trust_domain"],
            ),
            svid_rotations: b.family("hopguard_svid_rotations", "Rotations of the own SVID", ["result"]),
            dropped_records: b.one("hopguard_dropped_records", "Records that were lost"),
            config_info: b.family(
                "hopguard_config_info",
                "What is in force: always 1",
                ["mesh", "policy", "version"],
            ),
            config_reloads: b.family(
                "hopguard_config_reload",
                "Reloads of a file that changed",
                ["what", "result"],
            ),
            process: ProcessMetrics {
                resident_bytes: b.one("process_resident_memory_bytes", "Resident memory"),
                cpu_seconds: b.one("process_cpu_seconds", "User and system CPU time"),
                cpu_told: Mutex::new(0.0),
                open_fds: b.one("process_open_fds", "Open file descriptors"),
                max_fds: b.one("process_max_fds", "File descriptors that may be open"),
                start_time: b.one(
                    "process_start_time_seconds",
                    "When the process began, in Unix seconds",
                ),
            },
            began: Instant::now(),
            would_told: AtomicU64::new(0),
            known: ArcSwap::from_pointee(KnownWorkloads::default()),
            on_scrape: Mutex::new(Vec::new()),
            registry: build.registry,
        }
    }

    /// Whom labels may name, from now on.
    pub fn set_known(&self, known: KnownWorkloads) {
        self.known.store(Arc::new(known));
    }

    /// The label of a peer: its SPIFFE ID when the mesh knows it, else `other`; `none` without a peer.
    pub fn workload(&self, peer: Option<&SpiffeId>) -> Label {
        self.known.load().label(peer)
    }

    /// The meter of a connection's requests, between the two workloads that it joins.
    pub fn requests(self: &Arc<Self>, src: Label, dst: Label) -> RequestMeter {
        RequestMeter::new(self, src, dst)
    }

    /// Counts a connection as open for as long as the meter lives.
    pub fn connection(
        &self,
        direction: Direction,
        protocol: &'static str,
        proven: Proven,
    ) -> ConnectionMeter {
        let labels = [direction.label().into(), protocol.into(), proven.label().into()];
        self.opened.get(&labels).inc();
        let open = self.open.get(&labels);
        let [direction, protocol, proven] = labels;
        let bytes = |way: &'static str| {
            self.bytes
                .get(&[direction.clone(), protocol.clone(), proven.clone(), way.into()])
        };
        ConnectionMeter::new(open, bytes("in"), bytes("out"))
    }

    /// Counts a decision; where a connection has many, its [`RequestMeter`] is cheaper.
    pub fn decided(&self, labels: &DecisionLabels) {
        self.decisions.get(&labels.values()).inc();
    }

    /// Counts what policies that are only watched would have answered, and says so in the log: once a second at the most,
    /// since each request has its record.
    pub fn would(&self, labels: &DecisionLabels) {
        self.decided(labels);
        let now = self.began.elapsed().as_secs() + 1;
        if self.would_told.swap(now, Ordering::Relaxed) != now {
            tracing::info!(
                verdict = labels.verdict,
                reason = labels.reason,
                rule = labels.rule.as_str(),
                "policies in shadow would have answered otherwise"
            );
        }
    }

    /// Tells how many tokens of an issuer were checked so far with this result: `issuer` is the configured alias, empty
    /// when no issuer could be told; `result` is a stable label. Counted elsewhere, told at a scrape.
    pub fn token_checks_total(&self, issuer: Label, result: &'static str, cache_hit: bool, total: u64) {
        let hit = if cache_hit { "true" } else { "false" };
        let issuer = match issuer.as_str() {
            "" => Label::fixed("unknown"),
            _ => issuer,
        };
        let checks = self.token_checks.get(&[issuer, result.into(), hit.into()]);
        checks.inner().store(total, Ordering::Relaxed);
    }

    /// Counts a handshake; `version` and `kx` are empty where it did not get so far, `result` is a stable label.
    pub fn handshake(
        &self,
        direction: Direction,
        version: &'static str,
        kx: &'static str,
        result: &'static str,
    ) {
        let labels = [direction.label().into(), version.into(), kx.into(), result.into()];
        self.handshakes.get(&labels).inc();
    }

    /// Counts a plaintext connection that the mode of a declared port let in. `src` is a label of a workload or
    /// `unknown`; never an address.
    pub fn plaintext_accepted(&self, port: u16, src: Label) {
        let port: Arc<str> = port.to_string().into();
        self.plaintext.get(&[port.into(), src]).inc();
    }

    /// Tells how long detection took; `result` is a stable label.
    pub fn detected(&self, result: &'static str, took: Duration) {
        self.detections.get(&[result.into()]).observe(took);
    }

    /// Tells the age of an issuer's keys; `None`: there are none.
    pub fn jwks_age(&self, issuer: Label, age: Option<Duration>) {
        let age = age.map_or(f64::INFINITY, |age| age.as_secs_f64());
        self.jwks_age.get(&[issuer]).set(age);
    }

    /// Tells how many fetches of an issuer's keys had this result so far. Counted elsewhere, told at a scrape.
    pub fn jwks_fetches_total(&self, issuer: Label, result: &'static str, total: u64) {
        let fetches = self.jwks_fetches.get(&[issuer, result.into()]);
        fetches.inner().store(total, Ordering::Relaxed);
    }

    /// Tells how many questions about an issuer's tokens had this result so far. Counted elsewhere, told at a scrape.
    pub fn introspections_total(&self, issuer: Label, result: &'static str, total: u64) {
        let asked = self.introspections.get(&[issuer, result.into()]);
        asked.inner().store(total, Ordering::Relaxed);
    }

    /// Forgets issuers that are no longer configured: the next scrape tells those that are.
    pub fn forget_issuers(&self) {
        self.jwks_age.clear();
    }

    /// Tells when the own SVID ends.
    pub fn svid_expiry(&self, trust_domain: Label, not_after: SystemTime) {
        self.svid_expiry.clear();
        self.svid_expiry.get(&[trust_domain]).set(unix_seconds(not_after));
    }

    /// Tells when the bundles end, of every trust domain that there is one for.
    pub fn bundle_expiry(&self, bundles: impl IntoIterator<Item = (Label, SystemTime)>) {
        self.bundle_expiry.clear();
        for (trust_domain, not_after) in bundles {
            self.bundle_expiry
                .get(&[trust_domain])
                .set(unix_seconds(not_after));
        }
    }

    /// Counts a rotation of the own SVID: `ok`, or a stable label of what failed.
    pub fn svid_rotated(&self, result: &'static str) {
        self.svid_rotations.get(&[result.into()]).inc();
    }

    /// The counter of lost records, for the journal.
    pub fn dropped_records(&self) -> Counter {
        self.dropped_records.clone()
    }

    /// Tells what is in force: the versions of the mesh file and of the policy set, and hopguard's own.
    pub fn config_info(&self, mesh: &str, policy: &str, version: &'static str) {
        let label = |text: &str| Label::from(Arc::<str>::from(text));
        self.config_info.clear();
        self.config_info
            .get(&[label(mesh), label(policy), version.into()])
            .set(1);
    }

    /// Counts a reload: `what` is `mesh`, `policy` or the like, `result` `ok` or `refused`.
    pub fn config_reloaded(&self, what: &'static str, result: &'static str) {
        self.config_reloads.get(&[what.into(), result.into()]).inc();
    }

    /// Has `feed` called at the beginning of every scrape, to set what is known elsewhere. It must not block.
    pub fn on_scrape(&self, feed: impl Fn(&Self) + Send + Sync + 'static) {
        let feed: OnScrape = Box::new(feed);
        self.on_scrape
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::new(feed));
    }

    /// Every metric in the OpenMetrics text format (`application/openmetrics-text; version=1.0.0`).
    pub fn encode(&self) -> String {
        let feeds = self
            .on_scrape
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for feed in feeds {
            feed(self);
        }
        self.process.set(&Process::now());
        let mut out = String::new();
        if encode(&mut out, &self.registry).is_err() {
            out.clear();
        }
        out
    }
}

impl ProcessMetrics {
    fn set(&self, now: &Process) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        if let Some(bytes) = now.resident_bytes {
            self.resident_bytes.set(number(bytes));
        }
        if let Some(fds) = now.open_fds {
            self.open_fds.set(number(fds));
        }
        if let Some(fds) = now.max_fds {
            self.max_fds.set(number(fds));
        }
        if let Some(start) = now.start_time {
            self.start_time.set(start);
        }
        if let Some(seconds) = now.cpu_seconds {
            // A counter only grows, so it is told what came since.
            let mut told = self.cpu_told.lock().unwrap_or_else(PoisonError::into_inner);
            if seconds > *told {
                self.cpu_seconds.inc_by(seconds - *told);
                *told = seconds;
            }
        }
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests;
