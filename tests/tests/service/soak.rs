//! Nothing is left behind, however many generations come and however they end.

use crate::support::*;
use dssd_proto::v1::{self, drafting_client::DraftingClient};
use futures::{StreamExt, stream};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;
use tokio::runtime::Handle;

/// Generations; the long run sets `DSSD_SOAK_GENERATIONS`.
const GENERATIONS: u64 = 400;
const AT_ONCE: usize = 16;

/// Waits until the drafter holds no stream and no block any more, and the runtime no more tasks
/// than before.
async fn settles(
    drafting: &mut DraftingClient<tonic::transport::Channel>,
    before: (v1::DrafterLoad, usize),
) {
    let settled = async {
        loop {
            let info = drafting
                .get_drafter_info(v1::GetDrafterInfoRequest {})
                .await
                .unwrap();
            let load = info.into_inner().load.unwrap_or_default();
            let tasks = Handle::current().metrics().num_alive_tasks();
            if (load.sequences, load.free_kv_blocks)
                == (before.0.sequences, before.0.free_kv_blocks)
                && tasks <= before.1
            {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled)
        .await
        .expect("the drafter frees what nobody wants, and every task ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_and_finished_generations_leave_nothing_behind() {
    let generations = std::env::var("DSSD_SOAK_GENERATIONS").map_or(GENERATIONS, |text| {
        text.parse().expect("DSSD_SOAK_GENERATIONS is a number")
    });
    let drafter = drafter().await;
    let draft_uri = drafter.uri();
    let verifier = verifier(|config| config.drafts = vec![draft_uri]).await;
    let client = client(&verifier).await;
    let mut drafting = DraftingClient::new(channel(&drafter).await);
    generate(&mut client.clone(), request(8)).await;
    becomes_idle(&mut client.clone()).await;
    let info = drafting
        .get_drafter_info(v1::GetDrafterInfoRequest {})
        .await
        .unwrap();
    let mut load = info.into_inner().load.unwrap();
    while load.sequences > 0 {
        let info = drafting
            .get_drafter_info(v1::GetDrafterInfoRequest {})
            .await
            .unwrap();
        load = info.into_inner().load.unwrap();
    }
    let tasks = Handle::current().metrics().num_alive_tasks();

    let outcomes = stream::iter(0..generations).map(|seed| {
        let mut client = client.clone();
        async move {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let length = rng.random_range(1..=12);
            let request = sampled(length, seed);
            let mut messages = client.generate_stream(request).await.unwrap().into_inner();
            if seed % 2 == 0 {
                // Half are dropped after some messages: at a random moment of their life.
                for _ in 0..rng.random_range(0..=length) {
                    messages.message().await.unwrap();
                }
                return false;
            }
            let mut finished = false;
            while let Some(message) = messages.message().await.unwrap() {
                finished = matches!(
                    message.event,
                    Some(v1::generate_stream_response::Event::FinishInfo(_))
                );
            }
            finished
        }
    });
    let finished = outcomes
        .buffer_unordered(AT_ONCE)
        .filter(|finished| std::future::ready(*finished))
        .count()
        .await;
    assert_eq!(
        finished as u64,
        generations / 2,
        "all that were not cancelled finish"
    );
    becomes_idle(&mut client.clone()).await;
    settles(&mut drafting, (load, tasks)).await;
    verifier.stop().await;
    drafter.stop().await;
}
