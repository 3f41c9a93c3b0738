//! What has arrived of a generation.

use anyhow::{Result, bail};
use dssd_proto::v1::{
    FinishInfo, FinishReason, GenerateRequest, PromptInfo, Resume, TokenLogprobs, Tokens,
};
use std::time::Instant;
use tonic::Status;

/// A whole generation.
pub struct Generated {
    /// Without those that the request resumed from; the same holds for `text` and `logprobs`.
    pub token_ids: Vec<u32>,
    /// All of it.
    pub text: String,
    /// One for each token, or none if the request asked for none.
    pub logprobs: Vec<TokenLogprobs>,
    /// The ends of the messages that the tokens came in.
    pub cuts: Vec<Cut>,
    /// What the newest stream began with.
    pub prompt_info: PromptInfo,
    /// How it ended.
    pub finish: FinishInfo,
    /// How often another stream went on where one was lost.
    pub resumed: u32,
    /// Tokens per second from the first token to the last; 0 for fewer than two arrivals.
    pub tokens_per_second: f64,
}

/// A place in an answer from which it can be resumed: all the text of the tokens before had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Tokens before it.
    pub tokens: usize,
    /// Bytes of their text.
    pub bytes: usize,
}

impl Generated {
    /// What continues this generation after its first `tokens` ones.
    pub fn resume(&self, tokens: usize) -> Option<Resume> {
        Some(Resume {
            token_ids: self.token_ids.get(..tokens)?.to_vec(),
            seed: self.prompt_info.sampling.as_ref()?.seed,
            numerics_id: self.prompt_info.numerics_id.clone(),
        })
    }

    /// Whether another run gave the same tokens and text, and log-probabilities of the same bits.
    pub fn has_answer_of(&self, other: &Self) -> bool {
        let same = |(a, b)| bits(a) == bits(b);
        self.token_ids == other.token_ids
            && self.text == other.text
            && self.logprobs.len() == other.logprobs.len()
            && self.logprobs.iter().zip(&other.logprobs).all(same)
    }
}

/// The numbers of an entry with their exact bits: token, rank, and log-probability of the token
/// itself, then token and log-probability of each likely one.
pub fn bits(entry: &TokenLogprobs) -> Vec<u32> {
    let own = [entry.token_id, entry.rank, entry.logprob.to_bits()];
    let top = entry.top.iter();
    let top = top.flat_map(|top| [top.token_id, top.logprob.to_bits()]);
    own.into_iter().chain(top).collect()
}

/// An unfinished generation.
#[derive(Default)]
pub(super) struct Progress {
    /// Tokens that the request resumed from.
    given: Vec<u32>,
    wants_logprobs: bool,
    token_ids: Vec<u32>,
    text: String,
    logprobs: Vec<TokenLogprobs>,
    cuts: Vec<Cut>,
    prompt_info: Option<PromptInfo>,
    resumed: u32,
    first: Option<(Instant, usize)>,
    last: Option<(Instant, usize)>,
}

impl Progress {
    /// Nothing of `request` yet.
    pub(super) fn of(request: &GenerateRequest) -> Self {
        let resume = request.resume.clone().unwrap_or_default();
        Self {
            given: resume.token_ids,
            wants_logprobs: request.logprobs.is_some(),
            ..Self::default()
        }
    }

    /// Tokens so far, those given with the request included.
    pub(super) fn len(&self) -> usize {
        self.given.len() + self.token_ids.len()
    }

    /// Whether any server took the request.
    pub(super) fn has_begun(&self) -> bool {
        self.prompt_info.is_some()
    }

    /// A stream began, for the first time or again.
    pub(super) fn begin(&mut self, info: PromptInfo) {
        self.resumed += u32::from(self.prompt_info.replace(info).is_some());
    }

    pub(super) fn take(&mut self, tokens: Tokens) -> Result<(), Status> {
        if tokens.first_index as usize != self.len() {
            return Err(Status::data_loss(format!(
                "token {} came where {} was expected",
                tokens.first_index,
                self.len()
            )));
        }
        if self.wants_logprobs && tokens.logprobs.len() != tokens.token_ids.len() {
            return Err(Status::data_loss(format!(
                "{} log-probabilities came with {} tokens",
                tokens.logprobs.len(),
                tokens.token_ids.len()
            )));
        }
        self.token_ids.extend(tokens.token_ids);
        self.text.push_str(&tokens.text);
        self.logprobs.extend(tokens.logprobs);
        self.cuts.push(Cut {
            tokens: self.token_ids.len(),
            bytes: self.text.len(),
        });
        let arrival = (Instant::now(), self.token_ids.len());
        self.first.get_or_insert(arrival);
        self.last = Some(arrival);
        Ok(())
    }

    /// What the next attempt asks for.
    pub(super) fn resume(&self) -> Option<Resume> {
        let info = self.prompt_info.as_ref()?;
        Some(Resume {
            token_ids: [self.given.as_slice(), &self.token_ids].concat(),
            seed: info.sampling.as_ref()?.seed,
            numerics_id: info.numerics_id.clone(),
        })
    }

    /// The end of a generation whose tokens all came, so that there is nothing to resume.
    pub(super) fn only_the_end_is_missing(&self) -> Option<FinishInfo> {
        let sampling = self.prompt_info.as_ref()?.sampling.as_ref()?;
        let stop = self
            .token_ids
            .last()
            .is_some_and(|last| sampling.stop_token_ids.contains(last));
        let finish_reason = match stop {
            true => FinishReason::Stop,
            false if self.len() >= sampling.max_new_tokens as usize => FinishReason::Length,
            false => return None,
        };
        Some(FinishInfo {
            finish_reason: finish_reason.into(),
            generated_token_count: self.len() as u32,
            ..FinishInfo::default()
        })
    }

    pub(super) fn finished(self, finish: FinishInfo) -> Result<Generated> {
        let Some(prompt_info) = self.prompt_info else {
            bail!("the server sent no `prompt_info`");
        };
        let tokens_per_second = match (self.first, self.last) {
            (Some((begin, before)), Some((end, after))) if end > begin => {
                (after - before) as f64 / (end - begin).as_secs_f64()
            }
            _ => 0.0,
        };
        Ok(Generated {
            token_ids: self.token_ids,
            text: self.text,
            logprobs: self.logprobs,
            cuts: self.cuts,
            prompt_info,
            finish,
            resumed: self.resumed,
            tokens_per_second,
        })
    }
}
