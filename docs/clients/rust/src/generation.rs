//! What has come of one generation, and what another attempt needs to go on.

use dssd_proto::v1::{FinishInfo, GenerateRequest, PromptInfo, Resume, Tokens};
use tonic::Status;

pub(crate) struct Generation {
    first: GenerateRequest,
    token_ids: Vec<u32>,
    info: Option<PromptInfo>,
    finish: Option<FinishInfo>,
}

impl Generation {
    pub(crate) fn new(first: GenerateRequest) -> Self {
        Self {
            first,
            token_ids: Vec::new(),
            info: None,
            finish: None,
        }
    }

    /// Tokens so far.
    pub(crate) fn len(&self) -> usize {
        self.token_ids.len()
    }

    pub(crate) fn finish(&self) -> Option<&FinishInfo> {
        self.finish.as_ref()
    }

    /// The request of the next attempt.
    pub(crate) fn request(&self) -> GenerateRequest {
        let resume = self.info.as_ref().map(|info| Resume {
            token_ids: self.token_ids.clone(),
            seed: info.sampling.as_ref().map_or(0, |sampling| sampling.seed),
            numerics_id: info.numerics_id.clone(),
        });
        GenerateRequest {
            resume,
            ..self.first.clone()
        }
    }

    pub(crate) fn begin(&mut self, info: PromptInfo) {
        self.info = Some(info);
    }

    /// Appends new tokens; a gap would spoil the text.
    pub(crate) fn take(&mut self, tokens: Tokens) -> Result<(), Status> {
        if tokens.first_index as usize != self.len() {
            return Err(Status::data_loss(format!(
                "token {} came, not {}",
                tokens.first_index,
                self.len()
            )));
        }
        self.token_ids.extend(tokens.token_ids);
        Ok(())
    }

    pub(crate) fn end(&mut self, finish: FinishInfo) {
        self.finish = Some(finish);
    }

    /// Whether all tokens came: where only `finish_info` was lost, there is nothing to resume.
    pub(crate) fn is_complete(&self) -> bool {
        let sampling = self.info.as_ref().and_then(|info| info.sampling.as_ref());
        let all_came = sampling
            .zip(self.token_ids.last())
            .is_some_and(|(sampling, last)| {
                self.len() >= sampling.max_new_tokens as usize
                    || sampling.stop_token_ids.contains(last)
            });
        self.finish.is_some() || all_came
    }
}
