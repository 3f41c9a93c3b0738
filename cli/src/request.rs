//! Flags that describe a generation, and the request that they make.

use clap::Args;
use dssd_common::policy::PolicySpec;
use dssd_proto::v1::{GenerateRequest, Speculation, SpeculationMode, generate_request::Prompt};

/// How tokens are chosen, when the text ends, and how it is drafted.
#[derive(Args, Clone, Debug)]
pub(crate) struct RequestArgs {
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    end: EndArgs,
    /// Report the log-probability of each token, in nats, and of the N most likely ones beside it
    /// (0: of the token alone); needs --json
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<u32>,
    /// How to draft: off, auto, fixed:HEAD:TOKENS, entropy:NATS, entropy@AGREEMENT, max-prob:HEAD:P, adaedl:HEAD, product:HEAD:P, del; the server's default if unset
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<PolicySpec>,
    /// Most tokens of a draft, whatever the policy; 0: no drafts. The server's limit if unset
    #[arg(long, value_name = "N")]
    max_draft_tokens: Option<u32>,
    /// Tell every round on stderr: what was drafted, accepted and corrected
    #[arg(long)]
    pub(crate) trace: bool,
}

/// How tokens are chosen; in the order in which the settings apply to the logits.
#[derive(Args, Clone, Debug)]
struct SamplingArgs {
    /// Divide positive logits of tokens in prompt or text by F, and multiply negative ones; above
    /// 0, 1 is off
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Subtract X from the logits of tokens that were generated; -2 to 2, 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtract X from the logit of a token for each time that it was generated; -2 to 2, 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Add VALUE to the logit of token ID; may be given several times
    #[arg(long, value_name = "ID:VALUE", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Divide the logits by T; 0 always takes the most likely token
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    temperature: f32,
    /// Keep only the N most likely tokens; 0 keeps all
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Keep the fewest tokens whose probabilities reach P; above 0, 1 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens at least P times as likely as the most likely one; 0 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Key of the sampling noise; the same one gives the same text again. Drawn if unset
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// When the text ends.
#[derive(Args, Clone, Debug)]
struct EndArgs {
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// Let no stop token end the text before this many tokens
    #[arg(long, value_name = "N")]
    min_new_tokens: Option<u32>,
    /// End where this text appears; may be given several times
    #[arg(long, value_name = "TEXT", visible_alias = "stop")]
    stop_string: Vec<String>,
    /// Keep the stop string that ended the text
    #[arg(long)]
    include_stop_strings: bool,
    /// End after the token with this id; may be given several times
    #[arg(long, value_name = "ID")]
    stop_token_id: Vec<u32>,
    /// Go on after the model's end-of-sequence token
    #[arg(long)]
    ignore_eos: bool,
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parse = || {
        let (id, value) = text.split_once(':')?;
        Some((id.parse().ok()?, value.parse().ok()?))
    };
    parse().ok_or_else(|| "must be ID:VALUE, such as 13:-1.5".to_owned())
}

impl RequestArgs {
    /// The request that these flags make of a prompt.
    pub(crate) fn request(&self, prompt: &str) -> GenerateRequest {
        let Self { sampling, end, .. } = self;
        GenerateRequest {
            prompt: Some(Prompt::Text(prompt.to_owned())),
            temperature: Some(sampling.temperature),
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            seed: sampling.seed,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            logit_bias: sampling.logit_bias.iter().copied().collect(),
            max_new_tokens: Some(end.max_new_tokens),
            min_new_tokens: end.min_new_tokens,
            stop_strings: end.stop_string.clone(),
            stop_token_ids: end.stop_token_id.clone(),
            include_stop_strings: end.include_stop_strings,
            ignore_eos: end.ignore_eos,
            logprobs: self.logprobs,
            speculation: Some(Speculation {
                max_draft_tokens: self.max_draft_tokens,
                ..speculation(self.policy)
            }),
            ..GenerateRequest::default()
        }
    }
}

/// A policy as a request says it; none leaves it to the server.
pub(crate) fn speculation(policy: Option<PolicySpec>) -> Speculation {
    let mode = match policy {
        Some(PolicySpec::Off) => SpeculationMode::Off,
        _ => SpeculationMode::Auto,
    };
    let policy = policy.filter(|policy| *policy != PolicySpec::Off);
    Speculation {
        mode: mode.into(),
        policy: policy.map_or_else(String::new, |policy| policy.to_string()),
        ..Speculation::default()
    }
}
