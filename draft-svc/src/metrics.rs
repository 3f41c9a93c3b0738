//! What draft-svc tells Prometheus. Counting is an atomic addition on a handle that is there from
//! the start (a short lock for histograms).

use dssd_common::serve::{Labelled, head_labels, sizes, times};
use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::{sync::atomic::AtomicU64, time::Duration};

/// Every metric of the service; see `docs/operations/metrics.md`.
#[derive(Debug)]
pub struct Metrics {
    sequences: Gauge,
    kv_usage: Gauge<f64, AtomicU64>,
    step: Histogram,
    rows: Histogram,
    entropy: Labelled<Histogram>,
    resyncs: Counter,
    copied_rows: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        // An entropy is below the logarithm of the vocabulary: 12 for 160,000 tokens.
        let entropies: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0125, 2.0, 11));
        Self {
            sequences: Gauge::default(),
            kv_usage: Gauge::default(),
            step: times(5e-5, 17),
            rows: sizes(),
            entropy: Labelled::new("head", head_labels(), entropies),
            resyncs: Counter::default(),
            copied_rows: Counter::default(),
        }
    }
}

impl Metrics {
    /// Names every metric in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("draft_sequences", "Open streams", self.sequences.clone());
        registry.register(
            "draft_kv_cache_usage_ratio",
            "Reserved share of the KV cache's blocks, 0 to 1",
            self.kv_usage.clone(),
        );
        registry.register(
            "draft_step_seconds",
            "Time of a step: one band of the model, for every stream that waits for it",
            self.step.clone(),
        );
        registry.register("draft_rows", "Rows of a step", self.rows.clone());
        registry.register(
            "exit_entropy_nats",
            "Entropy at an exit where a draft looked at it",
            self.entropy.family(),
        );
        registry.register(
            "resync",
            "Times that a verifier had to be asked for all tokens anew",
            self.resyncs.clone(),
        );
        registry.register(
            "draft_copied_logits_rows",
            "Rows of logits that were copied from a GPU, for choices that take penalties, masks or filters",
            self.copied_rows.clone(),
        );
    }

    /// Takes note of a step of `rows` rows.
    pub(crate) fn step(&self, rows: usize, time: Duration) {
        self.step.observe(time.as_secs_f64());
        self.rows.observe(rows as f64);
    }

    /// Takes note of how many rows of logits were copied from a GPU so far.
    pub(crate) fn copied_rows(&self, total: u64) {
        self.copied_rows.inc_by(total - self.copied_rows.get());
    }

    /// Takes note of the entropy that was read at an exit.
    pub(crate) fn entropy(&self, head: usize, nats: f32) {
        if let Some(entropy) = self.entropy.at(head) {
            entropy.observe(f64::from(nats));
        }
    }

    /// A verifier is asked for all tokens anew.
    pub(crate) fn resync(&self) {
        self.resyncs.inc();
    }

    /// Tells how much is taken now.
    pub(crate) fn usage(&self, sequences: usize, kv_ratio: f64) {
        self.sequences.set(sequences as i64);
        self.kv_usage.set(kv_ratio);
    }
}
