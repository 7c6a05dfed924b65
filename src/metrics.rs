//! Every metric of the process, in one table. Names carry units; no label is ever an id, a hash, a
//! tenant or a raw path (their number would be unbounded).

use std::sync::LazyLock;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The process's metrics.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Seconds, from a cache hit to a slow transfer.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Operations in one group commit: up to 128.
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// One field per metric.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// `method`, `route` (the pattern), `status`.
    pub http_requests: HistogramVec,
    /// `result`: stored, hit, resurrected, repaired, replayed, rejected, failed.
    pub uploads: IntCounterVec,
    /// Bytes of all files taken in.
    pub upload_bytes: IntCounter,
    /// Bytes that did not have to be stored again.
    pub saved_bytes: IntCounter,
    /// Bytes of large files that were recognised while they came, and never written.
    pub recognised_bytes: IntCounter,
    /// `operation`, `outcome`: ok, not_found, refused, throttled, unknown, damaged.
    pub store_requests: HistogramVec,
    /// `state`: pending, stored, deleting, unreferenced.
    pub originals: IntGaugeVec,
    /// `state`: pending (expired lease), unreferenced (past grace), deleting.
    pub reaper_oldest: GaugeVec,
    /// Originals whose bytes and row are gone.
    pub reaped: IntCounter,
    /// Live images whose object was found missing or wrong.
    pub missing_objects: IntCounter,
    /// Count changes that did not meet the row they expected, and counts that verify found wrong.
    pub refcount_mismatches: IntCounter,
    /// `problem`: as in the output of `hapax verify`. What this process's own verification found.
    pub verify_findings: IntCounterVec,
    /// Stored originals whose object the last complete pass found missing or wrong.
    pub blob_missing: IntGauge,
    /// Objects without a row that the last complete pass found and left.
    pub stray_objects: IntGauge,
    /// Reference counts that the last complete pass found wrong and left.
    pub refcount_mismatch: IntGauge,
    /// Objects that the store did not let the last complete pass look at.
    pub verify_unreadable: IntGauge,
    /// How much of the pass that is under way is done, 0 to 1.
    pub verify_progress: Gauge,
    /// When the last complete pass ended, in seconds since 1970; 0: never.
    pub verify_last_pass: Gauge,
    /// Transactions run again because nobody knows whether they committed.
    pub commit_unknown: IntCounter,
    /// Operations in one group commit.
    pub batch_operations: Histogram,
    /// Bytes of bodies held in memory for uploads in flight.
    pub spool_bytes: IntGauge,
    /// 1 while the store's id is not the database's: nothing is reaped.
    pub store_mismatch: Gauge,
    /// `source`: deletions; `result`: applied, replayed, ignored (another type of event), rejected,
    /// failed.
    pub webhook_events: IntCounterVec,
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let histograms = |name: &str, help: &str, labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            register(&registry, HistogramVec::new(opts, labels))
        };
        let metrics = Self {
            http_requests: histograms(
                "http_server_request_duration_seconds",
                "Time from a request's head to the end of its handler.",
                &["method", "route", "status"],
            ),
            uploads: counters(
                "hapax_uploads_total",
                "Files by what became of them.",
                &["result"],
            ),
            upload_bytes: counter("hapax_upload_bytes_total", "Bytes of all files taken in."),
            saved_bytes: counter(
                "hapax_saved_bytes_total",
                "Bytes that did not have to be stored again.",
            ),
            recognised_bytes: counter(
                "hapax_recognised_bytes_total",
                "Bytes of large files that were recognised while they came, and never written.",
            ),
            store_requests: histograms(
                "hapax_store_request_duration_seconds",
                "Time of one call to the object store.",
                &["operation", "outcome"],
            ),
            originals: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("hapax_originals", "Originals by state."),
                    &["state"],
                ),
            ),
            reaper_oldest: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "hapax_reaper_oldest_seconds",
                        "Age of the oldest row that a reaper should have taken.",
                    ),
                    &["state"],
                ),
            ),
            reaped: counter(
                "hapax_reaped_total",
                "Originals whose bytes and row are gone.",
            ),
            missing_objects: counter(
                "hapax_missing_objects_total",
                "Live originals whose object was found missing or wrong.",
            ),
            refcount_mismatches: counter(
                "hapax_refcount_mismatches_total",
                "Reference counts found different from the images that point at the row.",
            ),
            verify_findings: counters(
                "hapax_verify_findings_total",
                "Problems that this process's background verification found.",
                &["problem"],
            ),
            blob_missing: gauge(
                "hapax_blob_missing",
                "Stored originals whose object the last complete verification found missing or wrong.",
            ),
            stray_objects: gauge(
                "hapax_stray_objects",
                "Objects without a row that the last complete verification found and left.",
            ),
            refcount_mismatch: gauge(
                "hapax_refcount_mismatch",
                "Reference counts that the last complete verification found wrong and left.",
            ),
            verify_unreadable: gauge(
                "hapax_verify_unreadable",
                "Objects that the store did not let the last complete verification look at.",
            ),
            verify_progress: register(
                &registry,
                Gauge::new(
                    "hapax_verify_progress_ratio",
                    "How much of the background verification's pass is done, 0 to 1.",
                ),
            ),
            verify_last_pass: register(
                &registry,
                Gauge::new(
                    "hapax_verify_last_pass_timestamp_seconds",
                    "When the last complete verification ended, in seconds since 1970; 0: never.",
                ),
            ),
            commit_unknown: counter(
                "hapax_commit_unknown_total",
                "Transactions run again because their outcome was unknown.",
            ),
            batch_operations: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new("hapax_batch_operations", "Operations in one group commit.")
                        .buckets(BATCH.to_vec()),
                ),
            ),
            spool_bytes: register(
                &registry,
                IntGauge::new("hapax_spool_bytes", "Bytes of bodies held in memory."),
            ),
            store_mismatch: register(
                &registry,
                Gauge::new(
                    "hapax_store_mismatch",
                    "1 while the store's id is not the database's; nothing is reaped then.",
                ),
            ),
            webhook_events: counters(
                "hapax_webhook_events_total",
                "Webhook deliveries by what became of them.",
                &["source", "result"],
            ),
            registry,
        };
        metrics.show_zeros();
        metrics
    }

    /// Creates the series that operators watch, so that they begin at 0 and not with the first event.
    fn show_zeros(&self) {
        for result in [
            "stored",
            "hit",
            "resurrected",
            "repaired",
            "replayed",
            "rejected",
            "failed",
        ] {
            self.uploads.with_label_values(&[result]);
        }
        for result in ["applied", "replayed", "ignored", "rejected", "failed"] {
            self.webhook_events
                .with_label_values(&["deletions", result]);
        }
        for problem in [
            "store_mismatch",
            "missing_object",
            "wrong_size",
            "wrong_bytes",
            "known_damage",
            "stray",
            "too_many_strays",
            "wrong_count",
            "unreadable",
        ] {
            self.verify_findings.with_label_values(&[problem]);
        }
        for state in ["pending", "stored", "deleting", "unreferenced"] {
            self.originals.with_label_values(&[state]);
        }
        for state in ["pending", "unreferenced", "deleting"] {
            self.reaper_oldest.with_label_values(&[state]);
        }
    }

    /// Everything in the Prometheus text format, version 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to a Vec does not fail");
        text
    }
}

fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("metric names are literals of this file");
    registry
        .register(Box::new(metric.clone()))
        .expect("each metric is registered once");
    metric
}
