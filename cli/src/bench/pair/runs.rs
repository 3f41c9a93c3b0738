//! Generations with every policy in turn, plain ones beside them.

use crate::{
    bench::{stages::Stages, subject::Subject},
    client::{Client, Generated},
    oracle::Truth,
    request::speculation,
};
use anyhow::ensure;
use dssd_common::policy::PolicySpec;
use dssd_proto::v1::{GenerateRequest, Speculation, TokenIds, generate_request::Prompt};

/// What a model with a tokenizer continues.
const OPENINGS: [&str; 3] = [
    "Once upon a time, there was a little",
    "Tom and his sister went to the park because",
    "One rainy morning the old dog",
];
/// Tokens of a random prompt.
const PROMPT_TOKENS: usize = 16;
/// Tokens of the first generations, which pay for connecting.
const WARM_UP_TOKENS: u32 = 24;

/// Beginnings of stories.
pub(super) fn openings() -> Vec<Prompt> {
    OPENINGS
        .iter()
        .map(|&text| Prompt::Text(text.to_owned()))
        .collect()
}

/// As many prompts of random tokens.
pub(super) fn random_prompts(subject: &Subject) -> Vec<Prompt> {
    let tokens = subject.tokens(OPENINGS.len() * PROMPT_TOKENS);
    tokens
        .chunks(PROMPT_TOKENS)
        .map(|ids| Prompt::TokenIds(TokenIds { ids: ids.to_vec() }))
        .collect()
}

/// How a generation is drafted and sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) policy: PolicySpec,
    /// Longest draft; the server's limit if unset.
    pub(crate) max_draft_tokens: Option<u32>,
    pub(crate) temperature: f32,
}

impl Setting {
    /// Without any drafts.
    pub(crate) fn plain(temperature: f32) -> Self {
        Self {
            policy: PolicySpec::Off,
            max_draft_tokens: None,
            temperature,
        }
    }

    /// Greedy, with drafts up to the server's limit.
    pub(crate) fn greedy(policy: PolicySpec) -> Self {
        Self {
            policy,
            max_draft_tokens: None,
            temperature: 0.0,
        }
    }
}

/// How generations are run.
pub(crate) struct Runs {
    pub(crate) client: Client,
    /// What an oracle drafter knows.
    pub(crate) truth: Truth,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) max_new_tokens: u32,
    /// Turns so far.
    pub(crate) turns: usize,
}

/// Rates are tokens per second from the first token to the last.
pub(crate) struct Measured {
    pub(crate) plain_rates: Vec<f64>,
    /// All settings but the plain one.
    pub(crate) policies: Vec<PolicyRuns>,
}

/// The generations with one setting.
pub(crate) struct PolicyRuns {
    pub(crate) setting: Setting,
    pub(crate) rates: Vec<f64>,
    /// The plain run beside each of `rates`.
    pub(crate) plain_rates: Vec<f64>,
    /// Of each of `rates`.
    pub(crate) generations: Vec<Totals>,
}

/// Sums over generations.
#[derive(Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) tokens: u64,
    /// Tokens without those that prefills gave.
    pub(crate) decoded: u64,
    /// Decoding passes, plain ones included.
    pub(crate) passes: f64,
    pub(crate) drafts: u64,
    pub(crate) drafted: u64,
    pub(crate) accepted: u64,
    /// Tokens drafted ahead in vain; not among the drafted ones.
    pub(crate) discarded_ahead: u64,
    pub(crate) draft_wait_seconds: f64,
    pub(crate) wire_seconds: f64,
    pub(crate) verify_seconds: f64,
}

impl From<&Generated> for Totals {
    fn from(generated: &Generated) -> Self {
        let tokens = generated.token_ids.len() as u64;
        let report = generated.finish.speculative_decoding.clone();
        let report = report.unwrap_or_default();
        let decoded = tokens.saturating_sub(1);
        let passes = match report.tokens_per_pass {
            rate if rate > 0.0 => decoded as f64 / rate,
            _ => 0.0,
        };
        Self {
            tokens,
            decoded,
            passes,
            drafts: report.num_drafts,
            drafted: report.num_draft_tokens,
            accepted: report.num_accepted_tokens,
            discarded_ahead: report.num_discarded_ahead_tokens,
            draft_wait_seconds: report.draft_wait_seconds,
            wire_seconds: report.wire_seconds,
            verify_seconds: report.verify_seconds,
        }
    }
}

impl Totals {
    /// Tokens drafted and not accepted, those drafted ahead in vain included.
    pub(crate) fn wasted(&self) -> u64 {
        self.drafted - self.accepted + self.discarded_ahead
    }
}

impl std::iter::Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, next| Self {
            tokens: sum.tokens + next.tokens,
            decoded: sum.decoded + next.decoded,
            passes: sum.passes + next.passes,
            drafts: sum.drafts + next.drafts,
            drafted: sum.drafted + next.drafted,
            accepted: sum.accepted + next.accepted,
            discarded_ahead: sum.discarded_ahead + next.discarded_ahead,
            draft_wait_seconds: sum.draft_wait_seconds + next.draft_wait_seconds,
            wire_seconds: sum.wire_seconds + next.wire_seconds,
            verify_seconds: sum.verify_seconds + next.verify_seconds,
        })
    }
}

impl PolicyRuns {
    pub(crate) fn total(&self) -> Totals {
        self.generations.iter().copied().sum()
    }

    /// The first `count` runs alone.
    pub(crate) fn first(&self, count: usize) -> Self {
        let count = count.min(self.rates.len());
        Self {
            setting: self.setting,
            rates: self.rates[..count].to_vec(),
            plain_rates: self.plain_rates[..count].to_vec(),
            generations: self.generations[..count].to_vec(),
        }
    }

    /// Adds further runs of the same setting.
    pub(crate) fn extend(&mut self, more: Self) {
        self.rates.extend(more.rates);
        self.plain_rates.extend(more.plain_rates);
        self.generations.extend(more.generations);
    }
}

impl Measured {
    /// Nothing yet of settings whose first is the plain one.
    pub(crate) fn new(settings: &[Setting]) -> Self {
        let runs = |&setting: &Setting| PolicyRuns {
            setting,
            rates: Vec::new(),
            plain_rates: Vec::new(),
            generations: Vec::new(),
        };
        Self {
            plain_rates: Vec::new(),
            policies: settings.iter().skip(1).map(runs).collect(),
        }
    }

    /// Takes note of a [`Runs::turn`] of the same settings.
    pub(crate) fn add(&mut self, turn: &[Generated]) {
        let Some((plain, drafted)) = turn.split_first() else {
            return;
        };
        self.plain_rates.push(plain.tokens_per_second);
        for (runs, generated) in self.policies.iter_mut().zip(drafted) {
            runs.rates.push(generated.tokens_per_second);
            runs.plain_rates.push(plain.tokens_per_second);
            runs.generations.push(generated.into());
        }
    }
}

impl Runs {
    /// `rounds` greedy generations of each prompt with each policy.
    ///
    /// # Errors
    /// If a generation fails, or differs from the plain one.
    pub(super) async fn measure(
        &mut self,
        policies: &[PolicySpec],
        rounds: usize,
        stages: &Stages,
    ) -> anyhow::Result<Measured> {
        self.client.ready().await?;
        let all = std::iter::once(&PolicySpec::Off).chain(policies);
        let settings: Vec<Setting> = all.map(|&policy| Setting::greedy(policy)).collect();
        let order: Vec<usize> = (0..settings.len()).collect();
        self.warm_up(&settings[..settings.len().min(2)]).await?;
        let mut measured = Measured::new(&settings);
        for round in 0..rounds {
            stages.begin(format!("generations, round {} of {rounds}", round + 1));
            for prompt in 0..self.prompts.len() {
                measured.add(&self.turn(prompt, &settings, &order).await?);
            }
        }
        Ok(measured)
    }

    /// Short generations, which pay for connecting.
    ///
    /// # Errors
    /// As [`Runs::turn`].
    pub(crate) async fn warm_up(&mut self, settings: &[Setting]) -> anyhow::Result<()> {
        let whole = std::mem::replace(&mut self.max_new_tokens, WARM_UP_TOKENS);
        let order: Vec<usize> = (0..settings.len()).collect();
        let turn = self.turn(0, settings, &order).await;
        self.max_new_tokens = whole;
        turn.map(|_| ())
    }

    /// A generation with each setting, run in the given `order` of their indices. The first
    /// setting must be the plain one; before an oracle drafter it must run first, too.
    ///
    /// # Errors
    /// If a generation fails, or has other tokens than the plain one.
    pub(crate) async fn turn(
        &mut self,
        prompt: usize,
        settings: &[Setting],
        order: &[usize],
    ) -> anyhow::Result<Vec<Generated>> {
        self.turns += 1;
        let turn = self.turns;
        let id = |index: usize| format!("turn-{turn}-{index}");
        let mut all: Vec<(usize, Generated)> = Vec::with_capacity(order.len());
        for &index in order {
            let request = self.request(prompt, &settings[index]);
            let request = GenerateRequest {
                request_id: id(index),
                ..request
            };
            let generated = self.client.generate(request, &mut |_| ()).await?;
            if index == 0 {
                let others = 1..settings.len();
                others.for_each(|other| self.truth.tell(&id(other), &generated.token_ids));
            }
            all.push((index, generated));
        }
        all.sort_by_key(|(index, _)| *index);
        let all: Vec<Generated> = all.into_iter().map(|(_, generated)| generated).collect();
        for (setting, generated) in settings.iter().zip(&all) {
            let same = generated.token_ids == all[0].token_ids;
            let Setting {
                policy,
                temperature,
                ..
            } = setting;
            ensure!(
                same,
                "{policy} changed the tokens of prompt {prompt} at temperature {temperature}"
            );
        }
        Ok(all)
    }

    /// The request for a generation.
    pub(crate) fn request(&self, prompt: usize, setting: &Setting) -> GenerateRequest {
        GenerateRequest {
            prompt: self.prompts.get(prompt).cloned(),
            max_new_tokens: Some(self.max_new_tokens),
            temperature: Some(setting.temperature),
            seed: Some(prompt as u64),
            ignore_eos: true,
            speculation: Some(Speculation {
                max_draft_tokens: setting.max_draft_tokens,
                ..speculation(Some(setting.policy))
            }),
            ..GenerateRequest::default()
        }
    }
}
