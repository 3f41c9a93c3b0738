//! What every head said at every position, beside what the whole model said.

use crate::{Error, Result, backbone::Backbone};
use dssd_common::{
    entropy::Summary,
    exit::ExitHeads,
    sampling::{History, Sampler, SamplingParams, Scratch},
};
use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

/// Windows in one pass of the model.
const WINDOWS_AT_ONCE: usize = 8;

/// Positions as columns.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Temperatures of [`HeadSamples::accepted`]; 0 is greedy.
    pub temperatures: Vec<f64>,
    /// The document of each position, ascending.
    pub documents: Vec<u32>,
    /// Nats that the whole model gives the text's next token: −ln of its probability.
    pub surprisal: Vec<f32>,
    /// One for each head, from shallow to deep.
    pub heads: Vec<HeadSamples>,
}

/// One head, position by position. Scores are of its raw logits at temperature 1.
#[derive(Clone, Debug, Default)]
pub struct HeadSamples {
    /// Layers that run before the head.
    pub layer: usize,
    /// Nats.
    pub entropy: Vec<f32>,
    /// Probability of the arg-max.
    pub max_probability: Vec<f32>,
    /// Its distance from the runner-up.
    pub margin_probability: Vec<f32>,
    /// The same between logits.
    pub margin_logit: Vec<f32>,
    /// Whether its arg-max is the whole model's.
    pub agrees: Vec<bool>,
    /// Nats that the head gives the text's next token.
    pub surprisal: Vec<f32>,
    /// KL(whole model ‖ head), in nats.
    pub divergence: Vec<f32>,
    /// For each temperature, whether its coupled choice is the whole model's.
    pub accepted: Vec<Vec<bool>>,
}

/// A window of one document; positions before `first` are context only.
pub struct Window {
    /// Number of the document.
    pub document: u32,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The first position that counts.
    pub first: usize,
}

impl Samples {
    /// Positions.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Documents with the number of their positions among `positions`, ascending.
    pub fn lengths(&self, positions: &[usize]) -> Vec<(u32, usize)> {
        let mut lengths: Vec<(u32, usize)> = Vec::new();
        for &position in positions {
            let document = self.documents[position];
            match lengths.last_mut() {
                Some((last, length)) if *last == document => *length += 1,
                _ => lengths.push((document, 1)),
            }
        }
        lengths
    }

    /// Writes one line for each position and head, as comma-separated values.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn dump(&self, path: &Path) -> Result<()> {
        self.write_rows(path)
            .map_err(|error| Error::io(path, error))
    }

    fn write_rows(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        write!(
            file,
            "document,position,layer,entropy,max_probability,margin_probability,margin_logit,agrees"
        )?;
        for temperature in &self.temperatures {
            write!(file, ",accepted_at_{temperature}")?;
        }
        writeln!(file)?;
        for (position, document) in self.documents.iter().enumerate() {
            for head in &self.heads {
                write!(
                    file,
                    "{document},{position},{},{},{},{},{},{}",
                    head.layer,
                    head.entropy[position],
                    head.max_probability[position],
                    head.margin_probability[position],
                    head.margin_logit[position],
                    u8::from(head.agrees[position])
                )?;
                for accepted in &head.accepted {
                    write!(file, ",{}", u8::from(accepted[position]))?;
                }
                writeln!(file)?;
            }
        }
        file.flush()
    }
}

impl HeadSamples {
    /// Entropy and agreement at some positions.
    pub fn pairs(&self, positions: &[usize]) -> Vec<(f32, bool)> {
        let at = |&position: &usize| (self.entropy[position], self.agrees[position]);
        positions.iter().map(at).collect()
    }

    fn push(&mut self, summary: &Summary, agrees: bool) {
        // An invalid row is infinitely uncertain, which JSON cannot say.
        self.entropy.push(summary.entropy.min(f32::MAX));
        self.max_probability.push(summary.max_probability);
        self.margin_probability.push(summary.margin_probability);
        self.margin_logit.push(summary.margin_logit);
        self.agrees.push(agrees && summary.valid);
    }
}

/// Runs the model and its heads over windows. The noise of a document is keyed by `seed` and its
/// number. `observer` hears the positions so far.
///
/// # Errors
/// If the heads do not fit the model, or a window does not.
pub fn collect(
    backbone: &mut Backbone,
    heads: &ExitHeads,
    windows: &[Window],
    temperatures: &[f64],
    seed: u64,
    observer: &mut dyn FnMut(usize),
) -> Result<Samples> {
    backbone.decoder().attach_heads(heads, None)?;
    let empty = |head: &dssd_common::exit::ExitHead| HeadSamples {
        layer: head.layer,
        accepted: vec![Vec::new(); temperatures.len()],
        ..HeadSamples::default()
    };
    let mut collector = Collector {
        seed,
        samples: Samples {
            temperatures: temperatures.to_vec(),
            heads: heads.heads.iter().map(empty).collect(),
            ..Samples::default()
        },
        scratch: Scratch::default(),
    };
    for windows in windows.chunks(WINDOWS_AT_ONCE) {
        collector.pass(backbone, windows)?;
        observer(collector.samples.len());
    }
    Ok(collector.samples)
}

struct Collector {
    seed: u64,
    samples: Samples,
    scratch: Scratch,
}

impl Collector {
    fn pass(&mut self, backbone: &mut Backbone, windows: &[Window]) -> Result<()> {
        let tokens: Vec<&[u32]> = windows.iter().map(|w| w.tokens.as_slice()).collect();
        let pass = backbone.run(&tokens)?;
        let hidden = backbone.decoder().config().hidden;
        let mut row = 0;
        for window in windows {
            // Behind the last token nothing is drafted: it ends the text, or the window.
            let rows = (row + window.first) * hidden..(row + window.tokens.len() - 1) * hidden;
            row += window.tokens.len();
            let exits: Vec<&[f32]> = pass.exits.iter().map(|e| &e[rows.clone()]).collect();
            self.window(backbone, window, &exits, &pass.last[rows])?;
        }
        Ok(())
    }

    fn window(
        &mut self,
        backbone: &mut Backbone,
        window: &Window,
        exits: &[&[f32]],
        last: &[f32],
    ) -> Result<()> {
        let kernels = backbone.kernels();
        let decoder = backbone.decoder();
        let vocabulary = decoder.vocabulary();
        let next = &window.tokens[window.first + 1..];
        let (mut logits, mut summaries) = (Vec::new(), Vec::new());
        decoder.logits(last, &mut logits)?;
        kernels.summarize(&logits, vocabulary, &mut summaries);
        let wanted = self.choices(window, &logits, vocabulary)?;
        self.samples
            .surprisal
            .extend(surprisals(&logits, &summaries, next));
        let whole = summaries.clone();
        let mut probabilities = std::mem::take(&mut logits);
        kernels.probabilities(&mut probabilities, &log_sum_exps(&whole));
        let mut cross_entropy = vec![0.0; whole.len()];
        for (exit, states) in exits.iter().enumerate() {
            let layer = self.samples.heads[exit].layer;
            decoder.exit_logits(layer, states, &mut logits)?;
            kernels.summarize(&logits, vocabulary, &mut summaries);
            let offered = self.choices(window, &logits, vocabulary)?;
            let head = &mut self.samples.heads[exit];
            head.surprisal.extend(surprisals(&logits, &summaries, next));
            kernels.cross_entropy(
                &probabilities,
                &mut logits,
                &log_sum_exps(&summaries),
                &mut cross_entropy,
            );
            for ((summary, whole), cross_entropy) in
                summaries.iter().zip(&whole).zip(&cross_entropy)
            {
                head.push(summary, summary.argmax == whole.argmax);
                head.divergence.push(cross_entropy - whole.entropy);
            }
            for ((accepted, offered), wanted) in head.accepted.iter_mut().zip(&offered).zip(&wanted)
            {
                accepted.extend(offered.iter().zip(wanted).map(|(a, b)| a == b));
            }
        }
        let positions = window.tokens.len() - 1 - window.first;
        self.samples
            .documents
            .extend(std::iter::repeat_n(window.document, positions));
        Ok(())
    }

    /// For each temperature, the coupled choice at each position that counts.
    fn choices(
        &mut self,
        window: &Window,
        logits: &[f32],
        vocabulary: usize,
    ) -> Result<Vec<Vec<u32>>> {
        let mut all = Vec::with_capacity(self.samples.temperatures.len());
        for &temperature in &self.samples.temperatures {
            let params = SamplingParams {
                temperature: temperature as f32,
                seed: self.seed.wrapping_add(window.document.into()),
                ..SamplingParams::default()
            };
            let sampler = Sampler::new(params, vocabulary, Vec::new())?;
            let mut history = History::new(&window.tokens[..window.first], &[]);
            let mut chosen = Vec::new();
            for (row, &token) in logits
                .chunks(vocabulary)
                .zip(&window.tokens[window.first..])
            {
                history.push(token);
                chosen.push(sampler.choose(row, &history, &mut self.scratch)?);
            }
            all.push(chosen);
        }
        Ok(all)
    }
}

fn log_sum_exps(summaries: &[Summary]) -> Vec<f32> {
    summaries.iter().map(|row| row.log_sum_exp).collect()
}

/// −ln of the probability of each row's next token, in nats.
fn surprisals(logits: &[f32], summaries: &[Summary], next: &[u32]) -> impl Iterator<Item = f32> {
    let vocabulary = logits.len() / summaries.len().max(1);
    let rows = logits.chunks(vocabulary.max(1)).zip(summaries).zip(next);
    rows.map(|((row, summary), &token)| summary.log_sum_exp - row[token as usize])
}
