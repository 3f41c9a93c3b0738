//! The course of a training: steps, measurements, and a state that survives being killed.

use super::{
    head::{Origin, TrainableHead},
    learning::{Learning, Parameter, learning_on},
    lesson::Lesson,
    material::{Material, PASS_ROWS, windows_at_once},
    optimizer::scheduled,
    quality::{Measured, Quality, Tally, measure},
    settings::{TrainSettings, difference},
    size::{Size, check_room, size},
    state::{self, Progress},
};
use crate::{
    Error, Result,
    backbone::{Backbone, Teacher},
    corpus::{Corpus, Encoder, Windows, held_out},
};
use candle_core::Device;
use dssd_common::exit::ExitHeads;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::{path::Path, time::Instant};

/// What a training tells while it runs.
pub enum Event<'a> {
    /// Before anything large is allocated.
    Sized(Size),
    /// Held-out quality before the first step.
    Began(&'a [Quality]),
    /// After a step: the share of the work that is done, tokens so far, and the divergence of
    /// each head in this step.
    Step {
        /// From 0 to 1.
        done: f64,
        /// Tokens learned from.
        tokens: u64,
        /// Mean KL of each head over the step's tokens, nats.
        kl: &'a [f64],
    },
    /// Held-out quality; the state is on disk after this.
    Measured(&'a [Quality]),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Held-out quality before the first step.
    pub first: Vec<Quality>,
    /// Held-out quality of the heads as they were stored.
    pub last: Vec<Quality>,
    /// Tokens learned from.
    pub tokens: u64,
    /// Seconds, over all parts of the training.
    pub seconds: f64,
    /// Whether it ended because nothing better came.
    pub stopped_early: bool,
}

/// Trains heads and writes them to `material.out`; with `resume` it goes on with an interrupted
/// training there. `observer` hears how it goes.
///
/// # Errors
/// If a setting is out of range, the text cannot be read, the folder holds heads already, or
/// the interrupted training was another one.
pub fn train(
    material: &Material,
    settings: &TrainSettings,
    resume: bool,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome> {
    settings.check(material.checkpoint.config())?;
    check_folder(&material.out, resume)?;
    observer(Event::Sized(size(material, settings)?));
    check_room(material, settings)?;
    let mut trainer = Trainer::new(material, settings)?;
    if resume {
        trainer.restore()?;
    } else {
        trainer.begin()?;
    }
    observer(Event::Began(&trainer.first));
    while !trainer.is_finished() {
        let kl = trainer.step()?;
        observer(Event::Step {
            done: trainer.done(),
            tokens: trainer.tokens,
            kl: &kl,
        });
        if trainer.since_measured.elapsed().as_secs_f64() >= settings.measure_seconds
            || trainer.is_finished()
        {
            let quality = trainer.measure()?;
            observer(Event::Measured(&quality));
        }
    }
    trainer.finish()
}

/// Refuses a folder that holds heads already, or not what `resume` says.
///
/// # Errors
/// Says what to do instead.
pub fn check_folder(out: &Path, resume: bool) -> Result<()> {
    // Both are there if the end of a training was cut off; resuming it ends it again.
    let unfinished = resume && state::exists(out);
    if ExitHeads::exist(out) && !unfinished {
        let reason = format!(
            "{} holds trained heads already: choose another folder or remove it",
            out.display()
        );
        return Err(Error::setting("out", reason));
    }
    match (resume, state::exists(out)) {
        (true, false) => {
            let reason = format!("{} holds no interrupted training", out.display());
            Err(Error::setting("resume", reason))
        }
        (false, true) => {
            let reason = format!(
                "{} holds an interrupted training: go on with --resume, or remove it",
                out.display()
            );
            Err(Error::setting("out", reason))
        }
        _ => std::fs::create_dir_all(out).map_err(|error| Error::io(out, error)),
    }
}

struct Trainer<'a> {
    material: &'a Material,
    settings: &'a TrainSettings,
    plan: serde_json::Value,
    backbone: Backbone,
    /// The best heads so far.
    heads: Vec<TrainableHead>,
    /// The heads as they are now.
    learning: Box<dyn Learning>,
    windows: Windows,
    held_out: Vec<Vec<u32>>,
    tokens: u64,
    /// Seconds before this process took over.
    seconds_before: f64,
    started: Instant,
    since_measured: Instant,
    first: Vec<Quality>,
    best: Vec<Quality>,
    stale: usize,
}

impl<'a> Trainer<'a> {
    fn new(material: &'a Material, settings: &'a TrainSettings) -> Result<Self> {
        let checkpoint = &material.checkpoint;
        let encoder = Encoder::new(checkpoint, material.tokenizer.clone());
        let share = material.held_out_share();
        let measured = match &material.held_out {
            Some(file) => std::slice::from_ref(file),
            None => &material.text,
        };
        let (length, tokens) = (settings.window, settings.held_out_tokens);
        let held_out = held_out(Corpus::open(measured)?, &encoder, share, length, tokens)?;
        let windows = Windows::new(
            Corpus::open(&material.text)?,
            encoder,
            length,
            share,
            settings.seed,
        );
        let origin = Origin::read(checkpoint, &Device::Cpu)?;
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
        let heads = settings.layers.iter().map(|&layer| {
            TrainableHead::new(layer, settings.kind, settings.start, &origin, &mut random)
        });
        let heads = heads.collect::<Result<Vec<_>>>()?;
        let device = &material.machine.device;
        Ok(Self {
            plan: settings.plan(
                &checkpoint.fingerprint()?,
                &material.text,
                material.held_out.as_ref(),
            )?,
            backbone: Backbone::load(
                checkpoint,
                &material.machine,
                &settings.layers,
                windows_at_once(length),
                length,
            )?,
            learning: learning_on(device, &heads, settings.weight_decay)?,
            heads,
            windows,
            held_out: held_out.into_iter().map(|(_, window)| window).collect(),
            tokens: 0,
            seconds_before: 0.0,
            started: Instant::now(),
            since_measured: Instant::now(),
            first: Vec::new(),
            best: Vec::new(),
            stale: 0,
            material,
            settings,
        })
    }

    fn begin(&mut self) -> Result<()> {
        self.first = self.quality()?;
        self.best = self.first.clone();
        self.save(&self.parameters()?)
    }

    fn restore(&mut self) -> Result<()> {
        let dir = &self.material.out;
        let (progress, states) = state::load(dir, &self.heads, &Device::Cpu)?;
        if let Some((setting, stored, wanted)) = difference(&progress.plan, &self.plan) {
            let reason = format!(
                "the training in {} has `{setting}` {stored}, not {wanted}",
                dir.display()
            );
            return Err(Error::setting("resume", reason));
        }
        for (head, state) in self.heads.iter().zip(&states) {
            head.set(&state.best)?;
        }
        let parameters = states.into_iter().map(|state| state.parameters);
        let parameters: Vec<_> = parameters.collect();
        self.learning.restore(progress.steps, &parameters)?;
        self.windows.restore(progress.windows)?;
        self.tokens = progress.tokens;
        self.seconds_before = progress.seconds;
        self.first = progress.first;
        self.best = progress.best;
        self.stale = progress.stale;
        self.started = Instant::now();
        self.since_measured = Instant::now();
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// The share of the work that is done.
    fn done(&self) -> f64 {
        let by_tokens = self.tokens as f64 / self.settings.tokens as f64;
        let by_time = self
            .settings
            .seconds
            .map_or(0.0, |limit| self.seconds() / limit);
        by_tokens.max(by_time).min(1.0)
    }

    fn is_finished(&self) -> bool {
        self.done() >= 1.0 || self.stale >= self.settings.patience
    }

    /// Gathers gradients over a step's tokens and moves every head; returns each head's KL.
    fn step(&mut self) -> Result<Vec<f64>> {
        let mut tallies = vec![Tally::default(); self.heads.len()];
        let mut teacher = Teacher::new();
        let mut rows = 0;
        while rows < self.settings.step_tokens {
            let most = PASS_ROWS.min(self.settings.step_tokens - rows);
            let windows = self.windows_of(most)?;
            let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
            let pass = self.backbone.run(&windows)?;
            rows += pass.rows;
            for part in Lesson::parts(pass.rows, self.learning.lesson_rows()) {
                let lesson = Lesson::new(&mut self.backbone, &pass, part, &mut teacher)?;
                self.learning.learn(&lesson, &mut tallies)?;
            }
        }
        let rate = scheduled(self.settings.learning_rate, self.done());
        self.learning.step(rows, rate)?;
        self.tokens += rows as u64;
        let both = self.heads.iter().zip(&tallies);
        Ok(both
            .map(|(head, tally)| tally.quality(head.layer()).kl)
            .collect())
    }

    /// Windows of about `rows` tokens, at least one.
    fn windows_of(&mut self, rows: usize) -> Result<Vec<Vec<u32>>> {
        let mut windows = Vec::new();
        let mut held = 0;
        let most = windows_at_once(self.settings.window);
        while held < rows && windows.len() < most {
            let window = self.windows.next_window()?;
            held += window.len();
            windows.push(window);
        }
        Ok(windows)
    }

    fn quality(&mut self) -> Result<Vec<Quality>> {
        let batch = windows_at_once(self.settings.window);
        let heads = Measured::Training(&mut *self.learning);
        let layers = &self.settings.layers;
        measure(&mut self.backbone, heads, layers, &self.held_out, batch)
    }

    /// Measures the heads, keeps them if they are the best so far, and writes the state down.
    fn measure(&mut self) -> Result<Vec<Quality>> {
        let quality = self.quality()?;
        if !mean_kl(&quality).is_finite() {
            let reason = "the heads left the finite numbers: begin anew with a lower one";
            return Err(Error::setting("learning-rate", reason));
        }
        let parameters = self.parameters()?;
        if mean_kl(&quality) < mean_kl(&self.best) {
            for (head, parameters) in self.heads.iter().zip(&parameters) {
                head.set(parameters.iter().map(|parameter| &parameter.value))?;
            }
            self.best = quality.clone();
            self.stale = 0;
        } else {
            self.stale += 1;
        }
        self.save(&parameters)?;
        self.since_measured = Instant::now();
        Ok(quality)
    }

    /// Of each head, as they are now.
    fn parameters(&self) -> Result<Vec<Vec<Parameter>>> {
        let heads = 0..self.heads.len();
        heads.map(|head| self.learning.parameters(head)).collect()
    }

    fn save(&self, parameters: &[Vec<Parameter>]) -> Result<()> {
        let progress = Progress {
            plan: self.plan.clone(),
            tensors: String::new(),
            tokens: self.tokens,
            seconds: self.seconds(),
            steps: self.learning.steps(),
            first: self.first.clone(),
            best: self.best.clone(),
            stale: self.stale,
            windows: self.windows.state(),
        };
        state::save(&self.material.out, progress, &self.heads, parameters)
    }

    /// Writes the best heads, measured as they will be served.
    fn finish(mut self) -> Result<Outcome> {
        let dtype = self.settings.dtype;
        let stored = self.heads.iter().map(|head| head.to_exit_head(dtype, None));
        let tokenizer = self.material.tokenizer.as_ref();
        let mut heads = ExitHeads {
            checkpoint_fingerprint: self.material.checkpoint.fingerprint()?,
            tokenizer_hash: tokenizer.map(|tokenizer| tokenizer.hash().to_owned()),
            held_out_share: self.material.held_out_share(),
            heads: stored.collect::<Result<_>>()?,
            calibration: None,
        };
        self.backbone.decoder().attach_heads(&heads, None)?;
        let batch = windows_at_once(self.settings.window);
        let layers = &self.settings.layers;
        let stored = Measured::Stored;
        let last = measure(&mut self.backbone, stored, layers, &self.held_out, batch)?;
        for (head, quality) in heads.heads.iter_mut().zip(&last) {
            head.agreement = Some(quality.agreement);
        }
        heads.save(&self.material.out)?;
        state::clear(&self.material.out)?;
        Ok(Outcome {
            first: self.first.clone(),
            last,
            tokens: self.tokens,
            seconds: self.seconds(),
            stopped_early: self.done() < 1.0,
        })
    }
}

fn mean_kl(quality: &[Quality]) -> f64 {
    quality.iter().map(|head| head.kl).sum::<f64>() / quality.len().max(1) as f64
}
