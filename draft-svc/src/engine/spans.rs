//! The spans of one stream: itself, and its drafts.

use dssd_common::serve::{Ending, Identity, Part};
use dssd_proto::v1::{DraftStopReason, Proposal};
use opentelemetry::KeyValue;
use std::time::{Duration, Instant};

/// Drafts of a stream that have spans; those beyond are counted.
const MOST_DRAFTS: u64 = 512;

/// What a stream is known by, and what its spans are made of. They end with it.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    identity: Identity,
    drafts: u64,
}

impl Spans {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            drafts: 0,
        }
    }

    /// What the stream is known by.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A draft that took so long is sent now.
    pub(crate) fn drafted(&mut self, proposal: &Proposal, took: Duration) {
        let trail = self.identity.trail();
        if !trail.is_recorded() {
            return;
        }
        self.drafts += 1;
        if self.drafts > MOST_DRAFTS {
            return;
        }
        let ended = Instant::now();
        let begun = ended.checked_sub(took).unwrap_or(ended);
        let tokens = proposal.tokens.len() as i64;
        let ahead = i64::from(proposal.ahead_tokens);
        let (epoch, stop) = (signed(proposal.epoch), proposal.stop_reason());
        let heads = proposal.tokens.iter().map(|token| token.exit_head);
        let (shallowest, deepest) = (heads.clone().min(), heads.max());
        trail.note(move || {
            let heads = [
                ("shallowest_exit_head", shallowest),
                ("deepest_exit_head", deepest),
            ];
            let heads = heads
                .into_iter()
                .filter_map(|(name, head)| Some(KeyValue::new(name, i64::from(head?))));
            let mut attributes = vec![
                KeyValue::new("epoch", epoch),
                KeyValue::new("tokens", tokens),
                KeyValue::new("ahead_tokens", ahead),
                KeyValue::new("stop_reason", DraftStopReason::as_str_name(&stop)),
            ];
            attributes.extend(heads);
            Part {
                name: "draft",
                begun,
                ended,
                attributes,
                parts: Vec::new(),
            }
        });
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        let drafts = self.drafts;
        self.identity.trail().end(move || {
            let mut attributes = vec![KeyValue::new("drafts", signed(drafts))];
            if drafts > MOST_DRAFTS {
                let without = signed(drafts - MOST_DRAFTS);
                attributes.push(KeyValue::new("drafts_without_span", without));
            }
            Ending {
                attributes,
                failure: None,
            }
        });
    }
}

/// OpenTelemetry has signed numbers only.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
