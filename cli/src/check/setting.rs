//! What is checked: ways to sample, each with several ways to draft.

use crate::{
    client::{Cut, Generated},
    request::speculation,
};
use dssd_common::policy::PolicySpec;
use dssd_proto::v1::{GenerateRequest, generate_request::Prompt};
use rand::{SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Most likely tokens whose log-probabilities are compared beside that of each chosen one.
const TOP_LOGPROBS: u32 = 3;

/// A way to choose tokens. All that share one are compared with the same plain run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sampling {
    Greedy,
    Temperature,
    TopP,
    TopKMinP,
    Everything,
}

/// Who drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The drafters of the server.
    Drafters,
    /// Drafters that always work ahead.
    Ahead,
    /// A drafter that knows the plain run.
    Oracle,
}

/// What is asked for, and compared with the plain run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// The whole answer.
    Answer,
    /// The whole answer, with log-probabilities.
    Logprobs,
    /// The rest of the plain answer, resumed at a random place.
    Rest,
}

/// One row of the report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) sampling: Sampling,
    /// The server's default if `None`.
    policy: Option<PolicySpec>,
    pub(super) source: Source,
    asks: Asks,
}

impl Sampling {
    /// Every way, in the order of the report.
    pub(super) const ALL: [Self; 5] = [
        Self::Greedy,
        Self::Temperature,
        Self::TopP,
        Self::TopKMinP,
        Self::Everything,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::Temperature => "temperature 0.8",
            Self::TopP => "temperature 1, top-p 0.9",
            Self::TopKMinP => "temperature 0.9, top-k 40, min-p 0.02",
            Self::Everything => "penalties, bias, minimum length, stop string",
        }
    }

    /// The plain request for a prompt; its seed depends on the prompt's index.
    pub(super) fn request(self, prompt: &str, index: usize, tokens: u32) -> GenerateRequest {
        let mut request = GenerateRequest {
            prompt: Some(Prompt::Text(prompt.to_owned())),
            max_new_tokens: Some(tokens),
            seed: Some(1 + index as u64),
            speculation: Some(speculation(Some(PolicySpec::Off))),
            ..GenerateRequest::default()
        };
        match self {
            Self::Greedy => {}
            Self::Temperature => {
                request.temperature = Some(0.8);
                // Plain runs tell them in any case: only some settings compare them.
                request.logprobs = Some(TOP_LOGPROBS);
            }
            Self::TopP => {
                request.temperature = Some(1.0);
                request.top_p = Some(0.9);
            }
            Self::TopKMinP => {
                request.temperature = Some(0.9);
                request.top_k = Some(40);
                request.min_p = Some(0.02);
            }
            Self::Everything => everything(&mut request, tokens),
        }
        request
    }
}

fn everything(request: &mut GenerateRequest, tokens: u32) {
    request.temperature = Some(0.7);
    request.repetition_penalty = Some(1.1);
    request.presence_penalty = Some(0.2);
    request.frequency_penalty = Some(0.1);
    // Low ids are in every vocabulary: special tokens, punctuation or single bytes.
    request.logit_bias = BTreeMap::from([(0, 1.0), (13, 1.5), (15, -1.5), (200, 0.5)]);
    request.min_new_tokens = Some(tokens / 2);
    // Spans several tokens in most vocabularies.
    request.stop_strings = vec!["ed the".to_owned()];
}

/// What is known of the drafters' exits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exits {
    /// Heads, at least one.
    pub(super) heads: usize,
    /// Whether their entropies are calibrated.
    pub(super) calibrated: bool,
}

impl Setting {
    /// The settings of a check with drafters of these exits.
    pub(super) fn all(exits: Exits) -> Vec<Self> {
        use Sampling::{Everything, Greedy, Temperature, TopKMinP, TopP};
        let head = |head: usize| head.min(exits.heads - 1);
        let fixed = |h, tokens| {
            let head = head(h);
            Some(PolicySpec::Fixed { head, tokens })
        };
        let entropy = |nats| Some(PolicySpec::Entropy { nats });
        let max_probability = |h, least, keep| {
            let head = head(h);
            Some(PolicySpec::MaxProbability { head, least, keep })
        };
        let ada_edl = |h, keep| {
            let head = head(h);
            Some(PolicySpec::AdaEdl { head, keep })
        };
        let setting = |(sampling, policy)| Self {
            sampling,
            policy,
            source: Source::Drafters,
            asks: Asks::Answer,
        };
        let asking = |asks, row| Self {
            asks,
            ..setting(row)
        };
        let ahead = |row| Self {
            source: Source::Ahead,
            ..setting(row)
        };
        let oracle = |sampling| Self {
            source: Source::Oracle,
            // Under `auto` the verifier would pause drafts while many generations run.
            ..setting((sampling, fixed(0, 8)))
        };
        let mut settings = vec![
            setting((Greedy, fixed(0, 2))),
            setting((Greedy, fixed(2, 5))),
            setting((Greedy, entropy(3.0))),
            setting((Temperature, None)),
            setting((Temperature, entropy(3.0))),
            setting((Greedy, Some(PolicySpec::Auto))),
            setting((TopP, Some(PolicySpec::Auto))),
            setting((Temperature, Some(PolicySpec::Del))),
            setting((Greedy, max_probability(0, 0.3, true))),
            setting((TopP, max_probability(1, 0.2, false))),
            setting((Temperature, ada_edl(0, true))),
            asking(Asks::Logprobs, (Temperature, fixed(0, 3))),
            setting((TopP, fixed(1, 3))),
            setting((TopKMinP, entropy(2.5))),
            setting((Everything, fixed(1, 4))),
            asking(Asks::Rest, (Everything, fixed(0, 3))),
            ahead((Greedy, fixed(0, 4))),
            ahead((Greedy, entropy(3.0))),
            ahead((Greedy, Some(PolicySpec::Auto))),
            ahead((Temperature, fixed(0, 3))),
            ahead((Temperature, Some(PolicySpec::Del))),
            ahead((TopP, Some(PolicySpec::Auto))),
            ahead((TopP, max_probability(1, 0.2, true))),
            ahead((TopKMinP, ada_edl(0, true))),
            ahead((Everything, fixed(1, 4))),
            oracle(Greedy),
            oracle(Everything),
        ];
        if exits.calibrated {
            let head = head(1);
            settings.extend([
                setting((Greedy, Some(PolicySpec::Agreement { epsilon: 0.7 }))),
                setting((Temperature, Some(PolicySpec::Agreement { epsilon: 0.6 }))),
                setting((Temperature, Some(PolicySpec::Product { head, least: 0.3 }))),
                ahead((Greedy, Some(PolicySpec::Agreement { epsilon: 0.8 }))),
                ahead((Temperature, Some(PolicySpec::Product { head, least: 0.3 }))),
            ]);
        }
        settings
    }

    /// Its name in the report.
    pub(super) fn name(&self) -> String {
        let drafts = match (self.source, self.policy) {
            (Source::Oracle, _) => "oracle drafter".to_owned(),
            (_, Some(policy)) => policy.to_string(),
            (_, None) => "default policy".to_owned(),
        };
        let ahead = match self.source {
            Source::Ahead => "; working ahead",
            Source::Drafters | Source::Oracle => "",
        };
        let asks = match self.asks {
            Asks::Answer => "",
            Asks::Logprobs => "; log-probabilities",
            Asks::Rest => "; resumed",
        };
        format!("{}; {drafts}{ahead}{asks}", self.sampling.name())
    }

    /// Whether the policy may choose not to draft; a server's default may, too.
    pub(super) fn is_adaptive(&self) -> bool {
        let chooses = matches!(self.policy, None | Some(PolicySpec::Auto));
        chooses && self.source != Source::Oracle
    }

    /// Whether log-probabilities are compared, too.
    pub(super) fn compares_logprobs(&self) -> bool {
        self.asks == Asks::Logprobs
    }

    /// Where the `number`-th run goes on with the plain one: at its beginning, or where it is
    /// resumed. A plain run that came in one piece has no other place than its beginning.
    pub(super) fn cut(&self, plain: &Generated, number: usize) -> Cut {
        if self.asks != Asks::Rest {
            return Cut::default();
        }
        let whole = plain.token_ids.len();
        let inner: Vec<Cut> = (plain.cuts.iter().copied())
            .filter(|cut| cut.tokens < whole)
            .collect();
        let mut random = ChaCha8Rng::seed_from_u64(number as u64);
        inner.choose(&mut random).copied().unwrap_or_default()
    }

    /// The request whose plain form is `asked`, as the `number`-th of this setting; it goes on
    /// with `plain` after `tokens` tokens.
    pub(super) fn request(
        &self,
        asked: &GenerateRequest,
        number: usize,
        (plain, tokens): (&Generated, usize),
    ) -> GenerateRequest {
        GenerateRequest {
            request_id: format!("{} #{number}", self.name()),
            speculation: Some(speculation(self.policy)),
            logprobs: asked.logprobs.filter(|_| self.compares_logprobs()),
            resume: plain.resume(tokens).filter(|_| tokens > 0),
            ..asked.clone()
        }
    }
}
