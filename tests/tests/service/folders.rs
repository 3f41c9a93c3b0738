//! What draft-svc can be made of besides a whole model folder: trained heads, a split folder.

use crate::support::*;
use dssd_common::{
    bytes::SharedBytes,
    checkpoint::{Checkpoint, TensorData, demo},
    exit::{ExitHead, ExitHeads, HeadKind},
    serve::open_model,
};
use dssd_proto::v1::{
    GenerateRequest, GetDrafterInfoRequest, GetDrafterInfoResponse, Speculation,
    drafting_client::DraftingClient,
};
use std::sync::Arc;

/// A head with the model's own final norm and the given LM head.
fn head(checkpoint: &Checkpoint, layer: usize, weight: TensorData) -> ExitHead {
    let norm = |part| checkpoint.tensor(&format!("gpt_neox.final_layer_norm.{part}"));
    ExitHead {
        layer,
        agreement: None,
        norm_weight: norm("weight").unwrap(),
        norm_bias: Some(norm("bias").unwrap()),
        kind: HeadKind::Linear { weight, bias: None },
    }
}

/// The LM head whose rows name other tokens: what it reads is wrong.
fn misnamed(lm_head: &TensorData) -> TensorData {
    let mut bytes = lm_head.bytes.as_ref().to_vec();
    let half = bytes.len() / 2;
    bytes.rotate_left(half);
    TensorData {
        bytes: SharedBytes::from_vec(bytes),
        ..lm_head.clone()
    }
}

async fn info(drafter: &Drafter) -> GetDrafterInfoResponse {
    let mut client = DraftingClient::new(channel(drafter).await);
    let info = client.get_drafter_info(GetDrafterInfoRequest {}).await;
    info.unwrap().into_inner()
}

/// Accepted and drafted tokens of a generation that must be that of plain decoding.
async fn drafted_by(drafter: &Drafter, policy: &str) -> (u64, u64) {
    let draft_uri = drafter.uri();
    let verifier = verifier(|config| config.drafts = vec![draft_uri]).await;
    let mut client = client(&verifier).await;
    let (mut accepted, mut drafted) = (0, 0);
    for seed in 0..3 {
        let asked = GenerateRequest {
            speculation: Some(Speculation {
                policy: policy.to_owned(),
                ..Speculation::default()
            }),
            ..sampled(80, seed)
        };
        let expected = generate(&mut client, plain(asked.clone())).await;
        let answer = generate(&mut client, asked).await;
        assert_eq!(answer.token_ids, expected.token_ids);
        let finish = answer.finish_info.unwrap();
        let report = finish.speculative_decoding.unwrap();
        accepted += report.num_accepted_tokens;
        drafted += report.num_draft_tokens;
    }
    (accepted, drafted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_heads_is_drafted_with() {
    let (checkpoint, tokenizer) = open_demo();
    let lm_head = checkpoint.tensor("embed_out.weight").unwrap();
    let heads = ExitHeads {
        checkpoint_fingerprint: checkpoint.fingerprint().unwrap(),
        tokenizer_hash: tokenizer.map(|tokenizer| tokenizer.hash().to_owned()),
        held_out_share: 0,
        heads: vec![
            head(&checkpoint, 5, misnamed(&lm_head)),
            head(&checkpoint, 8, lm_head),
        ],
        calibration: None,
    };
    let dir = tempfile::TempDir::new().unwrap();
    heads.save(dir.path()).unwrap();
    let drafter = drafter_at("127.0.0.1:0", checkpoint, |config| {
        config.heads = Some(dir.path().to_owned());
    })
    .await;
    assert_eq!(info(&drafter).await.exit_layers, [5, 8]);
    let (accepted, drafted) = drafted_by(&drafter, "fixed:1:3").await;
    assert!(
        accepted * 4 > drafted && drafted > 0,
        "{accepted} of {drafted}"
    );
    let (accepted, drafted) = drafted_by(&drafter, "fixed:0:3").await;
    assert!(accepted * 10 < drafted, "{accepted} of {drafted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_folder_is_for_drafters_only() {
    let whole = open_demo().0;
    let dir = tempfile::TempDir::new().unwrap();
    whole.save_split(dir.path(), 4).unwrap();
    let (split, tokenizer) = open_model(Some(dir.path())).unwrap();
    let refused = verifier_of(Arc::clone(&split), tokenizer, |_| {}).await;
    let error = refused.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("4 of 12 layers"), "{error}");
    assert!(error.contains("draft-svc"), "{error}");

    let drafter = drafter_at("127.0.0.1:0", split, |_| {}).await;
    let info = info(&drafter).await;
    assert_eq!(info.exit_layers, [2, 4]);
    let of_whole = Checkpoint::open(&demo::folder().unwrap()).unwrap();
    assert_eq!(info.checkpoint_fingerprint, of_whole.fingerprint().unwrap());
    let (accepted, drafted) = drafted_by(&drafter, "fixed:1:2").await;
    assert!(
        0 < accepted && accepted <= drafted,
        "{accepted} of {drafted}"
    );
}
