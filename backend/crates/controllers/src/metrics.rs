//! What Prometheus is told.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, exponential_buckets,
};

/// Metrics of the controllers. Clones share the same numbers.
#[derive(Clone)]
pub struct Metrics {
    reconciles: HistogramVec,
    failures: IntCounterVec,
    transfers: IntGaugeVec,
    ended: IntCounterVec,
    bytes: IntCounterVec,
}

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When `registry` has metrics of the same names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = exponential_buckets(0.005, 4.0, 8)?;
        let seconds =
            HistogramOpts::new("holdfast_reconcile_seconds", "Time one reconcile took").buckets(buckets);
        let counter =
            |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            reconciles: HistogramVec::new(seconds, &["kind"])?,
            failures: counter(
                "holdfast_reconcile_failures_total",
                "Reconciles that failed",
                &["kind", "reason"],
            )?,
            transfers: IntGaugeVec::new(
                Opts::new(
                    "holdfast_transfers",
                    "Volume transfers that hold a place or wait for one",
                ),
                &["stage"],
            )?,
            ended: counter(
                "holdfast_transfers_ended_total",
                "Volume transfers that ended",
                &["direction", "stage"],
            )?,
            bytes: counter(
                "holdfast_transfer_bytes_total",
                "Bytes moved to or from targets",
                &["direction"],
            )?,
        };
        registry.register(Box::new(metrics.reconciles.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.transfers.clone()))?;
        registry.register(Box::new(metrics.ended.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        Ok(metrics)
    }

    /// One reconcile of an object of `kind` took so long.
    pub fn reconciled(&self, kind: &str, took: Duration) {
        self.reconciles
            .with_label_values(&[kind])
            .observe(took.as_secs_f64());
    }

    /// One reconcile of an object of `kind` failed.
    pub fn failed(&self, kind: &str, reason: &str) {
        self.failures.with_label_values(&[kind, reason]).inc();
    }

    /// So many transfers are in `stage`.
    pub(crate) fn transfers_in(&self, stage: &str, count: usize) {
        self.transfers
            .with_label_values(&[stage])
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A transfer ended in `stage` and had moved `bytes` to or from its target.
    pub(crate) fn transfer_ended(&self, direction: &str, stage: &str, bytes: u64) {
        self.ended.with_label_values(&[direction, stage]).inc();
        self.bytes.with_label_values(&[direction]).inc_by(bytes);
    }
}
