//! gRPC in, commands to the engine out.

use crate::{
    Error,
    engine::{Command, EngineHandle, StreamKey},
};
use dssd_proto::v1::{
    DrafterMessage, GetDrafterInfoRequest, GetDrafterInfoResponse, VerifierMessage,
    drafting_server::Drafting,
};
use futures::{Stream, StreamExt as _, stream::BoxStream};
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Messages that a verifier may leave unread before its stream is given up. It asks for one
/// proposal at a time, so even a few say that it has stalled.
const OUTBOX: usize = 16;

/// Messages of one stream that may wait for the engine; further ones stay with the verifier, held
/// back by flow control. An honest verifier has a few under way.
const INBOX: usize = 64;

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
async fn forward(
    engine: EngineHandle,
    key: StreamKey,
    inbound: impl Stream<Item = Result<VerifierMessage, Status>>,
) {
    let room = Arc::new(Semaphore::new(INBOX));
    let mut inbound = pin!(inbound);
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Some(Ok(message)) = inbound.next().await else {
            return;
        };
        if !engine.send(Command::Message(key, Box::new(message), permit)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn a_flood_is_held_back_until_the_engine_has_room() {
        let (engine, queue) = EngineHandle::detached();
        let taken = Cell::new(0);
        let flood = futures::stream::repeat_with(|| {
            taken.set(taken.get() + 1);
            Ok(VerifierMessage::default())
        });
        let mut forwarding = pin!(forward(engine, StreamKey(1), flood));
        assert!(futures::poll!(&mut forwarding).is_pending());
        assert_eq!(taken.get(), INBOX);
        assert!(futures::poll!(&mut forwarding).is_pending());
        assert_eq!(taken.get(), INBOX, "nothing more while the queue is full");
        drop(queue.recv().unwrap());
        assert!(futures::poll!(&mut forwarding).is_pending());
        assert_eq!(taken.get(), INBOX + 1, "one was handled, so one more came");
        assert_eq!(queue.try_iter().count(), INBOX);
    }
}
