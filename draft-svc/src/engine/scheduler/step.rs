//! One step: one band, for every sequence that waits for it.

use super::Scheduler;
use crate::{
    Result,
    engine::{
        EngineParts, StreamKey,
        sequence::{Sequence, Want},
    },
};
use dssd_common::{
    kv::KvCache,
    model::{Reads, Span},
};
use std::time::{Duration, Instant};
use tonic::Status;

/// Rows of a step of work ahead: a Commit that comes meanwhile waits for few.
const ROWS_AHEAD: usize = 8;
/// Weight of the newest step in the mean that is reported.
const NEWEST: f64 = 0.1;

impl Scheduler {
    /// Runs the band of the sequence that has waited longest, for every sequence that waits for
    /// that band; where none waits, works ahead by a band. False if there is nothing to do.
    pub(super) fn step(&mut self) -> bool {
        self.stop_drafts();
        let begun = Instant::now();
        let rows = self.parts.max_step_rows;
        let mut batch = self.plan(Sequence::want, rows);
        let ahead = batch.is_empty();
        if ahead {
            batch = self.plan(Sequence::want_ahead, rows.min(ROWS_AHEAD));
        }
        self.ahead_since = (ahead && !batch.is_empty()).then_some(begun);
        if batch.is_empty() {
            return false;
        }
        if let Err(error) = self.pass(&batch) {
            tracing::error!(%error, "a pass failed");
            self.broken = matches!(error, crate::Error::Common(dssd_common::Error::Device(_)));
            let mut keys: Vec<StreamKey> = batch
                .iter()
                .map(|(index, _)| self.sequences[*index].key)
                .collect();
            for key in keys.drain(..) {
                if let Some(index) = self.find(key) {
                    let identity = self.sequences[index].spans.identity();
                    identity.in_log(|| tracing::error!("a draft is lost with its pass"));
                    self.end(index, Status::internal(error.to_string()));
                }
            }
        }
        self.step_seconds += NEWEST * (begun.elapsed().as_secs_f64() - self.step_seconds);
        true
    }

    /// A batch of at most `budget` rows.
    fn plan(
        &self,
        want: impl Fn(&Sequence, &KvCache, usize) -> Option<Want>,
        mut budget: usize,
    ) -> Vec<(usize, Want)> {
        let mut order: Vec<usize> = (0..self.sequences.len()).collect();
        order.sort_by_key(|&index| self.sequences[index].waiting_since);
        let mut batch: Vec<(usize, Want)> = Vec::new();
        for index in order {
            if budget == 0 {
                break;
            }
            let Some(want) = want(&self.sequences[index], &self.parts.kv, budget) else {
                continue;
            };
            if batch
                .first()
                .is_none_or(|(_, first)| first.band == want.band)
            {
                let id = self.sequences[index]
                    .drafting
                    .as_ref()
                    .map(|drafting| drafting.id);
                let start = id.map_or(want.end, |id| self.parts.kv.len(id, want.band));
                budget = budget.saturating_sub(want.end - start);
                batch.push((index, want));
            }
        }
        batch
    }

    /// Runs a batch through its band, reads the exits that the policies ask for, and lets them decide.
    fn pass(&mut self, batch: &[(usize, Want)]) -> Result<()> {
        let Some(band) = batch.first().map(|(_, want)| want.band) else {
            return Ok(());
        };
        let Self {
            parts,
            sequences,
            readout,
            ..
        } = self;
        let rows_of = |parts: &EngineParts, index: usize, want: &Want| {
            let id = sequences[index]
                .drafting
                .as_ref()
                .map(|drafting| drafting.id);
            id.map(|id| (id, want.end - parts.kv.len(id, band)))
        };
        let placed: Vec<_> = batch
            .iter()
            .filter_map(|(index, want)| {
                rows_of(parts, *index, want).map(|(id, rows)| (*index, id, rows, want))
            })
            .collect();
        let spans: Vec<Span<'_>> = placed
            .iter()
            .map(|(_, id, _, want)| Span {
                sequence: *id,
                end: want.end,
                tokens: &want.tokens,
            })
            .collect();
        let rows = placed.iter().map(|(_, _, rows, _)| rows).sum();
        let mut row = 0;
        let (mut readers, mut read_rows, mut choices) = (Vec::new(), Vec::new(), Vec::new());
        for (index, _, rows, want) in &placed {
            row += rows;
            if want.decides && sequences[*index].reads(band) {
                read_rows.push(row as u32 - 1);
                readers.push(sequences[*index].key);
                choices.push(sequences[*index].plain_choice());
            }
        }
        let reads = Reads {
            exit: Some(parts.decoder.band_ends()[band]),
            rows: &read_rows,
            choices: &choices,
            summaries: true,
        };
        let seconds = (parts.decoder).step(&mut parts.kv, band, &spans, reads, readout)?;
        let pass_time = Duration::from_secs_f64(seconds.layers + seconds.reads);
        parts.metrics.step(rows, pass_time);
        parts.metrics.copied_rows(parts.decoder.copied_rows());
        for summary in readout.summaries() {
            parts.metrics.entropy(band, summary.entropy);
        }
        if placed
            .iter()
            .all(|(_, _, rows, want)| *rows == 1 && want.decides)
        {
            let exit_seconds = (!readers.is_empty()).then_some(seconds.reads);
            let costs = &mut parts.experience.costs;
            costs.observe_band(band, seconds.layers, exit_seconds);
        }
        let advanced: Vec<(StreamKey, usize, bool)> = placed
            .iter()
            .map(|(index, _, rows, want)| (sequences[*index].key, *rows, want.decides))
            .collect();
        self.deliver(band, &advanced, &readers);
        Ok(())
    }

    fn deliver(
        &mut self,
        band: usize,
        advanced: &[(StreamKey, usize, bool)],
        readers: &[StreamKey],
    ) {
        let (now, load) = (self.now(), self.load());
        for (key, rows, decides) in advanced {
            let Some(index) = self.find(*key) else {
                continue;
            };
            let sequence = &mut self.sequences[index];
            let ready = if band == 0 {
                sequence.session.fed(*rows, load)
            } else {
                None
            };
            let read = readers.iter().position(|reader| reader == key);
            if *decides && read.is_none() {
                sequence.depth = band + 1;
            }
            if !*decides {
                // A long prompt takes its turns with the drafts of others.
                sequence.waiting_since = now;
            }
            self.send(index, ready);
            if let Some(row) = read {
                self.decide(*key, band, row);
            }
        }
    }
}
