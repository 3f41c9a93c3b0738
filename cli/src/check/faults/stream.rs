//! One stream between a verifier and a drafter, and what happens to its messages.

use dssd_proto::v1::{
    DrafterMessage, Proposal, VerifierMessage, drafter_message, verifier_message,
};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// What happens to a proposal, and how often in a thousand.
const FAULTS: [(Fault, u32); 7] = [
    (Fault::Lose, 3),
    (Fault::Nonsense, 1),
    (Fault::Delay, 10),
    (Fault::Repeat, 60),
    (Fault::ReplayOlder, 40),
    (Fault::Spoil, 100),
    (Fault::Reorder, 10),
];
/// Commits that never reach the drafter, in a thousand.
const SWALLOWED_COMMITS: u32 = 3;

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The stream ends.
    Lose,
    /// A proposal that cannot be true.
    Nonsense,
    /// It comes after the verifier stopped waiting.
    Delay,
    /// It comes twice.
    Repeat,
    /// An older one comes before it.
    ReplayOlder,
    /// Its tokens are others.
    Spoil,
    /// It comes behind the next one.
    Reorder,
}

/// Where answers go.
pub(super) type Outbox = mpsc::Sender<Result<DrafterMessage, Status>>;

/// One stream through a faulty way.
pub(super) struct Stream {
    random: ChaCha8Rng,
    vocabulary: u32,
    /// The proposal before.
    older: Option<Proposal>,
    /// A proposal that waits for the next one.
    behind: Option<Proposal>,
    to_verifier: Outbox,
}

impl Stream {
    /// A stream with faults of its own, which depend on `random` alone.
    pub(super) fn new(random: ChaCha8Rng, to_verifier: Outbox) -> Self {
        Self {
            random,
            vocabulary: 1,
            older: None,
            behind: None,
            to_verifier,
        }
    }

    /// Carries messages both ways until either side ends, or a fault does.
    pub(super) async fn run(
        mut self,
        mut from_verifier: Streaming<VerifierMessage>,
        to_drafter: mpsc::Sender<VerifierMessage>,
        mut from_drafter: Streaming<DrafterMessage>,
    ) {
        loop {
            tokio::select! {
                message = from_verifier.message() => {
                    let Ok(Some(message)) = message else { return };
                    if !self.swallows(&message) && to_drafter.send(message).await.is_err() {
                        return;
                    }
                }
                message = from_drafter.message() => {
                    let passed = match message {
                        Ok(Some(message)) => self.pass(message).await,
                        Ok(None) => return,
                        Err(status) => Err(status),
                    };
                    if let Err(status) = passed {
                        _ = self.to_verifier.send(Err(status)).await;
                        return;
                    }
                }
            }
        }
    }

    /// Whether a Commit is lost on its way.
    fn swallows(&mut self, message: &VerifierMessage) -> bool {
        match &message.message {
            Some(verifier_message::Message::Open(open)) => {
                self.vocabulary = open.vocabulary_size;
                false
            }
            _ => self.random.random_ratio(SWALLOWED_COMMITS, 1000),
        }
    }

    async fn pass(&mut self, message: DrafterMessage) -> Result<(), Status> {
        let Some(drafter_message::Message::Proposal(mut proposal)) = message.message else {
            return self.send(message).await;
        };
        let older = self.older.replace(proposal.clone());
        let behind = self.behind.take();
        match self.fault() {
            Some(Fault::Lose) => return Err(Status::unavailable("lost")),
            Some(Fault::Nonsense) => proposal.epoch += 1000,
            Some(Fault::Delay) => {
                self.send_later(proposal);
                return Ok(());
            }
            Some(Fault::Repeat) => self.propose(proposal.clone()).await?,
            Some(Fault::ReplayOlder) => {
                if let Some(older) = older {
                    self.propose(older).await?;
                }
            }
            Some(Fault::Spoil) => {
                for token in &mut proposal.tokens {
                    token.token_id = self.random.random_range(0..self.vocabulary.max(1));
                }
            }
            Some(Fault::Reorder) => {
                self.behind = Some(proposal);
                return Ok(());
            }
            None => {}
        }
        self.propose(proposal).await?;
        match behind {
            Some(behind) => self.propose(behind).await,
            None => Ok(()),
        }
    }

    fn fault(&mut self) -> Option<Fault> {
        let mut roll = self.random.random_range(0..1000);
        for (fault, share) in FAULTS {
            if roll < share {
                return Some(fault);
            }
            roll -= share;
        }
        None
    }

    async fn propose(&self, proposal: Proposal) -> Result<(), Status> {
        let message = Some(drafter_message::Message::Proposal(proposal));
        self.send(DrafterMessage { message }).await
    }

    async fn send(&self, message: DrafterMessage) -> Result<(), Status> {
        let sent = self.to_verifier.send(Ok(message)).await;
        sent.map_err(|_| Status::cancelled("the verifier is gone"))
    }

    fn send_later(&mut self, proposal: Proposal) {
        let pause = Duration::from_millis(self.random.random_range(5..100));
        let to_verifier = self.to_verifier.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let message = Some(drafter_message::Message::Proposal(proposal));
            _ = to_verifier.send(Ok(DrafterMessage { message })).await;
        });
    }
}
