//! One stream's draft: its session, its policy, and how deep the next token has come.

use super::{EngineParts, Outbox, Peer, Spans, StreamKey, foresight::Foresight};
use crate::{Error, Result, session::DraftSession};
use dssd_common::{
    kv::{KvCache, SequenceId},
    policy::{Drafted, Policy, PolicySettings, PolicySpec, Setting},
    sampling::{Choice, History, Sampler, SamplingParams},
};
use dssd_proto::v1::{Open, Proposal, SamplingSettings, Speculation};
use std::time::Duration;

pub(super) struct Sequence {
    pub(super) key: StreamKey,
    pub(super) outbox: Outbox,
    /// Whether the verifier shares this machine.
    pub(super) same_host: bool,
    pub(super) spans: Spans,
    pub(super) session: DraftSession,
    pub(super) drafting: Option<Drafting>,
    /// The exit whose band the next token's row goes through next, once it has been fed.
    pub(super) depth: usize,
    /// Exits before this one have said their part of the next token already.
    pub(super) decided: usize,
    /// What was drafted ahead of the next Commit.
    pub(super) foresight: Option<Foresight>,
    /// The last draft that was sent, until a Commit tells what became of it.
    pub(super) proposed: Option<Proposed>,
    /// Since when the sequence has had something to do.
    pub(super) waiting_since: Duration,
}

/// A draft as it was sent.
pub(super) struct Proposed {
    pub(super) epoch: u64,
    pub(super) drafted: Vec<Drafted>,
    /// When the Commit that asked for it came.
    pub(super) started: Duration,
    /// Tokens committed since, while no other draft was asked for.
    pub(super) committed: usize,
}

impl Proposed {
    /// A draft that was asked for then, and never sent.
    pub(super) fn nothing(started: Duration) -> Self {
        Self {
            epoch: 0,
            drafted: Vec::new(),
            started,
            committed: 0,
        }
    }

    pub(super) fn new(proposal: &Proposal, started: Duration) -> Self {
        let drafted = proposal.tokens.iter().map(|token| Drafted {
            head: token.exit_head as usize,
            entropy: token.entropy,
        });
        Self {
            epoch: proposal.epoch,
            drafted: drafted.collect(),
            started,
            committed: 0,
        }
    }
}

/// What an Open made.
pub(super) struct Drafting {
    pub(super) id: SequenceId,
    pub(super) sampler: Sampler,
    pub(super) history: History,
    pub(super) policy: Option<Box<dyn Policy>>,
}

/// The rows that a sequence wants next: through `band`, up to position `end`.
pub(super) struct Want {
    pub(super) band: usize,
    pub(super) end: usize,
    /// For the first band, the tokens of the rows.
    pub(super) tokens: Vec<u32>,
    /// Whether the last row is that of the next token, so that its exit may be read.
    pub(super) decides: bool,
}

impl Drafting {
    /// # Errors
    /// If the settings are out of range, or there is no room.
    pub(super) fn open(open: &Open, tokens: &[u32], parts: &mut EngineParts) -> Result<Self> {
        let settings = open.sampling.clone().unwrap_or_default();
        let vocabulary = parts.decoder.vocabulary();
        let sampler = Sampler::new(
            sampling_params(&settings),
            vocabulary,
            settings.stop_token_ids.clone(),
        )?;
        let policy = policy(open.speculation.as_ref(), settings.temperature, parts)?;
        let prompt_length = (open.prompt_length as usize).min(tokens.len());
        let (prompt, generated) = tokens.split_at(prompt_length);
        // A person who types an Open may leave the length out: 0 is no length.
        let capacity = match settings.max_new_tokens as usize {
            0 => parts.profile.max_context,
            most => parts.profile.max_context.min(prompt_length + most),
        };
        let id = parts.kv.open(capacity)?;
        Ok(Self {
            id,
            sampler,
            history: History::new(prompt, generated),
            policy,
        })
    }

    /// Refuses more tokens than the Open announced: room was reserved for those only.
    pub(super) fn check_room(&self, kv: &KvCache, tokens: usize) -> Result<()> {
        let most = kv.capacity(self.id) + 1;
        if tokens <= most {
            return Ok(());
        }
        let reason = format!(
            "asks for room for {tokens} tokens; the Open announced at most {}",
            most - 1
        );
        Err(Error::Field {
            field: "commit",
            reason,
        })
    }

    /// Makes the history that of `tokens`.
    pub(super) fn follow(&mut self, tokens: &[u32]) {
        let known = self
            .history
            .tokens()
            .iter()
            .zip(tokens)
            .take_while(|(a, b)| a == b)
            .count();
        self.history.truncate(known);
        tokens[self.history.len().min(tokens.len())..]
            .iter()
            .for_each(|&token| self.history.push(token));
    }
}

impl Sequence {
    /// How the next token is chosen, where that takes no logits.
    pub(super) fn plain_choice(&self) -> Option<Choice> {
        let drafting = self.drafting.as_ref()?;
        drafting.sampler.plain_choice(&drafting.history, 0)
    }

    pub(super) fn new(key: StreamKey, peer: Peer, session: DraftSession) -> Self {
        Self {
            key,
            outbox: peer.outbox,
            same_host: peer.same_host,
            spans: peer.spans,
            session,
            drafting: None,
            depth: 0,
            decided: 0,
            foresight: None,
            proposed: None,
            waiting_since: Duration::ZERO,
        }
    }

    /// The next token's row begins at the first exit.
    pub(super) fn restart_row(&mut self) {
        self.depth = 0;
        self.decided = 0;
    }

    /// Whether the exit at the end of a band is to be read for the next token.
    pub(super) fn reads(&self, band: usize) -> bool {
        let policy = if self.session.ahead().is_some() {
            self.foresight.as_ref().map(|foresight| &foresight.policy)
        } else {
            let drafting = self.drafting.as_ref();
            drafting.and_then(|drafting| drafting.policy.as_ref())
        };
        band >= self.decided && policy.is_some_and(|policy| policy.reads(band))
    }

    /// What to run next, in at most `budget` rows; `None` if there is nothing to do.
    pub(super) fn want(&self, kv: &KvCache, budget: usize) -> Option<Want> {
        let plan = self.session.plan();
        self.rows(plan.feed, plan.goal.is_some(), kv, budget)
    }

    /// The same for work ahead of the next Commit.
    pub(super) fn want_ahead(&self, kv: &KvCache, budget: usize) -> Option<Want> {
        let ahead = self.session.ahead()?;
        self.rows(ahead.feed, true, kv, budget)
    }

    /// `decides`: whether a token is to follow the last row of `feed`.
    fn rows(&self, feed: &[u32], decides: bool, kv: &KvCache, budget: usize) -> Option<Want> {
        let id = self.drafting.as_ref()?.id;
        let held = self.session.plan().truncate_to;
        if !feed.is_empty() {
            let rows = feed.len().min(budget);
            return Some(Want {
                band: 0,
                end: held + rows,
                tokens: feed[..rows].to_vec(),
                decides: decides && rows == feed.len(),
            });
        }
        let reached = held.min(kv.len(id, self.depth) + budget);
        decides.then(|| Want {
            band: self.depth,
            end: reached,
            tokens: Vec::new(),
            decides: reached == held,
        })
    }
}

fn sampling_params(settings: &SamplingSettings) -> SamplingParams {
    let mut logit_bias: Vec<(u32, f32)> = settings
        .logit_bias
        .iter()
        .map(|(&id, &bias)| (id, bias))
        .collect();
    logit_bias.sort_unstable_by_key(|(id, _)| *id);
    SamplingParams {
        temperature: settings.temperature,
        top_k: settings.top_k,
        top_p: settings.top_p,
        min_p: settings.min_p,
        seed: settings.seed,
        repetition_penalty: settings.repetition_penalty,
        presence_penalty: settings.presence_penalty,
        frequency_penalty: settings.frequency_penalty,
        logit_bias,
        min_new_tokens: settings.min_new_tokens,
    }
}

/// The policy that an Open names, else the drafter's own.
fn policy(
    speculation: Option<&Speculation>,
    temperature: f32,
    parts: &EngineParts,
) -> Result<Option<Box<dyn Policy>>> {
    let none = Speculation::default();
    let asked = speculation.unwrap_or(&none);
    let longest = parts.profile.max_draft_tokens as usize;
    let settings = PolicySettings {
        exit_head: asked.exit_head.map(|head| head as usize),
        tokens: asked.max_draft_tokens.map(|tokens| tokens as usize),
        entropy_threshold: asked.entropy_threshold,
        target_agreement: asked.target_agreement,
    };
    let spec = PolicySpec::requested(&asked.policy, settings, parts.default_policy)?;
    Ok(spec.build(Setting {
        exits: parts.decoder.band_ends(),
        max_draft_tokens: longest,
        calibration: parts.experience.calibration(),
        temperature: temperature.into(),
    })?)
}
