//! Who comes in, and who leaves.

use super::Scheduler;
use crate::{
    Error, Result,
    engine::{
        GenerationKey, Place,
        events::Event,
        generation::Generation,
        request::{GenerateRequest, ScoreRequest},
        scoring::Scoring,
    },
    metrics::DrafterError,
};
use dssd_common::{
    kv::{PrefixKey, SequenceId},
    tokenizer::TextStream,
};
use std::{sync::Arc, time::Instant};

impl Scheduler {
    /// Begins a generation that has a place.
    pub(super) fn admit(&mut self, request: GenerateRequest, place: Place) -> Result<()> {
        let key = GenerationKey(self.next_key);
        self.next_key += 1;
        let resumed = !request.resumed.is_empty();
        request.call.admitted(place.queued(), resumed);
        tracing::debug!(queued = ?place.queued(), "admitted");
        let text = self
            .parts
            .tokenizer
            .as_ref()
            .map(|tokenizer| TextStream::after(Arc::clone(tokenizer), &request.prompt))
            .transpose()?;
        let root = self.parts.prefix_cache.then(|| {
            let salt = [request.client.as_bytes(), request.cache_salt.as_bytes()];
            PrefixKey::root(&salt.concat())
        });
        let sequence = self.open(Generation::capacity(&request), root)?;
        match Generation::new(key, request, (sequence, place), &self.parts.decoder, text) {
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
        let newest = self.generations.len() - 1;
        self.seek_drafter(newest);
        Ok(())
    }

    /// Begins to score what has a place.
    pub(super) fn admit_scoring(&mut self, request: ScoreRequest, place: Place) {
        // Scored texts share nothing: most of their rows are read anyway.
        match self.open(request.tokens.len(), None) {
            Ok(sequence) => {
                let depths = self.parts.decoder.band_ends();
                let scoring = Scoring::new(request, (sequence, place), depths);
                self.scorings.push(scoring);
            }
            Err(error) => _ = request.reply.send(Err(error)),
        }
    }

    /// A sequence for a place; the desk keeps the same account as the cache.
    fn open(&mut self, capacity: usize, root: Option<PrefixKey>) -> Result<SequenceId> {
        let opened = match root {
            Some(root) => self.parts.kv.open_shared(capacity, root),
            None => self.parts.kv.open(capacity),
        };
        opened.map_err(|error| Error::internal("the account of KV blocks", error))
    }

    /// Ends what nobody waits for any more.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        let read_timeout = self.parts.limits.read_timeout;
        let expired = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        for index in (0..self.generations.len()).rev() {
            let request = &self.generations[index].request;
            if request.events.is_closed() {
                self.remove(index);
            } else if expired(request.deadline) {
                self.remove(index)
                    .emit(Event::Failed(Error::DeadlineExceeded));
            } else if self.generations[index].is_unread(self.now(), read_timeout) {
                self.remove(index)
                    .emit(Event::Failed(Error::Unread(read_timeout)));
            } else if let Some(reason) = self.generations[index].gives_drafter_up(now) {
                self.replace_drafter(index, DrafterError::Silent, reason);
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
        self.rest.leave(generation.key);
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
