//! Streams: they come, bring messages, get answers, and go.

use super::Scheduler;
use crate::{
    Error, Result,
    engine::{
        Peer, StreamKey,
        sequence::{Drafting, Sequence},
    },
    session::DraftSession,
};
use dssd_proto::v1::{DrafterMessage, VerifierMessage, drafter_message, verifier_message};
use tonic::Status;

impl Scheduler {
    pub(super) fn open(&mut self, key: StreamKey, peer: Peer) {
        if self.sequences.len() >= self.parts.max_sequences {
            let reason = format!(
                "{} streams are open, the most that this drafter takes",
                self.sequences.len()
            );
            let identity = peer.spans.identity();
            identity.in_log(|| tracing::debug!(reason, "a stream is refused"));
            // A verifier that is gone needs no answer.
            _ = peer.outbox.try_send(Err(Error::NoRoom(reason).into()));
            return;
        }
        let session = DraftSession::new(self.parts.profile.clone());
        self.sequences.push(Sequence::new(key, peer, session));
    }

    pub(super) fn on_message(&mut self, index: usize, message: VerifierMessage) {
        let (now, load) = (self.now(), self.load());
        let sequence = &mut self.sequences[index];
        let (key, epoch) = (sequence.key, sequence.session.epoch());
        let commit = match &message.message {
            Some(verifier_message::Message::Commit(commit)) => Some(commit.clone()),
            _ => None,
        };
        let outdated = match &message.message {
            Some(verifier_message::Message::Commit(commit)) => commit.epoch <= epoch,
            Some(verifier_message::Message::Open(open)) => open.last_epoch < epoch,
            None => false,
        };
        let unfinished = sequence.session.plan().goal.map(|goal| goal.started);
        let answer = match sequence.session.on_message(message, now, load) {
            // Whatever is under way goes on.
            Ok(_) if outdated => return,
            Ok(answer) => answer,
            Err(refusal) => return self.end(index, Error::Refused(refusal).into()),
        };
        sequence.waiting_since = now;
        sequence.restart_row();
        if let Err(error) = self.follow(index) {
            return self.end(index, error.into());
        }
        let foresight = self.sequences[index].foresight.take();
        if let Some(commit) = commit {
            self.learn(index, &commit, unfinished);
        }
        self.send(index, answer);
        self.begin_draft(key);
        self.replay(key, foresight);
    }

    /// Brings history and cache of a sequence to what its session holds.
    fn follow(&mut self, index: usize) -> Result<()> {
        let Self {
            parts, sequences, ..
        } = self;
        let Sequence {
            session, drafting, ..
        } = &mut sequences[index];
        let Some(settings) = session.settings() else {
            return Ok(());
        };
        let drafting = match drafting {
            Some(drafting) => drafting,
            None => drafting.insert(Drafting::open(settings, session.tokens(), parts)?),
        };
        let plan = session.plan();
        // The last token of a draft gets no keys and values, nor does the newest committed one.
        let wanted = plan.goal.map_or(0, |goal| goal.max_draft_tokens as usize);
        drafting.check_room(&parts.kv, session.tokens().len() + wanted)?;
        drafting.follow(session.tokens());
        parts.kv.truncate(drafting.id, plan.truncate_to);
        Ok(())
    }

    pub(super) fn send(&mut self, index: usize, message: Option<DrafterMessage>) {
        let Some(message) = message else { return };
        if matches!(message.message, Some(drafter_message::Message::Resync(_))) {
            self.parts.metrics.resync();
        }
        // A verifier that does not read its messages, or is gone, is done with.
        if self.sequences[index].outbox.try_send(Ok(message)).is_err() {
            self.remove(index);
        }
    }

    pub(super) fn end(&mut self, index: usize, status: Status) {
        let identity = self.sequences[index].spans.identity();
        let code = status.code();
        identity.in_log(|| tracing::debug!(?code, "a stream is ended"));
        _ = self.sequences[index].outbox.try_send(Err(status));
        self.remove(index);
    }

    pub(super) fn remove(&mut self, index: usize) {
        let sequence = self.sequences.swap_remove(index);
        if sequence.foresight.is_some() {
            // Nobody will ask for what was worked ahead, and others may have waited for it.
            self.parts.experience.ahead.observe(None);
        }
        if let Some(drafting) = sequence.drafting {
            self.parts.kv.close(drafting.id);
        }
    }
}
