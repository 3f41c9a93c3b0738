//! A request to generate: every field is checked and resolved here, or refused by its path.

use super::prompt::{Prompt, check_logprobs, no_tokenizer};
use crate::{
    Error, Result,
    engine::{DraftRequest, EventSender, GenerateRequest, StopRules},
    metrics::Call,
    served::Served,
};
use dssd_common::{
    exit::ExitRule,
    policy::PolicySpec,
    sampling::{SamplingParams, StopMatcher},
    serve::{ClientId, MAX_REQUEST_ID},
};
use dssd_proto::v1::{self, Speculation, SpeculationMode};
use std::{sync::Arc, time::Instant};

/// Longest salt of cached prefixes, in bytes.
const MAX_CACHE_SALT: usize = 256;

/// A checked request.
pub(super) struct CheckedRequest {
    cache_salt: String,
    prompt: Vec<u32>,
    resumed: Vec<u32>,
    sampling: SamplingParams,
    stops: StopRules,
    logprobs: Option<usize>,
    prompt_info: v1::PromptInfo,
    open: v1::Open,
    early_exit: Option<ExitRule>,
    trace: bool,
}

/// The same, for the engine and for the client.
pub(super) struct Admission {
    pub(super) engine: GenerateRequest,
    pub(super) prompt_info: v1::PromptInfo,
}

impl Served {
    pub(super) fn check_generate(
        &self,
        mut request: v1::GenerateRequest,
    ) -> Result<CheckedRequest> {
        let request_id = check_request_id(std::mem::take(&mut request.request_id))?;
        let cache_salt = cache_salt(std::mem::take(&mut request.cache_salt))?;
        let speculation = self.speculation(request.speculation.take())?;
        let early_exit = self.exit_rule(&speculation)?;
        let numerics_id = self.numerics_id(early_exit.as_ref());
        let logprobs = check_logprobs(request.logprobs)?;
        let resume = request.resume.take();
        let seed = seed(request.seed, resume.as_ref(), &numerics_id)?;
        let stops = self.stops(&mut request)?;
        self.check_stoppable(&request, &stops)?;
        let resumed = self.resumed(resume, &stops)?;
        let (field, prompt) = self.prompt(request.prompt.take().map(Prompt::from))?;
        let max_new_tokens = self.max_new_tokens(&request, field, prompt.len(), resumed.len())?;
        let sampling = sampling_params(&request, seed);
        sampling.validate(self.model.vocabulary_size as usize)?;
        let settings = sampling_settings(&sampling, max_new_tokens, &stops);
        let trace = speculation.trace;
        Ok(CheckedRequest {
            open: self.open(&request_id, prompt.len(), &settings, &speculation),
            prompt_info: v1::PromptInfo {
                request_id,
                prompt_token_count: prompt.len() as u32,
                sampling: Some(settings),
                speculation: Some(speculation),
                numerics_id,
                max_context: self.limits.max_context,
            },
            cache_salt,
            prompt,
            resumed,
            sampling,
            stops,
            logprobs,
            early_exit,
            trace,
        })
    }

    fn stops(&self, request: &mut v1::GenerateRequest) -> Result<StopRules> {
        self.check_ids("stop_token_ids", &request.stop_token_ids)?;
        let strings = std::mem::take(&mut request.stop_strings);
        StopMatcher::new(&strings, request.include_stop_strings)?;
        if !strings.is_empty() && self.tokenizer.is_none() {
            return Err(no_tokenizer("stop_strings", "use `stop_token_ids`"));
        }
        let mut token_ids = std::mem::take(&mut request.stop_token_ids);
        if !request.ignore_eos {
            token_ids.extend(&self.model.eos_token_ids);
        }
        token_ids.sort_unstable();
        token_ids.dedup();
        Ok(StopRules {
            token_ids,
            strings,
            include: request.include_stop_strings,
        })
    }

    /// Refuses `min_new_tokens` where every token would end the generation: none could be chosen.
    fn check_stoppable(&self, request: &v1::GenerateRequest, stops: &StopRules) -> Result<()> {
        let all = stops.token_ids.len() >= self.model.vocabulary_size as usize;
        match request.min_new_tokens {
            Some(least) if least > 0 && all => Err(Error::field(
                "min_new_tokens",
                format!("is {least}, but every token of the vocabulary ends the generation"),
            )),
            _ => Ok(()),
        }
    }

    fn resumed(&self, resume: Option<v1::Resume>, stops: &StopRules) -> Result<Vec<u32>> {
        let tokens = resume.map(|resume| resume.token_ids).unwrap_or_default();
        self.check_ids("resume.token_ids", &tokens)?;
        match tokens
            .iter()
            .position(|id| stops.token_ids.binary_search(id).is_ok())
        {
            None => Ok(tokens),
            Some(at) => Err(Error::field(
                format!("resume.token_ids[{at}]"),
                format!("{} ended the generation", tokens[at]),
            )),
        }
    }

    /// Tokens to generate; `prompt_field` is blamed for a prompt that leaves no room.
    fn max_new_tokens(
        &self,
        request: &v1::GenerateRequest,
        prompt_field: &str,
        prompt: usize,
        resumed: usize,
    ) -> Result<usize> {
        let context = self.limits.max_context as usize;
        let room = context.saturating_sub(prompt);
        if prompt == 0 || room == 0 {
            let reason = format!("{prompt} tokens; must be 1 to {}", context - 1);
            return Err(Error::field(prompt_field, reason));
        }
        let default = (self.limits.default_max_new_tokens as usize).min(room);
        let most = request.max_new_tokens.map_or(default, |most| most as usize);
        if !(1..=room).contains(&most) {
            let reason = format!(
                "is {most}; must be 1 to {room}, since the prompt has {prompt} tokens and the context {context}"
            );
            return Err(Error::field("max_new_tokens", reason));
        }
        if resumed >= most {
            let reason = format!("has {resumed} tokens, and `max_new_tokens` is {most}");
            return Err(Error::field("resume.token_ids", reason));
        }
        let least = request.min_new_tokens.unwrap_or(0) as usize;
        if least > most {
            let reason = format!("is {least}, above `max_new_tokens`, which is {most}");
            return Err(Error::field("min_new_tokens", reason));
        }
        Ok(most)
    }

    /// What a drafter is told; the session adds the tokens.
    fn open(
        &self,
        request_id: &str,
        prompt_length: usize,
        settings: &v1::SamplingSettings,
        speculation: &Speculation,
    ) -> v1::Open {
        v1::Open {
            request_id: request_id.to_owned(),
            checkpoint_fingerprint: self.model.checkpoint_fingerprint.clone(),
            tokenizer_hash: self.model.tokenizer_hash.clone(),
            vocabulary_size: self.model.vocabulary_size,
            token_ids: Vec::new(),
            prompt_length: prompt_length as u32,
            sampling: Some(settings.clone()),
            speculation: Some(speculation.clone()),
            last_epoch: 0,
        }
    }
}

impl CheckedRequest {
    pub(super) fn into_engine_request(
        self,
        client: ClientId,
        deadline: Option<Instant>,
        events: EventSender,
        call: Arc<Call>,
    ) -> Admission {
        let settings = self.open.sampling.as_ref();
        let max_new_tokens = settings.map_or(0, |settings| settings.max_new_tokens as usize);
        let speculation = self.open.speculation.as_ref();
        let max_draft_tokens = speculation
            .filter(|speculation| speculation.mode() == SpeculationMode::Auto)
            .and_then(|speculation| speculation.max_draft_tokens);
        let auto = PolicySpec::Auto.to_string();
        let adaptive = speculation.is_some_and(|speculation| speculation.policy == auto);
        let draft = max_draft_tokens.map(|longest| DraftRequest {
            open: self.open,
            max_draft_tokens: longest as usize,
            adaptive,
        });
        Admission {
            engine: GenerateRequest {
                client,
                request_id: self.prompt_info.request_id.clone(),
                cache_salt: self.cache_salt,
                prompt: self.prompt,
                resumed: self.resumed,
                sampling: self.sampling,
                max_new_tokens,
                stops: self.stops,
                logprobs: self.logprobs,
                draft,
                early_exit: self.early_exit,
                trace: self.trace,
                deadline,
                events,
                call,
            },
            prompt_info: self.prompt_info,
        }
    }
}

fn seed(asked: Option<u64>, resume: Option<&v1::Resume>, numerics_id: &str) -> Result<u64> {
    let Some(resume) = resume else {
        return Ok(asked.unwrap_or_else(rand::random));
    };
    if resume.numerics_id != numerics_id {
        return Err(Error::Precondition {
            subject: "resume.numerics_id",
            expected: numerics_id.to_owned(),
            found: resume.numerics_id.clone(),
        });
    }
    match asked {
        Some(seed) if seed != resume.seed => Err(Error::field(
            "resume.seed",
            format!("is {}, but `seed` is {seed}", resume.seed),
        )),
        _ => Ok(resume.seed),
    }
}

fn check_request_id(asked: String) -> Result<String> {
    match asked.len() {
        0..=MAX_REQUEST_ID => Ok(asked),
        length => Err(Error::field(
            "request_id",
            format!("has {length} bytes; at most {MAX_REQUEST_ID}"),
        )),
    }
}

fn cache_salt(asked: String) -> Result<String> {
    if asked.len() <= MAX_CACHE_SALT {
        return Ok(asked);
    }
    let reason = format!("has {} bytes; at most {MAX_CACHE_SALT}", asked.len());
    Err(Error::field("cache_salt", reason))
}

fn sampling_params(request: &v1::GenerateRequest, seed: u64) -> SamplingParams {
    let neutral = SamplingParams::default();
    SamplingParams {
        temperature: request.temperature.unwrap_or(neutral.temperature),
        top_k: request.top_k.unwrap_or(neutral.top_k),
        top_p: request.top_p.unwrap_or(neutral.top_p),
        min_p: request.min_p.unwrap_or(neutral.min_p),
        seed,
        repetition_penalty: request
            .repetition_penalty
            .unwrap_or(neutral.repetition_penalty),
        presence_penalty: request.presence_penalty.unwrap_or(neutral.presence_penalty),
        frequency_penalty: request
            .frequency_penalty
            .unwrap_or(neutral.frequency_penalty),
        logit_bias: request.logit_bias.iter().map(|(&id, &b)| (id, b)).collect(),
        min_new_tokens: request.min_new_tokens.unwrap_or(neutral.min_new_tokens),
    }
}

fn sampling_settings(
    params: &SamplingParams,
    max_new_tokens: usize,
    stops: &StopRules,
) -> v1::SamplingSettings {
    v1::SamplingSettings {
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        seed: params.seed,
        repetition_penalty: params.repetition_penalty,
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        logit_bias: params.logit_bias.iter().copied().collect(),
        min_new_tokens: params.min_new_tokens,
        max_new_tokens: max_new_tokens as u32,
        stop_token_ids: stops.token_ids.clone(),
    }
}
