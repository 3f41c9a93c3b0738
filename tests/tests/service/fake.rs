//! A drafter that answers as a test wants it to.

use dssd_proto::v1::{
    Commit, DrafterMessage, GetDrafterInfoRequest, GetDrafterInfoResponse, Proposal, Ready,
    VerifierMessage, drafter_message,
    drafting_server::{Drafting, DraftingServer},
    verifier_message,
};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, Uri},
};

/// What a fake answers to a Commit; it is ready for every Open.
pub(crate) type Answer = fn(&Commit) -> Option<Result<Proposal, Status>>;

struct Fake {
    streams: Arc<AtomicU32>,
    answer: Answer,
}

#[tonic::async_trait]
impl Drafting for Fake {
    type DraftStream = ReceiverStream<Result<DrafterMessage, Status>>;

    async fn draft(
        &self,
        request: Request<Streaming<VerifierMessage>>,
    ) -> Result<Response<Self::DraftStream>, Status> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        let (outbox, messages) = mpsc::channel(16);
        let (mut inbound, answer) = (request.into_inner(), self.answer);
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                let answer = match message.message {
                    Some(verifier_message::Message::Open(_)) => {
                        Some(Ok(drafter_message::Message::Ready(Ready::default())))
                    }
                    Some(verifier_message::Message::Commit(commit)) => {
                        answer(&commit).map(|answer| answer.map(drafter_message::Message::Proposal))
                    }
                    None => None,
                };
                let Some(answer) = answer else { continue };
                let answer = answer.map(|message| DrafterMessage {
                    message: Some(message),
                });
                let over = answer.is_err();
                if outbox.send(answer).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn get_drafter_info(
        &self,
        _: Request<GetDrafterInfoRequest>,
    ) -> Result<Response<GetDrafterInfoResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }
}

/// Where a fake is, and how many streams were opened to it.
pub(crate) async fn fake(answer: Answer) -> (Uri, Arc<AtomicU32>) {
    let streams = Arc::new(AtomicU32::new(0));
    let service = DraftingServer::new(Fake {
        streams: Arc::clone(&streams),
        answer,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    (uri.parse().unwrap(), streams)
}
