//! The lossy mode: how tokens of one sequence leave the model early, and where they did.

use super::pass::Exit;
use dssd_common::{
    exit::ExitRule,
    kv::{KvCache, SequenceId},
};
use dssd_proto::v1;

/// Early exits of one generation, or of one text that is scored.
pub(super) struct EarlyExit {
    rule: ExitRule,
    /// Tokens that left at each head; last those that went through the whole model.
    tokens: Vec<u64>,
    /// Layers computed for all of these tokens.
    computed: u64,
    /// Layers before each head; last those of the model.
    depths: Vec<usize>,
}

impl EarlyExit {
    /// Nothing left yet; `depths` are the layers before each head, and last those of the model.
    pub(super) fn new(rule: ExitRule, depths: &[usize]) -> Self {
        Self {
            rule,
            tokens: vec![0; depths.len()],
            computed: 0,
            depths: depths.to_vec(),
        }
    }

    pub(super) fn rule(&self) -> &ExitRule {
        &self.rule
    }

    /// A token was read at an exit, or at the end of the model.
    pub(super) fn left(&mut self, exit: Option<Exit>) {
        let at = exit.map_or(self.depths.len() - 1, |exit| exit.head);
        self.tokens[at] += 1;
    }

    /// Counts what the cache holds at the end: `first` is the position of the first row that was
    /// read.
    pub(super) fn settle(&mut self, kv: &KvCache, sequence: SequenceId, first: usize) {
        let tokens: u64 = self.tokens.iter().sum();
        let mut before = 0;
        self.computed = 0;
        for (band, &depth) in self.depths.iter().enumerate() {
            // A row that was cut off before it was read gave no token.
            let rows = (kv.len(sequence, band).saturating_sub(first) as u64).min(tokens);
            self.computed += (depth - before) as u64 * rows;
            before = depth;
        }
    }

    pub(super) fn report(&self) -> v1::EarlyExit {
        let tokens: u64 = self.tokens.iter().sum();
        let per_token = |layers: u64| layers as f64 / tokens.max(1) as f64;
        let layers = self.depths.last().map_or(0, |&layers| layers as u64);
        let counts = self.tokens.iter().zip(&self.depths);
        let needed: u64 = counts.map(|(&count, &depth)| count * depth as u64).sum();
        let skipped = tokens * layers - needed;
        let never = (tokens * layers).saturating_sub(self.computed);
        let (whole, heads) = self.tokens.split_last().unwrap_or((&0, &[]));
        let thresholds = self.rule.thresholds().iter().enumerate();
        v1::EarlyExit {
            thresholds: thresholds
                .filter_map(|(head, nats)| {
                    Some(v1::ExitThreshold {
                        exit_head: head as u32,
                        entropy: (*nats)?,
                    })
                })
                .collect(),
            exit_heads: (0..)
                .zip(heads)
                .map(|(exit_head, &count)| v1::ExitHeadCount { exit_head, count })
                .collect(),
            whole_model_tokens: *whole,
            exit_depth: per_token(needed),
            layers_per_token: per_token(self.computed),
            never_filled: never as f64 / skipped.max(1) as f64,
        }
    }
}
