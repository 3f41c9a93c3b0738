//! What a generation tells its client, and how much of it may wait to be read.

use dssd_proto::v1;
use std::time::Duration;
use tokio::sync::mpsc;

/// Events of one generation that may wait for its client. Each is at most the tokens of one round
/// with their log-probabilities, so this bounds bytes as well.
const UNREAD: usize = 64;
/// Events of one turn at most: the round, its tokens, and at the end those held back and the
/// account.
const TURN: usize = 4;
/// When a generation whose client does not read looks again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What happens in a generation, in order.
#[derive(Debug)]
pub enum Event {
    /// Committed tokens with all of their text.
    Tokens(v1::Tokens),
    /// One round, if traced.
    Round(v1::RoundTrace),
    /// The end; nothing follows.
    Finished(Box<v1::FinishInfo>),
    /// The end by a fault; nothing follows.
    Failed(crate::Error),
}

/// Where the client's messages are made of events.
pub type EventReceiver = mpsc::Receiver<Event>;

/// The way from a generation to its client. A generation takes a turn only while there is room
/// for all that the turn may say, so no event is ever without a place, the last one included.
#[derive(Debug)]
pub struct EventSender(mpsc::Sender<Event>);

impl EventSender {
    /// A way with room for a bounded number of events.
    pub fn new() -> (Self, EventReceiver) {
        let (sender, receiver) = mpsc::channel(UNREAD);
        (Self(sender), receiver)
    }

    /// Whether a turn can be taken, or the client has to read first.
    pub(super) fn has_room(&self) -> bool {
        self.0.capacity() >= TURN
    }

    /// Whether nobody is there to read any more.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// A look at whether anybody still reads, which keeps nothing open.
    pub(super) fn watch(&self) -> WeakEvents {
        WeakEvents(self.0.downgrade())
    }

    /// Says what happened. If nobody reads any more, that is noticed at the next step.
    pub(super) fn send(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.0.try_send(event) {
            // What the event says is its client's alone.
            tracing::error!("an event without a place: the generation is cut off");
        }
    }
}

/// Tells whether a generation is there and its client reads.
#[derive(Debug)]
pub(super) struct WeakEvents(mpsc::WeakSender<Event>);

impl WeakEvents {
    pub(super) fn is_read(&self) -> bool {
        let sender = self.0.upgrade();
        sender.is_some_and(|sender| !sender.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_fits_wherever_there_is_room_and_an_end_always_does() {
        let (sender, mut receiver) = EventSender::new();
        let event = || Event::Tokens(v1::Tokens::default());
        let mut waiting = 0;
        while sender.has_room() {
            // A turn that does not end the generation.
            (0..TURN / 2).for_each(|_| sender.send(event()));
            waiting += TURN / 2;
        }
        // Text that was held back, and the account.
        (0..TURN / 2).for_each(|_| sender.send(event()));
        waiting += TURN / 2;
        assert!(waiting <= UNREAD);
        let read = std::iter::from_fn(|| receiver.try_recv().ok()).count();
        assert_eq!(read, waiting, "nothing is lost");
    }
}
