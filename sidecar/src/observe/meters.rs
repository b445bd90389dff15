//! The handles that a worker keeps for one connection: what it counts enters, the series of the process grow. They remember
//! the series last used, so that the next count mostly neither allocates nor takes a lock.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::metrics::Metrics;
use super::record::{Direction, Proven};
use super::series::{Histogram, Label};

/// The labels of a finished request that change from one to the next on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLabels {
    /// The method; what is not well known is told as `_OTHER` (OpenTelemetry, HTTP semantic conventions).
    pub method: Label,
    /// The status of the answer, from the application or the sidecar; 0: none was sent.
    pub status: u16,
    /// A stable label of what failed; empty when nothing did.
    pub error: Label,
    /// The declared route's name; empty when there is none. Never the path.
    pub route: Label,
    /// What was proven.
    pub proven: Proven,
}

/// The labels of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionLabels {
    /// `allow`, `deny`; in shadow `would_allow`, `would_deny`.
    pub verdict: &'static str,
    /// A stable label.
    pub reason: &'static str,
    /// The `@id` of the rule that decided; empty when none did.
    pub rule: Label,
    /// Which way.
    pub direction: Direction,
    /// What was proven.
    pub proven: Proven,
}

impl DecisionLabels {
    pub(super) fn values(&self) -> [Label; 5] {
        [
            self.verdict.into(),
            self.reason.into(),
            self.rule.clone(),
            self.direction.label().into(),
            self.proven.label().into(),
        ]
    }
}

/// Counts the requests of one connection. It remembers the last series, which the next request mostly is of too: then
/// nothing is allocated and no lock is taken.
pub struct RequestMeter {
    metrics: Arc<Metrics>,
    src: Label,
    dst: Label,
    request: Option<(RequestLabels, Histogram)>,
    decision: Option<(DecisionLabels, Counter)>,
}

impl RequestMeter {
    pub(super) fn new(metrics: &Arc<Metrics>, src: Label, dst: Label) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            src,
            dst,
            request: None,
            decision: None,
        }
    }

    /// Counts a finished request and how long it took.
    pub fn finished(&mut self, labels: &RequestLabels, took: Duration) {
        match &self.request {
            Some((last, histogram)) if last == labels => histogram.observe(took),
            _ => {
                let histogram = self.metrics.requests.get(&self.values(labels));
                histogram.observe(took);
                self.request = Some((labels.clone(), histogram));
            }
        }
    }

    /// Counts a decision.
    pub fn decided(&mut self, labels: &DecisionLabels) {
        match &self.decision {
            Some((last, counter)) if last == labels => {
                counter.inc();
            }
            _ => {
                let counter = self.metrics.decisions.get(&labels.values());
                counter.inc();
                self.decision = Some((labels.clone(), counter));
            }
        }
    }

    fn values(&self, labels: &RequestLabels) -> [Label; 7] {
        let method = match labels.method.as_str() {
            "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => {
                labels.method.clone()
            }
            _ => Label::fixed("_OTHER"),
        };
        let status: Arc<str> = match labels.status {
            0 => "".into(),
            status @ 100..=599 => status.to_string().into(),
            _ => "other".into(),
        };
        [
            method,
            status.into(),
            labels.error.clone(),
            labels.route.clone(),
            self.src.clone(),
            self.dst.clone(),
            labels.proven.label().into(),
        ]
    }
}

/// Counts what one connection carries, and the connection itself as open until it is dropped.
#[derive(Debug)]
pub struct ConnectionMeter {
    open: Gauge,
    received: Counter,
    sent: Counter,
}

impl ConnectionMeter {
    /// Counts the connection as open.
    pub(super) fn new(open: Gauge, received: Counter, sent: Counter) -> Self {
        open.inc();
        Self { open, received, sent }
    }

    /// Adds bytes carried: `received` from the one who opened the connection, `sent` to it.
    pub fn carried(&self, received: u64, sent: u64) {
        self.received.inc_by(received);
        self.sent.inc_by(sent);
    }
}

impl Drop for ConnectionMeter {
    fn drop(&mut self) {
        self.open.dec();
    }
}
