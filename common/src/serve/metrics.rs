//! What all metrics of a service have in common.

use prometheus_client::{metrics::info::Info, registry::Registry};
use std::borrow::Cow;

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
