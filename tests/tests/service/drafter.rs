//! draft-svc alone, as a person probing by hand meets it.

use crate::support::*;
use dssd_proto::v1::{
    Commit, DrafterMessage, GetDrafterInfoRequest, Open, SamplingSettings, VerifierMessage,
    drafter_message::Message, drafting_client::DraftingClient, verifier_message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

struct Probe {
    client: DraftingClient<Channel>,
    sender: Option<mpsc::Sender<VerifierMessage>>,
    inbox: Streaming<DrafterMessage>,
}

impl Probe {
    async fn start(drafter: &Drafter) -> Self {
        let mut client = DraftingClient::new(channel(drafter).await);
        let (sender, outbox) = mpsc::channel(8);
        let inbox = client.draft(ReceiverStream::new(outbox)).await.unwrap();
        Self {
            client,
            sender: Some(sender),
            inbox: inbox.into_inner(),
        }
    }

    async fn send(&self, message: verifier_message::Message) {
        let message = VerifierMessage {
            message: Some(message),
        };
        self.sender.as_ref().unwrap().send(message).await.unwrap();
    }

    async fn receive(&mut self) -> Result<Option<Message>, Status> {
        Ok(self
            .inbox
            .message()
            .await?
            .map(|message| message.message.unwrap()))
    }

    /// An Open that fits the drafter, with a prompt of five tokens.
    async fn fitting_open(&mut self) -> Open {
        let info = self.client.get_drafter_info(GetDrafterInfoRequest {}).await;
        let info = info.unwrap().into_inner();
        Open {
            request_id: "probe".into(),
            checkpoint_fingerprint: info.checkpoint_fingerprint,
            tokenizer_hash: info.tokenizer_hash,
            vocabulary_size: info.vocabulary_size,
            token_ids: vec![10, 20, 30, 40, 50],
            prompt_length: 5,
            sampling: Some(SamplingSettings {
                top_p: 1.0,
                repetition_penalty: 1.0,
                max_new_tokens: 20,
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

fn commit(max_draft_tokens: u32) -> Commit {
    Commit {
        epoch: 1,
        first_position: 5,
        token_ids: vec![60],
        kv_position: 5,
        max_draft_tokens,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_and_commit_are_answered_until_the_half_close() {
    let drafter = drafter().await;
    let mut probe = Probe::start(&drafter).await;
    let mut open = probe.fitting_open().await;
    open.speculation.get_or_insert_default().policy = "fixed:1:3".to_owned();
    probe.send(verifier_message::Message::Open(open)).await;
    let Some(Message::Ready(ready)) = probe.receive().await.unwrap() else {
        panic!("Ready answers the Open");
    };
    assert_eq!(ready.exit_layers, [2, 4, 7, 9]);
    probe
        .send(verifier_message::Message::Commit(commit(3)))
        .await;
    let Some(Message::Proposal(proposal)) = probe.receive().await.unwrap() else {
        panic!("a Proposal answers the Commit");
    };
    assert_eq!((proposal.epoch, proposal.base_position), (1, 6));
    assert_eq!(proposal.tokens.len(), 3);
    assert!(
        proposal
            .tokens
            .iter()
            .all(|token| token.exit_head == 1 && token.entropy >= 0.0)
    );
    let info = probe
        .client
        .get_drafter_info(GetDrafterInfoRequest {})
        .await;
    assert_eq!(info.unwrap().into_inner().load.unwrap().sequences, 1);
    probe.sender = None;
    assert_eq!(probe.receive().await.unwrap(), None, "the stream ends well");
    let info = probe
        .client
        .get_drafter_info(GetDrafterInfoRequest {})
        .await;
    assert_eq!(info.unwrap().into_inner().load.unwrap().sequences, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused() {
    let drafter = drafter().await;
    let mut probe = Probe::start(&drafter).await;
    probe
        .send(verifier_message::Message::Commit(commit(3)))
        .await;
    let status = probe.receive().await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::InvalidArgument,
        "a Commit before the Open: {status}"
    );

    let mut probe = Probe::start(&drafter).await;
    let mut open = probe.fitting_open().await;
    open.checkpoint_fingerprint = "another".into();
    probe.send(verifier_message::Message::Open(open)).await;
    let status = probe.receive().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("another"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_too_many_is_refused_and_room_comes_back() {
    let drafter = drafter_at("127.0.0.1:0", open_demo().0, |c| c.serve.max_sequences = 1).await;
    let mut first = Probe::start(&drafter).await;
    let open = first.fitting_open().await;
    first.send(verifier_message::Message::Open(open)).await;
    first.receive().await.unwrap();
    let status = Probe::start(&drafter).await.receive().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    // A verifier that vanishes gives its room back.
    let mut client = first.client.clone();
    drop(first);
    let freed = async {
        loop {
            let info = client.get_drafter_info(GetDrafterInfoRequest {}).await;
            if info.unwrap().into_inner().load.unwrap().sequences == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), freed)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_streams_at_once() {
    let drafter = drafter().await;
    let mut probe = Probe::start(&drafter).await;
    let ((), end) = tokio::join!(drafter.stop(), probe.receive());
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_beyond_what_was_announced_ends_its_own_stream_only() {
    let drafter = drafter().await;
    let mut good = Probe::start(&drafter).await;
    let open = good.fitting_open().await;
    good.send(verifier_message::Message::Open(open.clone()))
        .await;
    good.receive().await.unwrap();
    let mut greedy = Probe::start(&drafter).await;
    let mut short = open;
    short.sampling.get_or_insert_default().max_new_tokens = 1;
    greedy.send(verifier_message::Message::Open(short)).await;
    greedy.receive().await.unwrap();
    greedy
        .send(verifier_message::Message::Commit(commit(6)))
        .await;
    let status = greedy.receive().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    good.send(verifier_message::Message::Commit(commit(2)))
        .await;
    let answer = good.receive().await.unwrap();
    assert!(matches!(answer, Some(Message::Proposal(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_commits_is_followed_to_its_end_and_delays_nobody_else() {
    let drafter = drafter().await;
    let mut flooding = Probe::start(&drafter).await;
    let open = flooding.fitting_open().await;
    let last = 20_000;
    flooding
        .send(verifier_message::Message::Open(open.clone()))
        .await;
    let flood = async {
        for epoch in 1..=last {
            let commit = Commit {
                epoch,
                ..commit(u32::from(epoch == last))
            };
            flooding
                .send(verifier_message::Message::Commit(commit))
                .await;
        }
    };
    let other = async {
        let mut probe = Probe::start(&drafter).await;
        probe.send(verifier_message::Message::Open(open)).await;
        probe.receive().await.unwrap();
        probe
            .send(verifier_message::Message::Commit(commit(2)))
            .await;
        let answer = probe.receive().await.unwrap();
        assert!(matches!(answer, Some(Message::Proposal(_))), "{answer:?}");
    };
    let both = async { tokio::join!(flood, other) };
    tokio::time::timeout(std::time::Duration::from_secs(20), both)
        .await
        .unwrap();
    let mut answers = Vec::new();
    while answers.len() < 2 {
        answers.push(flooding.receive().await.unwrap().unwrap());
    }
    assert!(matches!(answers[0], Message::Ready(_)), "{answers:?}");
    let Message::Proposal(proposal) = &answers[1] else {
        panic!("the Commit that asks is answered: {answers:?}");
    };
    assert_eq!((proposal.epoch, proposal.tokens.len()), (last, 1));
}
