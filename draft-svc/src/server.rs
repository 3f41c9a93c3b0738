//! gRPC in, commands to the engine out.

use crate::{
    Error,
    engine::{Command, Condition, EngineHandle, Incoming, Peer, Spans, StreamKey},
};
use dssd_common::serve::{Identity, Trail, blame_sender};
use dssd_proto::v1::{
    DrafterMessage, GetDrafterInfoRequest, GetDrafterInfoResponse, VerifierMessage,
    drafting_server::Drafting,
};
use futures::{Stream, StreamExt as _, stream::BoxStream};
use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Messages that a verifier may leave unread before its stream is given up. It asks for one
/// proposal at a time, so even a few say that it has stalled.
const OUTBOX: usize = 16;

/// Messages of one stream that may wait for the engine; further ones stay with the verifier, held
/// back by flow control. An honest verifier has a few under way.
const INBOX: usize = 64;

/// How long a verifier may be silent on a stream, which holds one of a few places.
#[derive(Clone, Copy)]
struct Silence {
    /// Before it has said what the stream is for.
    first: Duration,
    /// Afterwards: verifiers rest where drafts do not pay, and while their clients do not read.
    later: Duration,
}

const SILENCE: Silence = Silence {
    first: Duration::from_secs(30),
    later: Duration::from_secs(600),
};

/// The Drafting service.
pub(crate) struct Server {
    engine: EngineHandle,
    /// What never changes; the rest is filled in when asked.
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
        let same_host = is_same_host(request.local_addr(), request.remote_addr());
        // It must not keep the answers open.
        let complaints = outbox.downgrade();
        let request_id = Identity::named_in(request.metadata()).map_err(Error::from)?;
        let trail = Trail::of_call("drafting", request.metadata());
        let identity = Identity::new(request_id.unwrap_or_default(), trail);
        let peer = Peer {
            outbox,
            same_host,
            spans: Spans::new(identity.clone()),
        };
        if !self.engine.send(Command::Open(key, peer)) {
            return Err(Error::Draining.into());
        }
        let over = CancellationToken::new();
        let engine = self.engine.clone();
        let inbound = forward(engine.clone(), key, request.into_inner(), SILENCE);
        let inbound = over.clone().run_until_cancelled_owned(inbound);
        let inbound = identity.logged(inbound);
        tokio::spawn(async move {
            if let (Some(Err(status)), Some(outbox)) = (inbound.await, complaints.upgrade()) {
                // Whoever does not read what there is need not know.
                _ = outbox.try_send(Err(blame_sender(status)));
            }
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
        let Condition { load, exit_heads } = self.engine.condition().await?;
        Ok(Response::new(GetDrafterInfoResponse {
            load: Some(load),
            exit_heads,
            ..self.info.clone()
        }))
    }
}

/// Hands the verifier's messages to the engine, until it half-closes, is gone, or says nothing
/// for long. An error is why they cannot be read any more.
async fn forward(
    engine: EngineHandle,
    key: StreamKey,
    inbound: impl Stream<Item = Result<VerifierMessage, Status>>,
    silence: Silence,
) -> Result<(), Status> {
    let room = Arc::new(Semaphore::new(INBOX));
    let mut inbound = pin!(inbound);
    let mut limit = silence.first;
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let message = match timeout(limit, inbound.next()).await {
            Ok(Some(message)) => message?,
            Ok(None) => break,
            Err(_) => {
                tracing::warn!(?limit, "a verifier says nothing: its stream is ended");
                break;
            }
        };
        limit = silence.later;
        let incoming = Incoming {
            message: Box::new(message),
            arrived: Instant::now(),
            _permit: permit,
        };
        if !engine.send(Command::Message(key, incoming)) {
            break;
        }
    }
    Ok(())
}

/// Whether both ends of a connection are on one machine: an address of one's own is reached from
/// that same address. What cannot be known counts as one machine.
fn is_same_host(local: Option<SocketAddr>, remote: Option<SocketAddr>) -> bool {
    let (Some(local), Some(remote)) = (local, remote) else {
        return true;
    };
    let (local, remote) = (local.ip().to_canonical(), remote.ip().to_canonical());
    remote.is_loopback() || local == remote
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_verifier_on_this_machine_is_known_by_its_address() {
        let address = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
        let same = |local, remote| is_same_host(address(local), address(remote));
        assert!(same("127.0.0.1:50052", "127.0.0.1:41000"));
        assert!(same("[::ffff:127.0.0.1]:50052", "[::ffff:127.0.0.1]:41000"));
        assert!(same("10.1.2.3:50052", "10.1.2.3:41000"));
        assert!(!same("10.1.2.3:50052", "10.1.2.4:41000"));
        assert!(!same("[::ffff:10.1.2.3]:50052", "[::ffff:10.1.2.4]:41000"));
        assert!(is_same_host(None, address("10.1.2.4:41000")));
    }

    #[tokio::test]
    async fn a_stream_that_says_nothing_is_given_up() {
        let (engine, queue) = EngineHandle::detached();
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(3600));
        let impatient = |first, later| Silence { first, later };
        let silent = futures::stream::pending();
        forward(engine.clone(), StreamKey(1), silent, impatient(short, long))
            .await
            .unwrap();
        let once = futures::stream::iter([Ok(VerifierMessage::default())]);
        let then_silent = once.chain(futures::stream::pending());
        forward(engine, StreamKey(2), then_silent, impatient(long, short))
            .await
            .unwrap();
        assert_eq!(queue.try_iter().count(), 1);
    }

    #[tokio::test]
    async fn a_flood_is_held_back_until_the_engine_has_room() {
        let (engine, queue) = EngineHandle::detached();
        let taken = Cell::new(0);
        let flood = futures::stream::repeat_with(|| {
            taken.set(taken.get() + 1);
            Ok(VerifierMessage::default())
        });
        let mut forwarding = pin!(forward(engine, StreamKey(1), flood, SILENCE));
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
