//! Drafters that misbehave are left out, for longer each time.

use crate::{fake::*, support::*};
use dssd_proto::v1::{self, Proposal};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tonic::Status;

/// Generates until `count` streams were opened, and returns how long that took. Generations are long
/// enough for the drafter to be heard before the next one asks for a stream.
async fn time_of_streams(answer: Answer, count: u32) -> Duration {
    let (uri, streams) = fake(answer).await;
    let verifier = verifier(|config| config.drafts = vec![uri]).await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, plain(request(800))).await.token_ids;
    let begun = Instant::now();
    let opened = async {
        while streams.load(Ordering::Relaxed) < count {
            let answer = generate(&mut client, request(800)).await;
            assert_eq!(answer.token_ids, expected);
        }
    };
    let opened = tokio::time::timeout(Duration::from_secs(60), opened).await;
    opened.expect("the drafter is tried again and again");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_does_not_clear_a_drafter_of_nonsense() {
    let nonsense = |commit: &v1::Commit| {
        Some(Ok(Proposal {
            epoch: commit.epoch + 1000,
            ..Proposal::default()
        }))
    };
    // 250, 500 and 1000 ms lie between four streams; were each one the first, 750 ms would.
    let time = time_of_streams(nonsense, 4).await;
    assert!(time >= Duration::from_millis(1750), "{time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drafter_that_cancels_its_streams_is_left_out_each_time() {
    let cancelled = |_: &v1::Commit| Some(Err(Status::cancelled("the drafter went away")));
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
