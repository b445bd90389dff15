//! Metric families whose number of series is bounded: label values enter, cheap handles leave. A family that is full
//! counts under `other` instead of growing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::{
    EncodeLabel, EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Series of one family, the one for `other` not counted.
pub(super) const MAX_SERIES: usize = 1000;

/// A label's value: a word of ours, or a name that configuration bounds. Never a user, a path, a host or an address.
#[derive(Clone, Debug)]
pub struct Label(Value);

#[derive(Clone, Debug)]
enum Value {
    Fixed(&'static str),
    Shared(Arc<str>),
}

impl Label {
    /// A word of ours.
    pub const fn fixed(text: &'static str) -> Self {
        Self(Value::Fixed(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Value::Fixed(text) => text,
            Value::Shared(text) => text,
        }
    }
}

impl From<&'static str> for Label {
    fn from(text: &'static str) -> Self {
        Self::fixed(text)
    }
}

impl From<Arc<str>> for Label {
    fn from(text: Arc<str>) -> Self {
        Self(Value::Shared(text))
    }
}

impl From<&Arc<str>> for Label {
    fn from(text: &Arc<str>) -> Self {
        Self(Value::Shared(Arc::clone(text)))
    }
}

impl PartialEq for Label {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Label {}

impl PartialOrd for Label {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Label {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

/// What one series holds.
pub(super) trait Series: Clone + Default + EncodeMetric + TypedMetric {}

impl<T: Clone + Default + EncodeMetric + TypedMetric> Series for T {}

/// A family with `N` labels.
pub(super) struct Family<const N: usize, M>(Arc<Inner<N, M>>);

struct Inner<const N: usize, M> {
    names: [&'static str; N],
    series: RwLock<BTreeMap<[Label; N], M>>,
    overflow: Counter,
}

impl<const N: usize, M> Clone for Family<N, M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<const N: usize, M> fmt::Debug for Family<N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Family").field(&self.0.names).finish()
    }
}

impl<const N: usize, M: Series> Family<N, M> {
    /// An empty family; `overflow` counts the uses of `other` that a full one causes.
    pub(super) fn new(names: [&'static str; N], overflow: Counter) -> Self {
        Self(Arc::new(Inner {
            names,
            series: RwLock::new(BTreeMap::new()),
            overflow,
        }))
    }

    /// The handle of a series. Keep it where the labels stay the same: the look-up takes a lock.
    pub(super) fn get(&self, labels: &[Label; N]) -> M {
        if let Some(series) = self
            .0
            .series
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(labels)
        {
            return series.clone();
        }
        let mut series = self.0.series.write().unwrap_or_else(PoisonError::into_inner);
        if series.len() < MAX_SERIES || series.contains_key(labels) {
            return series.entry(labels.clone()).or_default().clone();
        }
        self.0.overflow.inc();
        series
            .entry([const { Label::fixed("other") }; N])
            .or_default()
            .clone()
    }

    /// Forgets every series: for values that describe the present only.
    pub(super) fn clear(&self) {
        self.0
            .series
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl<const N: usize, M: Series> EncodeMetric for Family<N, M> {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let series: Vec<([Label; N], M)> = {
            let series = self.0.series.read().unwrap_or_else(PoisonError::into_inner);
            series
                .iter()
                .map(|(labels, metric)| (labels.clone(), metric.clone()))
                .collect()
        };
        for (labels, metric) in &series {
            let named = Named {
                names: &self.0.names,
                values: labels,
            };
            metric.encode(encoder.encode_family(&named)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.0
            .series
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

struct Named<'a> {
    names: &'a [&'static str],
    values: &'a [Label],
}

impl EncodeLabelSet for Named<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, value) in self.names.iter().zip(self.values) {
            (*name, value.as_str()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// Upper bounds in microseconds; a request inside a mesh takes from some hundred microseconds to seconds.
const BOUNDS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// A histogram of durations without a lock: workers add, a scrape reads what is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // A bound belongs to its bucket (`le`).
        let index = BOUNDS.partition_point(|bound| bound.saturating_mul(1000) < nanos);
        if let Some(count) = self.0.counts.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.0.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let bounds = BOUNDS
            .iter()
            .map(|micros| Duration::from_micros(*micros).as_secs_f64())
            .chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    fn text(registry: &Registry) -> String {
        let mut out = String::new();
        encode(&mut out, registry).unwrap();
        out
    }

    #[test]
    fn a_full_family_counts_under_other() {
        let overflow = Counter::default();
        let family = Family::<2, Counter>::new(["a", "b"], overflow.clone());
        for n in 0..MAX_SERIES + 50 {
            let value: Arc<str> = n.to_string().into();
            family.get(&["x".into(), value.into()]).inc();
        }
        family.get(&["x".into(), "7".into()]).inc();
        let mut registry = Registry::default();
        registry.register("t", "T", family);
        let text = text(&registry);
        assert_eq!(text.matches("t_total{").count(), MAX_SERIES + 1);
        assert!(text.contains("t_total{a=\"other\",b=\"other\"} 50"), "{text}");
        assert!(text.contains("t_total{a=\"x\",b=\"7\"} 2"));
        assert_eq!(overflow.get(), 50);
    }

    #[test]
    fn durations_fall_into_their_buckets() {
        let histogram = Histogram::default();
        for micros in [1, 500, 501, 20_000, 60_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut registry = Registry::default();
        registry.register("d_seconds", "D", histogram);
        let text = text(&registry);
        for line in [
            "d_seconds_bucket{le=\"0.0005\"} 2",
            "d_seconds_bucket{le=\"0.001\"} 3",
            "d_seconds_bucket{le=\"0.025\"} 4",
            "d_seconds_bucket{le=\"10.0\"} 4",
            "d_seconds_bucket{le=\"+Inf\"} 5",
            "d_seconds_count 5",
            "d_seconds_sum 60.021002",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
