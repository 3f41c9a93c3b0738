//! Drafters that fail in every way that a drafter, or a network, can.

mod restarts;
mod stream;

use dssd_proto::v1::{
    DrafterMessage, GetDrafterInfoRequest, GetDrafterInfoResponse, VerifierMessage,
    drafting_client::DraftingClient, drafting_server::Drafting,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
pub(super) use restarts::Restarts;
use std::sync::atomic::{AtomicU64, Ordering};
use stream::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

/// Messages on their way through; rounds wait for answers, so there are never many.
const OUTBOX: usize = 64;

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
        let stream = Stream::new(random, to_verifier);
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
