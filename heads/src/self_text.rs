//! Text that the model writes itself: self-supervision needs no corpus.

use crate::{
    Error, Result,
    backbone::{Backbone, Machine},
};
use dssd_common::{
    checkpoint::Checkpoint,
    kv::SequenceId,
    model::Span,
    sampling::{History, Sampler, SamplingParams, Scratch},
};
use serde::Serialize;
use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

/// Documents written at once: a pass of many rows costs little more than one of few.
const AT_ONCE: usize = 32;

/// How to write.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfTextSettings {
    /// Sampling temperatures, taken in turn by the documents.
    pub temperatures: Vec<f32>,
    /// Most tokens of a document.
    pub longest: usize,
    /// Seed of the first document; the others count up from it.
    pub seed: u64,
}

/// A document that the model wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Written {
    /// Number of the prompt.
    pub prompt: u64,
    /// Prompt and continuation.
    pub token_ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_length: usize,
    /// Sampling temperature.
    pub temperature: f32,
}

/// A document that is being written.
struct Writing {
    prompt: u64,
    sequence: SequenceId,
    sampler: Sampler,
    history: History,
    temperature: f32,
}

/// Lets the model write documents of at least `tokens` tokens in all, from its begin token to
/// its end token, into a JSON-lines file of `token_ids`. `observer` hears the tokens so far.
///
/// # Errors
/// If the model has no token to begin with, a setting is out of range, or the file cannot be
/// written.
pub fn write_self_text(
    checkpoint: &Checkpoint,
    machine: &Machine,
    settings: &SelfTextSettings,
    tokens: usize,
    path: &Path,
    observer: &mut dyn FnMut(usize),
) -> Result<()> {
    let defaults = checkpoint.generation_defaults();
    let begin = defaults
        .bos_token_id
        .or(defaults.eos_token_ids.first().copied())
        .ok_or_else(|| {
            let reason = "the model names no token that begins a text; give --text";
            Error::setting("self", reason)
        })?;
    let prompts = std::iter::repeat(vec![begin]);
    let mut author = Author::new(checkpoint, machine, settings, Box::new(prompts))?;
    // The file appears whole or not at all: a cut one would pass for a short one.
    let partial = path.with_extension("partial");
    let io = |error| Error::io(&partial, error);
    let mut file = BufWriter::new(File::create(&partial).map_err(io)?);
    let mut written = 0;
    while written < tokens {
        for document in author.step()? {
            written += document.token_ids.len();
            serde_json::to_writer(&mut file, &document)
                .map_err(std::io::Error::from)
                .and_then(|()| file.write_all(b"\n"))
                .map_err(io)?;
        }
        observer(written);
    }
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(&partial, path))
        .map_err(io)
}

/// Lets the model continue prompts, each to its end token or to the longest length.
/// `observer` hears the prompts that are done.
///
/// # Errors
/// If a setting is out of range, or a prompt leaves no room.
pub fn continuations(
    checkpoint: &Checkpoint,
    machine: &Machine,
    settings: &SelfTextSettings,
    prompts: Vec<Vec<u32>>,
    observer: &mut dyn FnMut(usize),
) -> Result<Vec<Written>> {
    let mut author = Author::new(checkpoint, machine, settings, Box::new(prompts.into_iter()))?;
    let mut written = Vec::new();
    while !author.is_done() {
        written.extend(author.step()?);
        observer(written.len());
    }
    Ok(written)
}

struct Author<'a> {
    settings: &'a SelfTextSettings,
    backbone: Backbone,
    prompts: Box<dyn Iterator<Item = Vec<u32>> + 'a>,
    next: Option<Vec<u32>>,
    ends: Vec<u32>,
    writing: Vec<Writing>,
    begun: u64,
    scratch: Scratch,
}

impl<'a> Author<'a> {
    fn new(
        checkpoint: &Checkpoint,
        machine: &Machine,
        settings: &'a SelfTextSettings,
        mut prompts: Box<dyn Iterator<Item = Vec<u32>> + 'a>,
    ) -> Result<Self> {
        let positions = checkpoint.config().max_positions;
        if !(2..=positions).contains(&settings.longest) {
            let reason = format!("is {}, must be 2 to {positions}", settings.longest);
            return Err(Error::setting("window", reason));
        }
        if settings.temperatures.is_empty() {
            return Err(Error::setting("temperature", "names no temperature"));
        }
        Ok(Self {
            backbone: Backbone::load(checkpoint, machine, &[], AT_ONCE, settings.longest)?,
            next: prompts.next(),
            prompts,
            ends: checkpoint.generation_defaults().eos_token_ids.clone(),
            writing: Vec::new(),
            begun: 0,
            scratch: Scratch::default(),
            settings,
        })
    }

    fn is_done(&self) -> bool {
        self.next.is_none() && self.writing.is_empty()
    }

    /// One more token for every open document; returns those that are finished.
    fn step(&mut self) -> Result<Vec<Written>> {
        while self.writing.len() < AT_ONCE
            && let Some(prompt) = self.next.take()
        {
            let document = self.open(&prompt)?;
            self.writing.push(document);
            self.next = self.prompts.next();
        }
        self.choose()?;
        let (ends, longest) = (&self.ends, self.settings.longest);
        let is_finished = |document: &mut Writing| {
            let last = document.history.tokens().last();
            document.history.len() >= longest || last.is_some_and(|token| ends.contains(token))
        };
        let finished: Vec<Writing> = self.writing.extract_if(.., is_finished).collect();
        let (_, kv) = self.backbone.parts();
        let written = finished.into_iter().map(|document| {
            kv.close(document.sequence);
            Written {
                prompt: document.prompt,
                token_ids: document.history.tokens().to_vec(),
                prompt_length: document.history.prompt_len(),
                temperature: document.temperature,
            }
        });
        Ok(written.collect())
    }

    fn choose(&mut self) -> Result<()> {
        let (decoder, kv) = self.backbone.parts();
        let spans: Vec<Span<'_>> = self
            .writing
            .iter()
            .map(|document| Span {
                sequence: document.sequence,
                end: document.history.len(),
                tokens: &document.history.tokens()[kv.len(document.sequence, 0)..],
            })
            .collect();
        let rows: Vec<usize> = spans.iter().map(|span| span.tokens.len()).collect();
        let states = decoder.advance(kv, 0, &spans)?.to_vec();
        let hidden = decoder.config().hidden;
        let mut end = 0;
        let last_rows = rows.iter().flat_map(|count| {
            end += count * hidden;
            &states[end - hidden..end]
        });
        let last_rows: Vec<f32> = last_rows.copied().collect();
        let mut logits = Vec::new();
        decoder.logits(&last_rows, &mut logits)?;
        let vocabulary = decoder.vocabulary();
        for (document, row) in self.writing.iter_mut().zip(logits.chunks(vocabulary)) {
            let token = document
                .sampler
                .choose(row, &document.history, &mut self.scratch)?;
            document.history.push(token);
        }
        Ok(())
    }

    fn open(&mut self, prompt: &[u32]) -> Result<Writing> {
        if prompt.is_empty() || prompt.len() >= self.settings.longest {
            let reason = format!(
                "a prompt of {} tokens leaves no room in {}",
                prompt.len(),
                self.settings.longest
            );
            return Err(Error::setting("window", reason));
        }
        let index = self.begun as usize % self.settings.temperatures.len();
        let temperature = self.settings.temperatures[index];
        let params = SamplingParams {
            temperature,
            seed: self.settings.seed.wrapping_add(self.begun),
            ..SamplingParams::default()
        };
        let number = self.begun;
        self.begun += 1;
        let (decoder, kv) = self.backbone.parts();
        Ok(Writing {
            prompt: number,
            sampler: Sampler::new(params, decoder.vocabulary(), Vec::new())?,
            sequence: kv.open(self.settings.longest)?,
            history: History::new(prompt, &[]),
            temperature,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dssd_common::serve::open_model;

    #[test]
    fn the_model_writes_the_same_documents_again_and_continues_prompts_greedily() {
        let (checkpoint, _) = open_model(None).unwrap();
        let settings = SelfTextSettings {
            temperatures: vec![0.0, 1.0],
            longest: 24,
            seed: 5,
        };
        let prompts: Vec<Vec<u32>> = (1..40).map(|i| vec![0, 300 + i, 40, 50 + i]).collect();
        let write = |threads| {
            let prompts = prompts.clone();
            continuations(
                &checkpoint,
                &Machine::cpu(threads),
                &settings,
                prompts,
                &mut |_| (),
            )
            .unwrap()
        };
        let (once, again) = (write(1), write(2));
        assert_eq!(once, again);
        assert_eq!(once.len(), prompts.len());
        for document in &once {
            assert!(prompts.contains(&document.token_ids[..4].to_vec()));
            let ended = document.token_ids.last() == Some(&0);
            assert!(document.token_ids.len() == 24 || ended);
        }
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("self.jsonl");
        write_self_text(
            &checkpoint,
            &Machine::cpu(2),
            &settings,
            300,
            &path,
            &mut |_| (),
        )
        .unwrap();
        let corpus = crate::corpus::Corpus::open(&[path])
            .unwrap()
            .next_document()
            .unwrap();
        let Some(crate::corpus::Document::Tokens(ids)) = corpus else {
            panic!("no tokens: {corpus:?}");
        };
        assert!(ids.len() <= 24 && ids[0] == 0);
    }
}
