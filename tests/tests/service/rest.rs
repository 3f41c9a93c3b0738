//! Where drafts do not pay, few generations ask for a drafter.

use crate::{fake::*, support::*};
use dssd_proto::v1::{DraftStopReason, PlainReason, Proposal};
use std::sync::atomic::Ordering;

#[tokio::test(flavor = "multi_thread")]
async fn what_one_drafter_declined_the_next_generations_do_not_ask() {
    let (uri, streams) = fake(|commit| {
        let declined = Ok(Proposal {
            epoch: commit.epoch,
            base_position: commit.kv_position + 1,
            stop_reason: DraftStopReason::Cost.into(),
            ..Proposal::default()
        });
        (commit.max_draft_tokens > 0).then_some(declined)
    })
    .await;
    let verifier = verifier(|config| {
        config.drafts = vec![uri];
        config.serve.policy = Some("auto".to_owned());
    })
    .await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, plain(request(200))).await.token_ids;
    let mut paused_throughout = 0;
    for _ in 0..12 {
        let answer = generate(&mut client, request(200)).await;
        assert_eq!(answer.token_ids, expected);
        let told = answer.finish_info.unwrap().speculative_decoding.unwrap();
        let reasons = told.plain_rounds.iter();
        paused_throughout += u32::from(reasons.map(|told| told.reason()).eq([PlainReason::Paused]));
    }
    // Rests of 64, 128 … 1024 tokens lie between the scouts.
    let asked = streams.load(Ordering::Relaxed);
    assert!((2..=6).contains(&asked), "{asked} of 12 asked");
    assert!(
        paused_throughout >= 4,
        "{paused_throughout} rested to the end"
    );
    verifier.stop().await;
}
