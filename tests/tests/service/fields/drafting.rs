//! Messages to draft-svc.

use super::{Row, named};
use crate::support::*;
use dssd_proto::v1::{
    Commit, GetDrafterInfoRequest, Open, SamplingSettings, Speculation, VerifierMessage,
    drafting_client::DraftingClient, verifier_message::Message,
};
use std::time::Duration;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

/// An Open of five tokens, and a Commit of one more that asks for a draft.
struct Talk {
    open: Option<Open>,
    commit: Option<Commit>,
}

const ROWS: &[Row<Talk>] = &[
    ("VerifierMessage.open", "commit", |t| t.open = None),
    ("VerifierMessage.commit", "", |t| t.commit = None),
    ("Open.request_id", "", |t| {
        open(t).request_id = "x".repeat(1 << 20)
    }),
    (
        "Open.checkpoint_fingerprint",
        "checkpoint_fingerprint",
        |t| {
            open(t).checkpoint_fingerprint = "é".repeat(1 << 20);
        },
    ),
    ("Open.tokenizer_hash", "tokenizer_hash", |t| {
        open(t).tokenizer_hash.clear()
    }),
    ("Open.vocabulary_size", "vocabulary_size", |t| {
        open(t).vocabulary_size = u32::MAX
    }),
    ("Open.token_ids", "open.token_ids", |t| {
        open(t).token_ids.clear()
    }),
    ("Open.token_ids", "open.token_ids", |t| {
        open(t).token_ids[2] = 4096
    }),
    ("Open.token_ids", "open.token_ids", |t| {
        open(t).token_ids = vec![1; 1025]
    }),
    ("Open.prompt_length", "open.prompt_length", |t| {
        open(t).prompt_length = 0
    }),
    ("Open.prompt_length", "open.prompt_length", |t| {
        open(t).prompt_length = 6
    }),
    ("Open.sampling", "open.sampling", |t| {
        open(t).sampling = None
    }),
    ("Open.speculation", "", |t| open(t).speculation = None),
    ("Open.last_epoch", "", |t| open(t).last_epoch = u64::MAX),
    ("SamplingSettings.temperature", "temperature", |t| {
        sampling(t).temperature = f32::NAN
    }),
    ("SamplingSettings.top_k", "", |t| {
        sampling(t).top_k = u32::MAX
    }),
    ("SamplingSettings.top_p", "top_p", |t| {
        sampling(t).top_p = 0.0
    }),
    ("SamplingSettings.min_p", "min_p", |t| {
        sampling(t).min_p = 2.0
    }),
    ("SamplingSettings.seed", "", |t| sampling(t).seed = u64::MAX),
    (
        "SamplingSettings.repetition_penalty",
        "repetition_penalty",
        |t| {
            sampling(t).repetition_penalty = -1.0;
        },
    ),
    (
        "SamplingSettings.presence_penalty",
        "presence_penalty",
        |t| {
            sampling(t).presence_penalty = f32::MAX;
        },
    ),
    (
        "SamplingSettings.frequency_penalty",
        "frequency_penalty",
        |t| {
            sampling(t).frequency_penalty = f32::NEG_INFINITY;
        },
    ),
    ("SamplingSettings.logit_bias", "logit_bias", |t| {
        sampling(t).logit_bias = [(4096, 0.0)].into();
    }),
    ("SamplingSettings.min_new_tokens", "", |t| {
        sampling(t).min_new_tokens = u32::MAX
    }),
    ("SamplingSettings.max_new_tokens", "", |t| {
        sampling(t).max_new_tokens = u32::MAX
    }),
    ("SamplingSettings.max_new_tokens", "commit", |t| {
        sampling(t).max_new_tokens = 1;
        let commit = commit(t);
        commit.token_ids = vec![9; 4];
        commit.kv_position = 8;
    }),
    ("SamplingSettings.stop_token_ids", "stop_token_ids", |t| {
        sampling(t).stop_token_ids = vec![4096];
    }),
    ("SamplingSettings.stop_token_ids", "", |t| {
        sampling(t).min_new_tokens = 20;
        sampling(t).stop_token_ids = (0..4096).collect();
    }),
    ("Speculation.mode", "", |t| speculation(t).mode = 77),
    ("Speculation.policy", "policy", |t| {
        speculation(t).policy = "guess".into()
    }),
    ("Speculation.policy", "policy", |t| {
        speculation(t).policy = "x".repeat(100_000)
    }),
    ("Speculation.max_draft_tokens", "", |t| {
        speculation(t).max_draft_tokens = Some(u32::MAX)
    }),
    ("Speculation.exit_head", "policy", |t| {
        speculation(t).policy = "fixed".into();
        speculation(t).exit_head = Some(u32::MAX);
    }),
    ("Speculation.target_agreement", "policy", |t| {
        speculation(t).target_agreement = Some(f32::NAN);
    }),
    ("Speculation.entropy_threshold", "policy", |t| {
        speculation(t).entropy_threshold = Some(-1.0);
    }),
    ("Speculation.trace", "", |t| speculation(t).trace = true),
    ("Commit.epoch", "commit.epoch", |t| commit(t).epoch = 0),
    ("Commit.epoch", "", |t| commit(t).epoch = u64::MAX),
    ("Commit.first_position", "commit.first_position", |t| {
        commit(t).first_position = 4
    }),
    ("Commit.first_position", "commit.token_ids", |t| {
        commit(t).first_position = u32::MAX
    }),
    ("Commit.token_ids", "commit.token_ids", |t| {
        commit(t).token_ids[0] = 4096
    }),
    ("Commit.token_ids", "commit.kv_position", |t| {
        commit(t).token_ids.clear()
    }),
    ("Commit.kv_position", "commit.kv_position", |t| {
        commit(t).kv_position = u32::MAX
    }),
    ("Commit.accepted", "commit.proposal_epoch", |t| {
        commit(t).accepted = Some(1)
    }),
    ("Commit.proposal_epoch", "commit.proposal_epoch", |t| {
        commit(t).proposal_epoch = Some(1)
    }),
    ("Commit.proposal_epoch", "commit.proposal_epoch", |t| {
        commit(t).accepted = Some(1);
        commit(t).proposal_epoch = Some(2);
    }),
    ("Commit.accepted", "", |t| {
        commit(t).accepted = Some(u32::MAX);
        commit(t).proposal_epoch = Some(1);
    }),
    ("Commit.max_draft_tokens", "", |t| {
        commit(t).max_draft_tokens = u32::MAX
    }),
    ("Commit.draft_budget_us", "", |t| {
        commit(t).draft_budget_us = Some(0)
    }),
    ("Commit.draft_budget_us", "", |t| {
        commit(t).draft_budget_us = Some(u64::MAX)
    }),
    ("Commit.verify_cost_us", "", |t| {
        commit(t).verify_cost_us = vec![u64::MAX; 10_000]
    }),
];

pub(super) fn covered() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.0)
}

fn open(talk: &mut Talk) -> &mut Open {
    talk.open.get_or_insert_default()
}

fn commit(talk: &mut Talk) -> &mut Commit {
    talk.commit.get_or_insert_default()
}

fn sampling(talk: &mut Talk) -> &mut SamplingSettings {
    open(talk).sampling.get_or_insert_default()
}

fn speculation(talk: &mut Talk) -> &mut Speculation {
    open(talk).speculation.get_or_insert_default()
}

async fn fitting(client: &mut DraftingClient<Channel>) -> Talk {
    let info = client.get_drafter_info(GetDrafterInfoRequest {}).await;
    let info = info.unwrap().into_inner();
    Talk {
        open: Some(Open {
            request_id: "row".into(),
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
        }),
        commit: Some(Commit {
            epoch: 2,
            first_position: 5,
            token_ids: vec![60],
            kv_position: 5,
            max_draft_tokens: 3,
            ..Default::default()
        }),
    }
}

/// Sends everything, half-closes, and reads to the end.
async fn say(client: &mut DraftingClient<Channel>, messages: Vec<Message>) -> Result<(), Status> {
    let messages = messages.into_iter().map(|message| VerifierMessage {
        message: Some(message),
    });
    let mut answers = client
        .draft(tokio_stream::iter(messages.collect::<Vec<_>>()))
        .await?
        .into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn draft() {
    let drafter = drafter().await;
    let mut client = DraftingClient::new(channel(&drafter).await);
    for &(place, field, change) in ROWS {
        let mut talk = fitting(&mut client).await;
        change(&mut talk);
        let open = talk.open.map(Message::Open);
        let messages = open.into_iter().chain(talk.commit.map(Message::Commit));
        let said = say(&mut client, messages.collect());
        let said = tokio::time::timeout(Duration::from_secs(60), said).await;
        match (field, said.expect("an answer in time")) {
            ("", outcome) => outcome.unwrap_or_else(|status| panic!("{place}: {status}")),
            (_, Ok(())) => panic!("{place} is taken, it had to be refused as {field}"),
            (_, Err(status)) if status.code() == Code::FailedPrecondition => {
                let details = status.get_error_details();
                let violations = &details.precondition_failure().unwrap().violations;
                assert_eq!(violations[0].subject, field, "{place}: {status}");
            }
            (_, Err(status)) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{place}: {status}");
                assert_eq!(named(&status), [field], "{place}: {status}");
            }
        }
    }
    let empty = tokio_stream::once(VerifierMessage::default());
    let mut answers = client.draft(empty).await.unwrap().into_inner();
    let status = answers.message().await.unwrap_err();
    assert_eq!(named(&status), ["message"], "{status}");
}
