//! Flags that describe a generation, and the request that they make.

use clap::Args;
use dssd_common::policy::PolicySpec;
use dssd_proto::v1::{GenerateRequest, Speculation, SpeculationMode, generate_request::Prompt};

/// How tokens are chosen, and when the text ends.
#[derive(Args, Clone, Debug)]
pub(crate) struct RequestArgs {
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_new_tokens: u32,
    /// Divides the logits; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Keep only the N most likely tokens; 0 keeps all
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Keep the fewest tokens whose probabilities reach P
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Keep tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Key of the sampling noise; the same one gives the same text again
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End where this text appears; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after the model's end-of-sequence token
    #[arg(long)]
    ignore_eos: bool,
    /// How to draft: off, fixed:HEAD:TOKENS, entropy:NATS; the server's default if unset
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<PolicySpec>,
    /// Tell every round on stderr: what was drafted, accepted and corrected
    #[arg(long)]
    pub(crate) trace: bool,
}

impl RequestArgs {
    /// The request that these flags make of a prompt.
    pub(crate) fn request(&self, prompt: &str) -> GenerateRequest {
        GenerateRequest {
            prompt: Some(Prompt::Text(prompt.to_owned())),
            max_new_tokens: Some(self.max_new_tokens),
            temperature: Some(self.temperature),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
            stop_strings: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            speculation: Some(speculation(self.policy)),
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
