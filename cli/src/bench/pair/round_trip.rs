//! A Commit and its Proposal through gRPC, without any model.

use crate::{
    bench::timing::median,
    oracle::{Oracle, OracleSettings, Truth},
    pair,
};
use anyhow::Context;
use dssd_proto::v1::{
    Commit, DrafterMessage, Open, VerifierMessage, drafter_message,
    drafting_client::DraftingClient, verifier_message,
};
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

const ROUNDS: usize = 2000;
/// Rounds that warm up connection and caches.
const UNCOUNTED: usize = 200;
/// Tokens that are committed, and drafted, in a round.
const TOKENS: u32 = 4;
const REQUEST: &str = "round-trip";

/// Median seconds from a Commit to its Proposal.
///
/// # Errors
/// If loopback connections fail.
pub(super) async fn measure() -> anyhow::Result<f64> {
    let truth = Truth::default();
    truth.tell(
        REQUEST,
        &vec![1; (ROUNDS + UNCOUNTED + 1) * TOKENS as usize],
    );
    let settings = OracleSettings {
        acceptance: 1.0,
        seed: 0,
    };
    let service = pair::own_drafter(Oracle::new(truth, settings)).await?;
    let channel = Endpoint::from(service.uri()?)
        .tcp_nodelay(true)
        .connect()
        .await?;
    let (sender, outbox) = mpsc::channel(1);
    let open = Open {
        request_id: REQUEST.to_owned(),
        token_ids: vec![1],
        prompt_length: 1,
        vocabulary_size: 2,
        ..Open::default()
    };
    sender
        .send(message(verifier_message::Message::Open(open)))
        .await?;
    let opening = DraftingClient::new(channel)
        .draft(ReceiverStream::new(outbox))
        .await;
    let mut inbox = opening.context("the drafter does not answer")?.into_inner();
    next(&mut inbox).await?;
    let mut seconds = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS + UNCOUNTED {
        let begun = Instant::now();
        sender
            .send(message(verifier_message::Message::Commit(commit(round))))
            .await?;
        let answer = next(&mut inbox).await?;
        let elapsed = begun.elapsed().as_secs_f64();
        let proposed = matches!(answer.message, Some(drafter_message::Message::Proposal(_)));
        anyhow::ensure!(proposed, "the drafter proposed nothing");
        if round >= UNCOUNTED {
            seconds.push(elapsed);
        }
    }
    drop((sender, inbox));
    service.stop().await?;
    Ok(median(&seconds))
}

fn message(message: verifier_message::Message) -> VerifierMessage {
    VerifierMessage {
        message: Some(message),
    }
}

fn commit(round: usize) -> Commit {
    let first_position = 1 + round as u32 * TOKENS;
    Commit {
        epoch: 1 + round as u64,
        first_position,
        token_ids: vec![1; TOKENS as usize],
        kv_position: first_position + TOKENS - 1,
        max_draft_tokens: TOKENS,
        draft_budget_us: Some(50_000),
        verify_cost_us: vec![1000; TOKENS as usize + 1],
        ..Commit::default()
    }
}

async fn next(inbox: &mut Streaming<DrafterMessage>) -> anyhow::Result<DrafterMessage> {
    inbox
        .message()
        .await?
        .context("the drafter ended the stream")
}
