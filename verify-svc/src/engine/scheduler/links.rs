//! The streams between generations and drafters.

use super::Scheduler;
use crate::{
    drafters::{Drafters, LinkEvent},
    engine::{LinkKey, generation::Generation},
    metrics::DrafterError,
};
use dssd_proto::v1;
use std::{net::SocketAddr, time::Instant};

/// Tokens to come for which a drafter is worth the start.
const LEAST_DRAFTED: usize = 16;

impl Scheduler {
    /// The longest draft that there is room for; a policy that was asked for by name has all it wants.
    pub(super) fn draft_room(&self, index: usize) -> usize {
        let free_rows = self.parts.limits.free_rows;
        let generations = self.crowd.size(self.generations.len(), self.now());
        match &self.generations[index].request.draft {
            None => 0,
            Some(draft) if !draft.adaptive => draft.max_draft_tokens,
            Some(draft) => share_of(free_rows, generations).min(draft.max_draft_tokens),
        }
    }

    /// Asks for a drafter, unless there is no room for drafts or they are known not to pay.
    pub(super) fn seek_drafter(&mut self, index: usize) {
        let room = self.draft_room(index) > 0;
        self.seek_drafter_for(index, room);
    }

    fn seek_drafter_for(&mut self, index: usize, room: bool) {
        let Self {
            parts,
            generations,
            rest,
            handle,
            ..
        } = self;
        let generation = &mut generations[index];
        let wanted = generation.request.draft.is_some() && !generation.undraftable;
        let Some(drafters) = parts.drafters.as_ref().filter(|_| wanted) else {
            return;
        };
        let long = generation.remaining() >= LEAST_DRAFTED;
        let asks = room && (!generation.is_adaptive() || rest.admits(generation.key, long));
        generation.session.hold_back(!asks);
        if asks {
            generation.attach(drafters, handle);
        }
    }

    /// The same behind a round, if there is no drafter and enough is left to draft.
    pub(super) fn seek_drafter_late(&mut self, index: usize, room: bool) {
        let generation = &self.generations[index];
        if generation.link.is_none() && generation.remaining() >= LEAST_DRAFTED {
            self.seek_drafter_for(index, room);
        }
    }

    /// The drafter is gone: asks for another one.
    fn on_lost(&mut self, index: usize) {
        let generation = &mut self.generations[index];
        generation.session.on_lost();
        generation.link = None;
        self.seek_drafter(index);
    }

    pub(super) fn on_link(&mut self, key: LinkKey, event: LinkEvent) {
        let current = |g: &Generation| g.link.as_ref().is_some_and(|link| link.key == key);
        let Some(index) = self.generations.iter().position(current) else {
            return;
        };
        let now = self.now();
        let generation = &mut self.generations[index];
        match event {
            LinkEvent::Attached { address, sender } => {
                if let Some(link) = &mut generation.link {
                    link.address = Some(address);
                    link.sender = Some(sender);
                    link.since = Some(Instant::now());
                }
                let open = generation.session.attach();
                self.send(index, open);
            }
            LinkEvent::Message { message, .. } => match generation.session.on_message(message, now)
            {
                Ok(answer) => {
                    if let Some(link) = generation
                        .link
                        .as_mut()
                        .filter(|_| generation.session.is_ready())
                    {
                        link.since = None;
                    }
                    if let Some(message) = answer {
                        self.send(index, message);
                    }
                }
                Err(nonsense) => {
                    self.replace_drafter(index, DrafterError::Fault, &nonsense.to_string());
                }
            },
            LinkEvent::Lost => self.on_lost(index),
            LinkEvent::Refused => {
                generation.session.on_lost();
                generation.link = None;
                generation.undraftable = true;
                self.rest.leave(generation.key);
            }
        }
    }

    /// Leaves the drafter of a generation out for a while, and asks for another one.
    pub(super) fn replace_drafter(&mut self, index: usize, error: DrafterError, reason: &str) {
        if let Some((drafters, address)) = self.drafter_of(index) {
            let identity = self.generations[index].request.call.identity();
            identity.in_log(|| drafters.exclude(address, error, reason));
        }
        self.on_lost(index);
    }

    /// The drafter of a generation was right about a token.
    pub(super) fn praise(&self, index: usize) {
        if let Some((drafters, address)) = self.drafter_of(index) {
            drafters.accepted(address);
        }
    }

    fn drafter_of(&self, index: usize) -> Option<(&Drafters, SocketAddr)> {
        let address = self.generations[index].link.as_ref()?.address?;
        Some((self.parts.drafters.as_ref()?, address))
    }

    /// Sends a message to the drafter; one that takes none is lost.
    pub(super) fn send(&mut self, index: usize, message: v1::VerifierMessage) {
        let generation = &mut self.generations[index];
        let Some(sender) = generation
            .link
            .as_ref()
            .and_then(|link| link.sender.as_ref())
        else {
            return;
        };
        if sender.try_send(message).is_err() {
            self.on_lost(index);
        }
    }
}

/// Drafted tokens of one generation that cost a step next to nothing. A step computes some rows in
/// little more time than one, and generations share those; beyond them each row costs its full
/// share, which drafts seldom earn, so they pause, and drafters with them. A generation alone is
/// left to its drafter's policy, which measures what pays.
fn share_of(free_rows: usize, generations: usize) -> usize {
    match generations {
        0 | 1 => usize::MAX,
        many => (free_rows / many).saturating_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use super::share_of;

    #[test]
    fn drafts_shrink_and_stop_as_the_verifier_fills_up() {
        let lengths: Vec<usize> = [2, 3, 4, 8, 9, 64].map(|n| share_of(16, n)).to_vec();
        assert_eq!(lengths, [7, 4, 3, 1, 0, 0]);
        assert_eq!(share_of(1, 2), 0, "rows that are dear are for nobody");
        assert_eq!(share_of(1, 1), usize::MAX, "alone, the policy decides");
    }
}
