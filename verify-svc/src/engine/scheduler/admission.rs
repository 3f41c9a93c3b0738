//! Who comes in, and who leaves.

use super::Scheduler;
use crate::{
    Error, Result,
    engine::{
        GenerationKey,
        generation::Generation,
        request::{Event, GenerateRequest, ScoreRequest},
        scoring::Scoring,
    },
};
use dssd_common::tokenizer::TextStream;
use std::{sync::Arc, time::Instant};

impl Scheduler {
    pub(super) fn admit(&mut self, request: GenerateRequest) -> Result<()> {
        // What was cancelled just now holds neither its name nor its place any more.
        self.expire();
        if self
            .generations
            .iter()
            .any(|g| g.request.is(request.client, &request.request_id))
        {
            return Err(Error::RequestIdInUse(request.request_id));
        }
        self.check_room()?;
        let key = GenerationKey(self.next_key);
        self.next_key += 1;
        let text = self
            .parts
            .tokenizer
            .as_ref()
            .map(|tokenizer| TextStream::after(Arc::clone(tokenizer), &request.prompt))
            .transpose()?;
        let sequence = self.parts.kv.open(Generation::capacity(&request))?;
        match Generation::new(key, request, sequence, &self.parts.decoder, text) {
            Ok((generation, None)) => self.generations.push(generation),
            Ok((mut generation, Some(end))) => {
                self.parts.kv.close(sequence);
                generation.finish(end);
                return Ok(());
            }
            Err(error) => {
                self.parts.kv.close(sequence);
                return Err(error);
            }
        }
        self.attach(self.generations.len() - 1);
        Ok(())
    }

    pub(super) fn admit_scoring(&mut self, request: ScoreRequest) {
        self.expire();
        let opened = self
            .check_room()
            .and_then(|()| Ok(self.parts.kv.open(request.tokens.len())?));
        match opened {
            Ok(sequence) => {
                let depths = self.parts.decoder.band_ends();
                self.scorings.push(Scoring::new(request, sequence, depths));
            }
            Err(error) => _ = request.reply.send(Err(error)),
        }
    }

    fn check_room(&self) -> Result<()> {
        if self.draining {
            return Err(Error::Draining);
        }
        let running = self.generations.len() + self.scorings.len();
        if running < self.parts.limits.max_sequences {
            return Ok(());
        }
        Err(Error::NoRoom(format!(
            "{running} sequences are running, the most that this server takes"
        )))
    }

    /// Ends what nobody waits for any more.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        let expired = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        for index in (0..self.generations.len()).rev() {
            let request = &self.generations[index].request;
            if request.events.is_closed() {
                self.remove(index);
            } else if expired(request.deadline) {
                self.remove(index)
                    .emit(Event::Failed(Error::DeadlineExceeded));
            } else if let Some(reason) = self.generations[index].gives_drafter_up(now) {
                self.replace_drafter(index, reason);
            }
        }
        for index in (0..self.scorings.len()).rev() {
            let request = &self.scorings[index].request;
            if request.reply.is_closed() || expired(request.deadline) {
                self.finish_scoring(index, Err(Error::DeadlineExceeded));
            }
        }
    }

    pub(super) fn remove(&mut self, index: usize) -> Generation {
        let mut generation = self.generations.remove(index);
        generation.settle(&self.parts.kv);
        self.parts.kv.close(generation.sequence);
        generation
    }

    pub(super) fn finish_scoring(&mut self, index: usize, outcome: Result<()>) {
        let mut scoring = self.scorings.remove(index);
        scoring.settle(&self.parts.kv);
        self.parts.kv.close(scoring.sequence);
        scoring.finish(outcome);
    }
}
