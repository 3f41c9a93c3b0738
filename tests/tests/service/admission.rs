//! Admission: who waits for room, who is refused, and how soon.

use crate::support::*;
use dssd_proto::v1::{self, FinishReason, GenerateStreamResponse, generate_stream_response::Event};
use futures::future::join_all;
use std::time::{Duration, Instant};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

type Client = v1::generation_client::GenerationClient<tonic::transport::Channel>;

/// A verifier with one place, and so much of a queue.
async fn narrow(max_queue: usize, max_queue_wait: Duration) -> Verifier {
    verifier(|config| {
        config.serve.max_sequences = 1;
        config.max_queue = Some(max_queue);
        config.max_queue_wait = max_queue_wait;
    })
    .await
}

/// A generation that holds the only place for much longer than a test looks.
async fn occupy(client: &mut Client) -> Streaming<GenerateStreamResponse> {
    let mut stream = client
        .generate_stream(request(1000))
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().expect("prompt_info");
    stream
}

/// Until so many wait.
async fn waiting(client: &mut Client, count: u32) {
    let waits = async {
        loop {
            let load = client.get_load(v1::GetLoadRequest {}).await.unwrap();
            if load.into_inner().waiting == count {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waits)
        .await
        .expect("requests come to wait");
}

fn assert_no_room(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let details = status.get_error_details();
    let delay = details.retry_info().and_then(|info| info.retry_delay);
    let seconds = delay.expect("a time to come back").as_secs_f64();
    assert!((1.0..=60.0).contains(&seconds), "{seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_room_and_give_what_they_give_alone() {
    let verifier = narrow(8, Duration::from_secs(60)).await;
    let client = client(&verifier).await;
    let alone = generate(&mut client.clone(), sampled(20, 5)).await;
    let calls = (0..6).map(|_| {
        let mut client = client.clone();
        async move { generate(&mut client, sampled(20, 5)).await }
    });
    for answer in join_all(calls).await {
        assert_eq!(answer.token_ids, alone.token_ids);
    }
    becomes_idle(&mut client.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_and_a_long_wait_are_refused_with_a_time_to_come_back() {
    let wait = Duration::from_millis(200);
    let verifier = narrow(1, wait).await;
    let mut client = client(&verifier).await;
    let running = occupy(&mut client).await;
    let begun = Instant::now();
    let mut other = client.clone();
    let waits = tokio::spawn(async move { other.generate(request(5)).await });
    waiting(&mut client, 1).await;
    let full = client.generate(request(5)).await.unwrap_err();
    assert_no_room(&full);
    assert!(full.message().contains("wait already"), "{full}");
    let late = waits.await.unwrap().unwrap_err();
    assert_no_room(&late);
    assert!(late.message().contains("of waiting"), "{late}");
    assert!(begun.elapsed() >= wait);
    drop(running);
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_queue_refuses_at_once() {
    let verifier = narrow(0, Duration::from_secs(60)).await;
    let mut client = client(&verifier).await;
    let _running = occupy(&mut client).await;
    assert_no_room(&client.generate(request(5)).await.unwrap_err());
    let score = v1::ScoreRequest {
        prompt: Some(v1::score_request::Prompt::Text(PROMPT.to_owned())),
        ..Default::default()
    };
    assert_no_room(&client.score(score).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_and_cancellations_end_the_waiting() {
    let verifier = narrow(8, Duration::from_secs(60)).await;
    let mut client = client(&verifier).await;
    let running = occupy(&mut client).await;
    // On a busy machine the client's own timer, which says CANCELLED, may be the first to fire.
    let told = async {
        loop {
            let mut asked = Request::new(request(5));
            asked.set_timeout(Duration::from_millis(100));
            let status = client.generate(asked).await.unwrap_err();
            if status.code() != Code::Cancelled {
                break status;
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(20), told).await;
    assert_eq!(status.unwrap().code(), Code::DeadlineExceeded);
    let mut other = client.clone();
    let cancelled = tokio::spawn(async move { other.generate(request(5)).await });
    waiting(&mut client, 1).await;
    cancelled.abort();
    waiting(&mut client, 0).await;
    drop(running);
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_generation_has_its_name_and_can_be_aborted() {
    let verifier = narrow(8, Duration::from_secs(60)).await;
    let mut client = client(&verifier).await;
    let running = occupy(&mut client).await;
    let mut asked = request(5);
    asked.request_id = "mine".into();
    let (mut other, again) = (client.clone(), asked.clone());
    let waits = tokio::spawn(async move { other.generate_stream(again).await });
    waiting(&mut client, 1).await;
    let taken = client.generate(asked).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken}");
    let request_id = "mine".to_owned();
    client.abort(v1::AbortRequest { request_id }).await.unwrap();
    let mut stream = waits.await.unwrap().unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        events.push(message.event.unwrap());
    }
    let [Event::PromptInfo(_), Event::FinishInfo(finish)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(finish.finish_reason(), FinishReason::Aborted);
    assert_eq!(finish.generated_token_count, 0);
    drop(running);
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_sends_those_that_wait_elsewhere() {
    let verifier = narrow(8, Duration::from_secs(60)).await;
    let mut client = client(&verifier).await;
    let running = occupy(&mut client).await;
    let mut other = client.clone();
    let waits = tokio::spawn(async move { other.generate(request(5)).await });
    waiting(&mut client, 1).await;
    verifier.shutdown.cancel();
    let status = waits.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    drop(running);
    verifier.stop().await;
}

/// The engine's steps are long, since many generations run; refusals do not wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_do_not_wait_for_steps() {
    let verifier = verifier(|config| {
        config.serve.max_sequences = 24;
        config.max_queue = Some(0);
    })
    .await;
    let mut client = client(&verifier).await;
    let mut running = Vec::new();
    for _ in 0..24 {
        running.push(occupy(&mut client).await);
    }
    let mut times = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        assert_no_room(&client.generate(request(5)).await.unwrap_err());
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    // The bound of the service is 50 ms; this machine may be busy with other tests.
    assert!(times[25] < Duration::from_millis(250), "{times:?}");
}
