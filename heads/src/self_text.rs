//! Text that the model writes itself: self-supervision needs no corpus.

use crate::{Error, Result, backbone::Backbone};
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

/// What to write.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfTextSettings {
    /// Tokens in all, at least.
    pub tokens: usize,
    /// Sampling temperatures, taken in turn by the documents.
    pub temperatures: Vec<f32>,
    /// Most tokens of a document.
    pub longest: usize,
    /// Seed of the first document; the others count up from it.
    pub seed: u64,
}

#[derive(Serialize)]
struct Record<'a> {
    token_ids: &'a [u32],
    temperature: f32,
}

/// A document that is being written.
struct Writing {
    sequence: SequenceId,
    sampler: Sampler,
    history: History,
    temperature: f32,
}

/// Lets the model write documents, from its begin token to its end token, into a JSON-lines
/// file of `token_ids`. `observer` hears the tokens written so far.
///
/// # Errors
/// If the model has no token to begin with, a setting is out of range, or the file cannot be
/// written.
pub fn write_self_text(
    checkpoint: &Checkpoint,
    threads: usize,
    settings: &SelfTextSettings,
    path: &Path,
    observer: &mut dyn FnMut(usize),
) -> Result<()> {
    let mut author = Author::new(checkpoint, threads, settings)?;
    // The file appears whole or not at all: a cut one would pass for a short one.
    let partial = path.with_extension("partial");
    let io = |error| Error::io(&partial, error);
    let mut file = BufWriter::new(File::create(&partial).map_err(io)?);
    let mut written = 0;
    while written < settings.tokens {
        for document in author.step()? {
            written += document.history.len();
            let record = Record {
                token_ids: document.history.tokens(),
                temperature: document.temperature,
            };
            serde_json::to_writer(&mut file, &record)
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

struct Author<'a> {
    settings: &'a SelfTextSettings,
    backbone: Backbone,
    begin: u32,
    ends: Vec<u32>,
    writing: Vec<Writing>,
    begun: u64,
    scratch: Scratch,
}

impl<'a> Author<'a> {
    fn new(
        checkpoint: &Checkpoint,
        threads: usize,
        settings: &'a SelfTextSettings,
    ) -> Result<Self> {
        let positions = checkpoint.config().max_positions;
        if !(2..=positions).contains(&settings.longest) {
            let reason = format!("is {}, must be 2 to {positions}", settings.longest);
            return Err(Error::setting("window", reason));
        }
        if settings.temperatures.is_empty() {
            return Err(Error::setting("self-temperature", "names no temperature"));
        }
        let defaults = checkpoint.generation_defaults();
        let begin = defaults
            .bos_token_id
            .or(defaults.eos_token_ids.first().copied())
            .ok_or_else(|| {
                Error::setting(
                    "self",
                    "the model names no token that begins a text; give --text",
                )
            })?;
        let kernels = std::sync::Arc::new(dssd_common::kernels::Kernels::new(threads));
        Ok(Self {
            backbone: Backbone::load(checkpoint, kernels, &[], AT_ONCE, settings.longest)?,
            begin,
            ends: defaults.eos_token_ids.clone(),
            writing: Vec::new(),
            begun: 0,
            scratch: Scratch::default(),
            settings,
        })
    }

    /// One more token for every open document; returns those that are finished.
    fn step(&mut self) -> Result<Vec<Writing>> {
        while self.writing.len() < AT_ONCE {
            let document = self.open()?;
            self.writing.push(document);
        }
        let (decoder, kv) = self.backbone.parts();
        let spans: Vec<Span<'_>> = self
            .writing
            .iter()
            .map(|document| Span {
                sequence: document.sequence,
                end: document.history.len(),
                tokens: &document.history.tokens()[document.history.len() - 1..],
            })
            .collect();
        let states = decoder.advance(kv, 0, &spans)?.to_vec();
        let mut logits = Vec::new();
        decoder.logits(&states, &mut logits);
        let vocabulary = decoder.vocabulary();
        for (document, row) in self.writing.iter_mut().zip(logits.chunks(vocabulary)) {
            let token = document
                .sampler
                .choose(row, &document.history, &mut self.scratch)?;
            document.history.push(token);
        }
        let ends = &self.ends;
        let longest = self.settings.longest;
        let is_finished = |document: &mut Writing| {
            let last = document.history.tokens().last();
            document.history.len() >= longest || last.is_some_and(|token| ends.contains(token))
        };
        let finished: Vec<Writing> = self.writing.extract_if(.., is_finished).collect();
        for document in &finished {
            kv.close(document.sequence);
        }
        Ok(finished)
    }

    fn open(&mut self) -> Result<Writing> {
        let index = self.begun as usize % self.settings.temperatures.len();
        let temperature = self.settings.temperatures[index];
        let params = SamplingParams {
            temperature,
            seed: self.settings.seed.wrapping_add(self.begun),
            ..SamplingParams::default()
        };
        self.begun += 1;
        let (decoder, kv) = self.backbone.parts();
        Ok(Writing {
            sampler: Sampler::new(params, decoder.vocabulary(), Vec::new())?,
            sequence: kv.open(self.settings.longest)?,
            history: History::new(&[self.begin], &[]),
            temperature,
        })
    }
}
