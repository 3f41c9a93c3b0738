//! What a generation tells its client: rounds, the end, the account of its drafts.

use super::Generation;
use crate::engine::{
    early_exit::EarlyExit,
    events::Event,
    output::Stop,
    work::{End, Outcome, Work, WorkKind},
};
use dssd_proto::v1::{self, FinishReason, PlainReason};
use std::time::Duration;

impl Generation {
    pub(super) fn account(&mut self, work: &Work, outcome: &Outcome, seconds: Duration) {
        if matches!(work.kind, WorkKind::Plain(None)) {
            return;
        }
        self.passes += 1;
        self.verify_time += seconds;
        if self.request.trace {
            self.emit(Event::Round(self.trace(work, outcome)));
        }
        self.rounds += 1;
    }

    fn trace(&self, work: &Work, outcome: &Outcome) -> v1::RoundTrace {
        let accepted = outcome.accepted.unwrap_or(0);
        let nothing = v1::Proposal::default();
        let (proposal, plain_reason) = match &work.kind {
            WorkKind::Verify(proposal) => (proposal, PlainReason::Unspecified),
            WorkKind::Plain(reason) => (&nothing, reason.unwrap_or_default()),
            WorkKind::Prefill | WorkKind::LateFill => (&nothing, PlainReason::Unspecified),
        };
        let traced = |(i, token): (usize, &v1::DraftedToken)| v1::TracedToken {
            token_id: token.token_id,
            exit_head: token.exit_head,
            entropy: token.entropy,
            accepted: i < accepted,
        };
        v1::RoundTrace {
            round: self.rounds,
            drafted: proposal.tokens.iter().enumerate().map(traced).collect(),
            correction: outcome.committed.get(accepted).copied().unwrap_or_default(),
            kv_position: (self.history.len() - 1) as u32,
            stop_reason: proposal.stop_reason,
            plain_reason: plain_reason.into(),
            exit_head: outcome.exit.map(|exit| exit.head as u32),
            entropy: outcome.exit.map(|exit| exit.entropy),
        }
    }

    /// Sends everything that was held back, and the account.
    pub(in crate::engine) fn finish(&mut self, end: End) {
        let (stop, reason) = match end {
            End::Stop(stop) => (Some(stop), FinishReason::Stop),
            End::Length => (None, FinishReason::Length),
            End::Aborted => (None, FinishReason::Aborted),
        };
        let (tokens, stop) = match self.output.finish(stop) {
            Ok(rest) => rest,
            Err(error) => return self.emit(Event::Failed(error)),
        };
        if let Some(tokens) = tokens {
            self.emit(Event::Tokens(tokens));
        }
        let reason = match (&stop, reason) {
            (Some(_), FinishReason::Length) => FinishReason::Stop,
            _ => reason,
        };
        let mut info = v1::FinishInfo {
            finish_reason: reason.into(),
            prompt_token_count: self.request.prompt.len() as u32,
            generated_token_count: self.history.generated().len() as u32,
            resumed_token_count: self.request.resumed.len() as u32,
            stop_string: None,
            stop_token_id: None,
            lossy: self.early_exit.is_some(),
            speculative_decoding: Some(self.speculative_decoding()),
            early_exit: self.early_exit.as_ref().map(EarlyExit::report),
            cached_prompt_tokens: self.cached as u32,
        };
        match stop {
            Some(Stop::String(string)) => info.stop_string = Some(string),
            Some(Stop::Token(token)) => info.stop_token_id = Some(token),
            None => {}
        }
        self.emit(Event::Finished(Box::new(info)));
    }

    fn speculative_decoding(&self) -> v1::SpeculativeDecoding {
        let decoded = self.history.generated().len() - self.request.resumed.len();
        let mut report = self.session.statistics().report();
        // The first token came from the prefill, not from a decoding pass.
        report.tokens_per_pass = match self.passes {
            0 => 0.0,
            passes => decoded.saturating_sub(1) as f64 / passes as f64,
        };
        report.verify_seconds = self.verify_time.as_secs_f64();
        let speculation = self
            .request
            .draft
            .as_ref()
            .and_then(|draft| draft.open.speculation.as_ref());
        report.policy = speculation.map_or_else(
            || "off".to_owned(),
            |speculation| speculation.policy.clone(),
        );
        report
    }
}
