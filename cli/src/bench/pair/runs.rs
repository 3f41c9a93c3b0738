//! Generations with every policy in turn, plain ones beside them.

use crate::{
    bench::{stages::Stages, subject::Subject},
    client::{Client, Generated},
    oracle::Truth,
    request::speculation,
};
use anyhow::ensure;
use dssd_common::policy::PolicySpec;
use dssd_proto::v1::{GenerateRequest, TokenIds, generate_request::Prompt};

/// What a model with a tokenizer continues.
const OPENINGS: [&str; 3] = [
    "Once upon a time, there was a little",
    "Tom and his sister went to the park because",
    "One rainy morning the old dog",
];
/// Random tokens that a model without a tokenizer continues.
const PROMPT_TOKENS: usize = 16;
/// Tokens of the first generations, which pay for connecting.
const WARM_UP_TOKENS: u32 = 24;

/// The prompts for a model.
pub(super) fn prompts(subject: &Subject, has_tokenizer: bool) -> Vec<Prompt> {
    if has_tokenizer {
        return OPENINGS
            .iter()
            .map(|&text| Prompt::Text(text.to_owned()))
            .collect();
    }
    vec![Prompt::TokenIds(TokenIds {
        ids: subject.tokens(PROMPT_TOKENS),
    })]
}

/// How generations are run.
pub(super) struct Runs {
    pub(super) client: Client,
    /// What an oracle drafter knows.
    pub(super) truth: Truth,
    pub(super) prompts: Vec<Prompt>,
    pub(super) max_new_tokens: u32,
}

/// Rates are tokens per second from the first token to the last.
pub(super) struct Measured {
    pub(super) plain_rates: Vec<f64>,
    pub(super) policies: Vec<PolicyRuns>,
}

/// The generations with one policy.
pub(super) struct PolicyRuns {
    pub(super) policy: PolicySpec,
    pub(super) rates: Vec<f64>,
    /// The plain run beside each of `rates`.
    pub(super) plain_rates: Vec<f64>,
    pub(super) total: Totals,
}

/// Sums over generations.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) tokens: u64,
    /// Tokens without those that prefills gave.
    pub(super) decoded: u64,
    /// Decoding passes, plain ones included.
    pub(super) passes: f64,
    pub(super) drafts: u64,
    pub(super) drafted: u64,
    pub(super) accepted: u64,
    /// Tokens drafted ahead in vain; not among the drafted ones.
    pub(super) discarded_ahead: u64,
    pub(super) draft_wait_seconds: f64,
    pub(super) wire_seconds: f64,
    pub(super) verify_seconds: f64,
}

impl Totals {
    fn add(&mut self, generated: &Generated) {
        let tokens = generated.token_ids.len() as u64;
        let report = generated
            .finish
            .speculative_decoding
            .clone()
            .unwrap_or_default();
        let decoded = tokens.saturating_sub(1);
        self.tokens += tokens;
        self.decoded += decoded;
        if report.tokens_per_pass > 0.0 {
            self.passes += decoded as f64 / report.tokens_per_pass;
        }
        self.drafts += report.num_drafts;
        self.drafted += report.num_draft_tokens;
        self.accepted += report.num_accepted_tokens;
        self.discarded_ahead += report.num_discarded_ahead_tokens;
        self.draft_wait_seconds += report.draft_wait_seconds;
        self.wire_seconds += report.wire_seconds;
        self.verify_seconds += report.verify_seconds;
    }
}

impl Runs {
    /// `rounds` generations of each prompt with each policy; every speculated one must have the
    /// tokens of the plain one.
    ///
    /// # Errors
    /// If a generation fails or differs.
    pub(super) async fn measure(
        &mut self,
        policies: &[PolicySpec],
        rounds: usize,
        stages: &Stages,
    ) -> anyhow::Result<Measured> {
        self.client.ready().await?;
        let mut measured = Measured {
            plain_rates: Vec::new(),
            policies: (policies.iter())
                .map(|&policy| PolicyRuns {
                    policy,
                    rates: Vec::new(),
                    plain_rates: Vec::new(),
                    total: Totals::default(),
                })
                .collect(),
        };
        self.warm_up(policies).await?;
        for round in 0..rounds {
            stages.begin(format!("generations, round {} of {rounds}", round + 1));
            for prompt in 0..self.prompts.len() {
                let id = |name: &dyn std::fmt::Display| format!("bench-{round}-{prompt}-{name}");
                let plain = self
                    .generate(prompt, PolicySpec::Off, &id(&"plain"))
                    .await?;
                measured.plain_rates.push(plain.tokens_per_second);
                for runs in &mut measured.policies {
                    let id = id(&runs.policy);
                    self.truth.tell(&id, &plain.token_ids);
                    let generated = self.generate(prompt, runs.policy, &id).await?;
                    let same = generated.token_ids == plain.token_ids;
                    ensure!(same, "{} changed the tokens of {id}", runs.policy);
                    runs.rates.push(generated.tokens_per_second);
                    runs.plain_rates.push(plain.tokens_per_second);
                    runs.total.add(&generated);
                }
            }
        }
        Ok(measured)
    }

    async fn warm_up(&mut self, policies: &[PolicySpec]) -> anyhow::Result<()> {
        let whole = std::mem::replace(&mut self.max_new_tokens, WARM_UP_TOKENS);
        let plain = self.generate(0, PolicySpec::Off, "warm-up-plain").await?;
        if let Some(&policy) = policies.first() {
            let id = "warm-up-drafted";
            self.truth.tell(id, &plain.token_ids);
            self.generate(0, policy, id).await?;
        }
        self.max_new_tokens = whole;
        Ok(())
    }

    async fn generate(
        &mut self,
        prompt: usize,
        policy: PolicySpec,
        request_id: &str,
    ) -> anyhow::Result<Generated> {
        let request = GenerateRequest {
            request_id: request_id.to_owned(),
            prompt: self.prompts.get(prompt).cloned(),
            max_new_tokens: Some(self.max_new_tokens),
            temperature: Some(0.0),
            ignore_eos: true,
            speculation: Some(speculation(Some(policy))),
            ..GenerateRequest::default()
        };
        self.client.generate(request, &mut |_| ()).await
    }
}
