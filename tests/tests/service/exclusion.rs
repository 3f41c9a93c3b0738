//! Drafters that misbehave are left out, for longer each time.

use crate::support::*;
use dssd_proto::v1::{
    self, DrafterMessage, GetDrafterInfoRequest, GetDrafterInfoResponse, Proposal, Ready,
    VerifierMessage, drafter_message,
    drafting_server::{Drafting, DraftingServer},
    verifier_message,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, Uri},
};

/// What a fake answers to a Commit that asks for a draft; it is ready for every Open.
type Answer = fn(epoch: u64) -> Option<Result<Proposal, Status>>;

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
                    Some(verifier_message::Message::Commit(commit)) => answer(commit.epoch)
                        .map(|answer| answer.map(drafter_message::Message::Proposal)),
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
async fn fake(answer: Answer) -> (Uri, Arc<AtomicU32>) {
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

/// Generates until `count` streams were opened, and returns how long that took.
async fn time_of_streams(answer: Answer, count: u32) -> Duration {
    let (uri, streams) = fake(answer).await;
    let verifier = verifier(|config| config.drafts = vec![uri]).await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, plain(request(100))).await.token_ids;
    let begun = Instant::now();
    let opened = async {
        while streams.load(Ordering::Relaxed) < count {
            let answer = generate(&mut client, request(100)).await;
            assert_eq!(answer.token_ids, expected);
        }
    };
    let opened = tokio::time::timeout(Duration::from_secs(60), opened).await;
    opened.expect("the drafter is tried again and again");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_does_not_clear_a_drafter_of_nonsense() {
    let nonsense = |epoch| {
        Some(Ok(Proposal {
            epoch: epoch + 1000,
            ..Proposal::default()
        }))
    };
    // 250, 500 and 1000 ms lie between four streams; were each one the first, 750 ms would.
    let time = time_of_streams(nonsense, 4).await;
    assert!(time >= Duration::from_millis(1750), "{time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drafter_that_cancels_its_streams_is_left_out_each_time() {
    let cancelled = |_| Some(Err(Status::cancelled("the drafter went away")));
    let time = time_of_streams(cancelled, 4).await;
    assert!(time >= Duration::from_millis(750), "{time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drafter_that_falls_silent_is_replaced_within_the_generation() {
    let (silent, _) = fake(|_| None).await;
    let honest = drafter().await;
    let drafts = vec![silent.clone(), honest.uri()];
    let verifier = verifier(|config| config.drafts = drafts).await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, plain(request(800))).await.token_ids;
    let replaced = async {
        loop {
            let answer = generate(&mut client, request(800)).await;
            assert_eq!(answer.token_ids, expected);
            let report = answer.finish_info.unwrap().speculative_decoding.unwrap();
            if report.drafter_losses > 0 {
                break report;
            }
        }
    };
    let report = tokio::time::timeout(Duration::from_secs(30), replaced).await;
    let report = report.expect("half of the generations begin with the silent one");
    assert!(report.num_drafts > 0, "another one was opened: {report:?}");
    let info = client
        .get_server_info(v1::GetServerInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    let address = silent.authority().unwrap().as_str();
    let status = info.drafters.iter().find(|d| d.address == address);
    assert_eq!(status.unwrap().reason, "sends no proposals");
}
