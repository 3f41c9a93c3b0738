//! What is asked for when somebody looks: the state of queue, cache and drafters.

use crate::{drafters::Drafters, engine::EngineHandle};
use dssd_proto::v1::DrafterState;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};
use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// Whom to ask.
pub(crate) struct Source {
    pub(crate) engine: EngineHandle,
    pub(crate) drafters: Option<Drafters>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Live(Arc<OnceLock<Source>>);

const STATES: [(DrafterState, &str); 4] = [
    (DrafterState::Connecting, "connecting"),
    (DrafterState::Ready, "ready"),
    (DrafterState::Excluded, "excluded"),
    (DrafterState::Vanished, "vanished"),
];

impl Live {
    pub(super) fn new(source: &Arc<OnceLock<Source>>) -> Self {
        Self(Arc::clone(source))
    }
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let source = self.0.get();
        let usage = source.map(|source| source.engine.usage());
        let usage = usage.unwrap_or_default();
        let mut gauge = |name, help, value: f64| {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(encoder)
        };
        gauge(
            "num_requests_running",
            "Sequences that have room.",
            usage.running as f64,
        )?;
        gauge(
            "num_requests_waiting",
            "Requests that wait for room.",
            usage.waiting as f64,
        )?;
        gauge(
            "kv_cache_usage_ratio",
            "Reserved share of the KV cache's blocks, 0 to 1.",
            usage.kv_ratio,
        )?;
        let drafters = source.and_then(|source| source.drafters.as_ref());
        let drift = drafters.map(Drafters::drift).unwrap_or_default();
        let drafters = drafters.map_or_else(Vec::new, Drafters::status);
        let mut states = encoder.encode_descriptor(
            "drafters",
            "Known drafters by state.",
            None,
            MetricType::Gauge,
        )?;
        for (state, name) in STATES {
            let count = drafters
                .iter()
                .filter(|drafter| drafter.state() == state)
                .count();
            let labels = [("state", name)];
            ConstGauge::new(count).encode(states.encode_family(&labels)?)?;
        }
        let mut heads = encoder.encode_descriptor(
            "exit_agreement_drift",
            "Observed minus calibrated acceptance of a head's tokens, as ready drafters tell.",
            None,
            MetricType::Gauge,
        )?;
        for (head, drift) in drift {
            let labels = [("head", head)];
            ConstGauge::new(drift).encode(heads.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
