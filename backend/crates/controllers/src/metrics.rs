//! What Prometheus is told.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

/// Metrics of the controllers. Clones share the same numbers.
#[derive(Clone)]
pub struct Metrics {
    reconciles: HistogramVec,
    failures: IntCounterVec,
    transfers: IntGaugeVec,
    ended: IntCounterVec,
    bytes: IntCounterVec,
    backups: IntCounterVec,
    backup_seconds: HistogramVec,
    stored: IntCounter,
    last_success: IntGaugeVec,
    deletions: IntGauge,
    locked: IntGauge,
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
            backups: counter("holdfast_backups_total", "Backups that ended", &["result"])?,
            backup_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "holdfast_backup_seconds",
                    "Time a backup took from its start to its end",
                )
                .buckets(exponential_buckets(1.0, 2.5, 12)?),
                &["result"],
            )?,
            stored: IntCounter::new(
                "holdfast_backup_stored_bytes_total",
                "Bytes that backups added to targets",
            )?,
            last_success: IntGaugeVec::new(
                Opts::new(
                    "holdfast_plan_last_success_timestamp_seconds",
                    "When the newest complete backup of a plan ended, seconds since 1970",
                ),
                &["namespace", "plan"],
            )?,
            deletions: IntGauge::new(
                "holdfast_deletions_pending",
                "Points that were asked to be removed from their targets and are still there",
            )?,
            locked: IntGauge::new(
                "holdfast_deletions_locked",
                "Points that were asked to be removed and are locked until later",
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
        registry.register(Box::new(metrics.backups.clone()))?;
        registry.register(Box::new(metrics.backup_seconds.clone()))?;
        registry.register(Box::new(metrics.stored.clone()))?;
        registry.register(Box::new(metrics.last_success.clone()))?;
        registry.register(Box::new(metrics.deletions.clone()))?;
        registry.register(Box::new(metrics.locked.clone()))?;
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

    /// A backup ended: `succeeded`, `failed` or `canceled`; it had added `stored` bytes to its target.
    pub(crate) fn backup_ended(&self, result: &str, took: Duration, stored: u64) {
        self.backups.with_label_values(&[result]).inc();
        self.backup_seconds
            .with_label_values(&[result])
            .observe(took.as_secs_f64());
        self.stored.inc_by(stored);
    }

    /// The newest complete backup of a plan ended at `when`, seconds since 1970.
    pub(crate) fn plan_succeeded(&self, namespace: &str, plan: &str, when: i64) {
        self.last_success.with_label_values(&[namespace, plan]).set(when);
    }

    /// So many deletions on targets are still to be done.
    pub(crate) fn deletions_pending(&self, count: usize) {
        self.deletions.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// So many deletions wait for the end of a lock.
    pub(crate) fn deletions_locked(&self, count: usize) {
        self.locked.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A transfer ended in `stage` and had moved `bytes` to or from its target.
    pub(crate) fn transfer_ended(&self, direction: &str, stage: &str, bytes: u64) {
        self.ended.with_label_values(&[direction, stage]).inc();
        self.bytes.with_label_values(&[direction]).inc_by(bytes);
    }
}
