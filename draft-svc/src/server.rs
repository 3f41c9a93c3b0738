//! gRPC in, commands to the engine out.

use crate::{
    Error,
    engine::{Command, EngineHandle, StreamKey},
};
use dssd_proto::v1::{
    DrafterMessage, GetDrafterInfoRequest, GetDrafterInfoResponse, VerifierMessage,
    drafting_server::Drafting,
};
use futures::{StreamExt as _, stream::BoxStream};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Messages that a verifier may leave unread before its stream is given up. It asks for one
/// proposal at a time, so even a few say that it has stalled.
const OUTBOX: usize = 16;

/// The Drafting service.
pub(crate) struct Server {
    engine: EngineHandle,
    /// What never changes; `load` is filled in when asked.
    info: GetDrafterInfoResponse,
    next_key: AtomicU64,
}

impl Server {
    pub(crate) fn new(engine: EngineHandle, info: GetDrafterInfoResponse) -> Self {
        Self {
            engine,
            info,
            next_key: AtomicU64::new(0),
        }
    }
}

#[tonic::async_trait]
impl Drafting for Server {
    type DraftStream = BoxStream<'static, Result<DrafterMessage, Status>>;

    async fn draft(
        &self,
        request: Request<Streaming<VerifierMessage>>,
    ) -> Result<Response<Self::DraftStream>, Status> {
        let key = StreamKey(self.next_key.fetch_add(1, Ordering::Relaxed));
        let (outbox, messages) = mpsc::channel(OUTBOX);
        if !self.engine.send(Command::Open(key, outbox)) {
            return Err(Error::Draining.into());
        }
        let over = CancellationToken::new();
        let engine = self.engine.clone();
        let inbound = forward(engine.clone(), key, request.into_inner());
        let inbound = over.clone().run_until_cancelled_owned(inbound);
        tokio::spawn(async move {
            inbound.await;
            engine.send(Command::Close(key));
        });
        // When the answers end, or nobody is there to take them, no message is wanted any more.
        let over = over.drop_guard();
        let outbound = ReceiverStream::new(messages).inspect(move |_| _ = &over);
        Ok(Response::new(outbound.boxed()))
    }

    async fn get_drafter_info(
        &self,
        _: Request<GetDrafterInfoRequest>,
    ) -> Result<Response<GetDrafterInfoResponse>, Status> {
        let load = self.engine.load().await?;
        Ok(Response::new(GetDrafterInfoResponse {
            load: Some(load),
            ..self.info.clone()
        }))
    }
}

/// Hands the verifier's messages to the engine, until it half-closes or is gone.
async fn forward(engine: EngineHandle, key: StreamKey, mut inbound: Streaming<VerifierMessage>) {
    while let Ok(Some(message)) = inbound.message().await {
        if !engine.send(Command::Message(key, Box::new(message))) {
            return;
        }
    }
}
