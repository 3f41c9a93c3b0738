//! What a request holds: a ticket while its answer is awaited, a place while it runs.

use super::{Desk, Name};
use std::{sync::Arc, time::Duration};

/// Held by whoever awaits an answer. Dropped, the request waits for room no longer.
pub(crate) struct Ticket {
    desk: Arc<Desk>,
    number: u64,
}

impl Ticket {
    pub(super) fn new(desk: Arc<Desk>, number: u64) -> Self {
        Self { desk, number }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Nothing happens if it has room already: then the engine sees that nobody listens.
        self.desk.leave(self);
    }
}

/// Room of one sequence: given back when it is dropped, which must be after the sequence is closed.
pub(crate) struct Place {
    desk: Arc<Desk>,
    ticket: u64,
    blocks: usize,
    name: Option<Name>,
    queued: Duration,
}

impl Place {
    pub(super) fn new(
        desk: Arc<Desk>,
        ticket: u64,
        blocks: usize,
        name: Option<Name>,
        queued: Duration,
    ) -> Self {
        Self {
            desk,
            ticket,
            blocks,
            name,
            queued,
        }
    }

    /// How long the request waited for it.
    pub(crate) fn queued(&self) -> Duration {
        self.queued
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.desk.free(self.ticket, self.blocks, self.name.take());
    }
}
