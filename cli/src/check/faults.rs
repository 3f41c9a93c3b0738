//! Drafters that fail in every way that a drafter, or a network, can.

use crate::pair::{self, Model};
use anyhow::{Context, Result};
use dssd_proto::v1::{
    DrafterMessage, GetDrafterInfoRequest, GetDrafterInfoResponse, Proposal, VerifierMessage,
    drafter_message, drafting_client::DraftingClient, drafting_server::Drafting, verifier_message,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

/// Messages on their way through; rounds wait for answers, so there are never many.
const OUTBOX: usize = 64;

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

/// A way to a drafter on which things go wrong at random.
pub(super) struct FaultyDrafter {
    drafter: Channel,
    seed: u64,
    streams: AtomicU64,
}

impl FaultyDrafter {
    /// A way to the drafter at `uri`.
    pub(super) fn new(uri: &Uri, seed: u64) -> Self {
        Self {
            drafter: Endpoint::from(uri.clone()).tcp_nodelay(true).connect_lazy(),
            seed,
            streams: AtomicU64::new(0),
        }
    }
}

type Outbox = mpsc::Sender<Result<DrafterMessage, Status>>;

/// One stream through a faulty way.
struct Stream {
    random: ChaCha8Rng,
    vocabulary: u32,
    /// The proposal before.
    older: Option<Proposal>,
    /// A proposal that waits for the next one.
    behind: Option<Proposal>,
    to_verifier: Outbox,
}

impl Stream {
    /// Carries messages both ways until either side ends, or a fault does.
    async fn run(
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

#[tonic::async_trait]
impl Drafting for FaultyDrafter {
    type DraftStream = ReceiverStream<Result<DrafterMessage, Status>>;

    async fn draft(
        &self,
        request: Request<Streaming<VerifierMessage>>,
    ) -> Result<Response<Self::DraftStream>, Status> {
        let (to_drafter, outbox) = mpsc::channel(OUTBOX);
        let (to_verifier, answers) = mpsc::channel(OUTBOX);
        let mut drafter = DraftingClient::new(self.drafter.clone());
        let from_drafter = drafter
            .draft(ReceiverStream::new(outbox))
            .await?
            .into_inner();
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(self.streams.fetch_add(1, Ordering::Relaxed));
        let stream = Stream {
            random,
            vocabulary: 1,
            older: None,
            behind: None,
            to_verifier,
        };
        tokio::spawn(stream.run(request.into_inner(), to_drafter, from_drafter));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn get_drafter_info(
        &self,
        request: Request<GetDrafterInfoRequest>,
    ) -> Result<Response<GetDrafterInfoResponse>, Status> {
        let mut drafter = DraftingClient::new(self.drafter.clone());
        drafter.get_drafter_info(request.into_inner()).await
    }
}

/// A draft-svc that is stopped and started again, on one port, at random moments.
pub(super) struct Restarts {
    address: SocketAddr,
    end: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Restarts {
    /// Starts with a running draft-svc.
    pub(super) async fn start(model: &Model) -> Result<Self> {
        let listener = pair::listener().await?;
        let address = listener.local_addr()?;
        let end = CancellationToken::new();
        let task = tokio::spawn(restart(model.clone(), listener, end.clone()));
        Ok(Self { address, end, task })
    }

    /// Where it is, when it is there.
    pub(super) fn uri(&self) -> Result<Uri> {
        Ok(format!("http://{}", self.address).parse()?)
    }

    /// Ends it for good.
    pub(super) async fn stop(self) -> Result<()> {
        self.end.cancel();
        self.task.await.context("the restarting drafter")?
    }
}

async fn restart(model: Model, first: TcpListener, end: CancellationToken) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut pause = |least: u64, most: u64| {
        let time = Duration::from_millis(random.random_range(least..most));
        end.run_until_cancelled(tokio::time::sleep(time))
    };
    let address = first.local_addr()?;
    let mut listener = first;
    loop {
        let drafter = pair::drafter(&model, listener)?;
        let over = pause(300, 2000).await.is_none();
        drafter.stop().await?;
        if over || pause(20, 300).await.is_none() {
            return Ok(());
        }
        listener = TcpListener::bind(address).await?;
    }
}
