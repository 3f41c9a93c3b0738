//! What is checked: ways to sample, each with several ways to draft.

use crate::request::speculation;
use dssd_common::policy::PolicySpec;
use dssd_proto::v1::{GenerateRequest, generate_request::Prompt};
use std::collections::BTreeMap;

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
    /// A drafter that knows the plain run.
    Oracle,
}

/// One row of the report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) sampling: Sampling,
    /// The server's default if `None`.
    policy: Option<PolicySpec>,
    pub(super) source: Source,
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

    /// The request for a prompt; its seed depends on the prompt's index.
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
            Self::Temperature => request.temperature = Some(0.8),
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

impl Setting {
    /// The settings of a check whose drafters have so many exit heads, at least one.
    pub(super) fn all(exit_heads: usize, with_oracle: bool) -> Vec<Self> {
        use Sampling::{Everything, Greedy, Temperature, TopKMinP, TopP};
        let head = |head: usize| head.min(exit_heads - 1);
        let fixed = |h, tokens| {
            let head = head(h);
            Some(PolicySpec::Fixed { head, tokens })
        };
        let entropy = |nats| Some(PolicySpec::Entropy { nats });
        let drafters = |(sampling, policy)| Self {
            sampling,
            policy,
            source: Source::Drafters,
        };
        let oracle = |sampling| Self {
            sampling,
            policy: None,
            source: Source::Oracle,
        };
        let mut settings: Vec<Self> = [
            (Greedy, fixed(0, 2)),
            (Greedy, fixed(2, 5)),
            (Greedy, entropy(2.0)),
            (Temperature, None),
            (Temperature, entropy(3.0)),
            (TopP, fixed(1, 3)),
            (TopKMinP, entropy(2.5)),
            (Everything, fixed(1, 4)),
        ]
        .map(drafters)
        .into();
        if with_oracle {
            settings.extend([Greedy, Everything].map(oracle));
        }
        settings
    }

    /// Its name in the report.
    pub(super) fn name(&self) -> String {
        let drafts = match (self.source, self.policy) {
            (Source::Oracle, _) => "oracle drafter".to_owned(),
            (Source::Drafters, Some(policy)) => policy.to_string(),
            (Source::Drafters, None) => "default policy".to_owned(),
        };
        format!("{}; {drafts}", self.sampling.name())
    }

    /// The request whose plain form is `plain`, as the `number`-th of this setting.
    pub(super) fn request(&self, plain: &GenerateRequest, number: usize) -> GenerateRequest {
        GenerateRequest {
            request_id: format!("{} #{number}", self.name()),
            speculation: Some(speculation(self.policy)),
            ..plain.clone()
        }
    }
}
