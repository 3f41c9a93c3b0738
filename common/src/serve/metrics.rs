//! What the metrics of both services have in common.

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Metric, Registry},
};
use std::{borrow::Cow, fmt};

/// One label and its value.
type Label = [(&'static str, String); 1];

/// A registry whose metrics start with `dssd_` and have the label `model_name`. It tells the
/// version that was built.
pub fn registry(model_name: &str, version: &'static str) -> Registry {
    let model_name = (
        Cow::Borrowed("model_name"),
        Cow::Owned(model_name.to_owned()),
    );
    let labels = std::iter::once(model_name);
    let mut registry = Registry::with_prefix_and_labels("dssd", labels);
    let build = Info::new(vec![("version", version)]);
    registry.register("build", "The service that runs", build);
    registry
}

/// Metrics of one kind, one for each value of a label. All are there from the start, so that
/// reaching one costs no look-up, and nobody outside decides how many there are.
pub struct Labelled<M> {
    family: Family<Label, M, fn() -> M>,
    each: Vec<M>,
}

/// Counters by label.
pub type Counters = Labelled<Counter>;

impl<M: Metric + Clone> Labelled<M> {
    /// One made by `make` for each of `values`, and a last one for whatever is beyond them.
    pub fn new(
        label: &'static str,
        values: impl IntoIterator<Item = String>,
        make: fn() -> M,
    ) -> Self {
        let family: Family<Label, M, fn() -> M> = Family::new_with_constructor(make);
        let values = values.into_iter();
        let each = values.map(|value| family.get_or_create_owned(&[(label, value)]));
        let each = each.collect();
        Self { family, each }
    }

    /// The one at `index` in the order of the values; the last one for whatever is beyond.
    pub fn at(&self, index: usize) -> Option<&M> {
        self.each.get(index).or(self.each.last())
    }

    /// To be registered.
    pub fn family(&self) -> Family<Label, M, fn() -> M> {
        self.family.clone()
    }
}

impl Labelled<Counter> {
    /// Adds to the one at `index`, as [`Self::at`] finds it.
    pub fn add(&self, index: usize, count: u64) {
        if let Some(counter) = self.at(index) {
            counter.inc_by(count);
        }
    }
}

impl<M> fmt::Debug for Labelled<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Labelled({})", self.each.len())
    }
}

/// A histogram of times: bounds from `least` seconds on, each twice the one before.
pub fn times(least: f64, bounds: u16) -> Histogram {
    Histogram::new(exponential_buckets(least, 2.0, bounds))
}

/// A histogram of whole numbers: 1, 2, 4 … 1024.
pub fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11))
}

/// Heads from the shallowest, as label values; the last stands for all that are deeper. Their
/// indices come from the wire, so their number is bounded here.
pub fn head_labels() -> impl Iterator<Item = String> {
    const HEADS: usize = 16;
    let last = std::iter::once(format!("{HEADS}+"));
    (0..HEADS).map(|head| head.to_string()).chain(last)
}
