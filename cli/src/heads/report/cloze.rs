//! A cloze task: which of several endings is the likeliest, by the whole model and early exits.

use super::early_exit::early_exit;
use crate::client::{Client, failure};
use anyhow::{Context as _, Result, bail, ensure};
use dssd_heads::{
    corpus::{Document, Encoder},
    interval::{self, Estimate},
};
use dssd_proto::v1::{ScoreRequest, Speculation, TokenIds, score_request::Prompt};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A line of the file.
#[derive(Deserialize)]
struct Question {
    prompt: String,
    choices: Vec<String>,
    /// Index of the right choice.
    answer: usize,
}

/// Accuracy by the summed log-probability of each choice.
#[derive(Serialize)]
pub(super) struct ClozeReport {
    pub(super) questions: usize,
    pub(super) whole_model: Estimate,
    pub(super) early_exit: Vec<ClozeRow>,
}

/// Accuracy under early exits.
#[derive(Serialize)]
pub(super) struct ClozeRow {
    pub(super) epsilon: f64,
    #[serde(flatten)]
    pub(super) accuracy: Estimate,
}

/// Questions as token ids.
pub(super) struct Cloze {
    questions: Vec<Tokens>,
    /// Of the intervals.
    seed: u64,
}

struct Tokens {
    /// Prompt and choice, and the index of the first token that is the choice's own.
    choices: Vec<(Vec<u32>, usize)>,
    answer: usize,
}

impl Cloze {
    /// Reads JSON lines with `prompt`, `choices` and `answer`; `end` is the model's token that
    /// ends a text, `seed` that of intervals.
    ///
    /// # Errors
    /// Names the line that is unfit.
    pub(super) fn read(
        path: &Path,
        encoder: &Encoder,
        end: Option<u32>,
        seed: u64,
    ) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty());
        let questions: Vec<Tokens> = lines
            .map(|(index, line)| {
                let place = || format!("{}, line {}", path.display(), index + 1);
                let question = serde_json::from_str(line).with_context(place)?;
                tokens(&question, encoder, end).with_context(place)
            })
            .collect::<Result<_>>()?;
        ensure!(
            !questions.is_empty(),
            "{}: no question in it",
            path.display()
        );
        Ok(Self { questions, seed })
    }

    /// Asks the server at every target.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) async fn ask(&self, client: &Client, epsilons: &[f64]) -> Result<ClozeReport> {
        let mut early = Vec::new();
        for &epsilon in epsilons {
            let accuracy = self.accuracy(client, Some(early_exit(epsilon))).await?;
            early.push(ClozeRow { epsilon, accuracy });
        }
        Ok(ClozeReport {
            questions: self.questions.len(),
            whole_model: self.accuracy(client, None).await?,
            early_exit: early,
        })
    }

    async fn accuracy(
        &self,
        client: &Client,
        speculation: Option<Speculation>,
    ) -> Result<Estimate> {
        let mut right = Vec::with_capacity(self.questions.len());
        for question in &self.questions {
            let mut best: Option<(usize, f64)> = None;
            for (index, (tokens, first)) in question.choices.iter().enumerate() {
                let score = score(client, tokens, *first, speculation.clone()).await?;
                if best.is_none_or(|(_, most)| score > most) {
                    best = Some((index, score));
                }
            }
            let chosen = best.map(|(index, _)| index);
            right.push(u32::from(chosen == Some(question.answer)));
        }
        let trials = vec![1; right.len()];
        interval::ratio(&right, &trials, self.seed).context("no question")
    }
}

/// Summed log-probability, in nats, of the tokens from index `first` on.
async fn score(
    client: &Client,
    tokens: &[u32],
    first: usize,
    speculation: Option<Speculation>,
) -> Result<f64> {
    let request = ScoreRequest {
        prompt: Some(Prompt::TokenIds(TokenIds {
            ids: tokens.to_vec(),
        })),
        first_index: Some(first as u32),
        speculation,
        ..ScoreRequest::default()
    };
    let response = client.server().score(request).await;
    let response = response.map_err(|status| failure(&status))?.into_inner();
    let logprobs = response.logprobs.iter();
    Ok(logprobs.map(|entry| f64::from(entry.logprob)).sum())
}

fn tokens(question: &Question, encoder: &Encoder, end: Option<u32>) -> Result<Tokens> {
    let Question {
        prompt,
        choices,
        answer,
    } = question;
    if choices.len() < 2 || *answer >= choices.len() {
        bail!("`choices` must be two or more, and `answer` the index of one of them");
    }
    let encode = |text: String| {
        let mut ids = encoder.encode(&Document::Text(text))?;
        ids.pop_if(|last| Some(*last) == end);
        Ok::<_, dssd_heads::Error>(ids)
    };
    let of_prompt = encode(prompt.clone())?;
    let choices = choices.iter().map(|choice| {
        let whole = encode(format!("{prompt}{choice}"))?;
        // A tokenizer may join the prompt's last characters with the choice's first.
        let common = whole.iter().zip(&of_prompt).take_while(|(a, b)| a == b);
        let first = common.count().max(1);
        ensure!(first < whole.len(), "the choice {choice:?} adds no token");
        Ok((whole, first))
    });
    Ok(Tokens {
        choices: choices.collect::<Result<_>>()?,
        answer: *answer,
    })
}
