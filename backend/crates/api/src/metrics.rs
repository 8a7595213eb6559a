//! What Prometheus sees.

use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// Bounds in seconds: a list is answered in milliseconds, the deadline is 30 s.
const BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The server's metrics, in a registry of their own.
pub(crate) struct Metrics {
    registry: Registry,
    /// Answers by method, route and status.
    pub(crate) requests: IntCounterVec,
    /// Time to the head of the answer in seconds, by method and route.
    pub(crate) duration: HistogramVec,
    /// Sign-ins by outcome.
    pub(crate) sign_ins: IntCounterVec,
    /// Sessions in the database.
    pub(crate) sessions: IntGauge,
    /// Open event streams.
    pub(crate) event_streams: IntGauge,
    /// Audit entries that did not reach the database or standard output.
    pub(crate) audit_failures: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Registry::new(),
            requests: family(
                "holdfast_http_requests_total",
                "Answers.",
                &["method", "route", "status"],
            ),
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "holdfast_http_request_duration_seconds",
                    "Time to the head of the answer.",
                )
                .buckets(BUCKETS.to_vec()),
                &["method", "route"],
            )
            .expect("a valid metric"),
            sign_ins: family("holdfast_sign_ins_total", "Sign-ins by outcome.", &["outcome"]),
            sessions: IntGauge::new("holdfast_sessions", "Sessions.").expect("a valid metric"),
            event_streams: IntGauge::new("holdfast_event_streams", "Open event streams.")
                .expect("a valid metric"),
            audit_failures: IntCounter::new(
                "holdfast_audit_failures_total",
                "Audit entries that did not reach the database or standard output.",
            )
            .expect("a valid metric"),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let build = IntGauge::with_opts(
            Opts::new("holdfast_build_info", "Version of the server.")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        )
        .expect("a valid metric");
        build.set(1);
        let all: [Box<dyn prometheus::core::Collector>; 7] = [
            Box::new(self.requests.clone()),
            Box::new(self.duration.clone()),
            Box::new(self.sign_ins.clone()),
            Box::new(self.sessions.clone()),
            Box::new(self.event_streams.clone()),
            Box::new(self.audit_failures.clone()),
            Box::new(build),
        ];
        for collector in all {
            self.registry
                .register(collector)
                .expect("every metric has a name of its own");
        }
    }

    /// The text format of Prometheus.
    pub(crate) fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}

fn family(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("a valid metric")
}
