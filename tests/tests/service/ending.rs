//! Ends: cancellation, abortion, deadlines, shutdown.

use crate::support::*;
use dssd_proto::v1::{self, FinishReason, generate_stream_response::Event};
use std::time::Duration;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_stream_frees_its_room() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    for _ in 0..3 {
        let mut stream = client
            .generate_stream(request(900))
            .await
            .unwrap()
            .into_inner();
        stream.message().await.unwrap().expect("prompt_info");
        stream.message().await.unwrap().expect("tokens");
        let load = client
            .get_load(v1::GetLoadRequest {})
            .await
            .unwrap()
            .into_inner();
        assert!(load.running == 1 && load.free_kv_blocks < load.kv_blocks);
        drop(stream);
        becomes_idle(&mut client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_unary_call_frees_its_room() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let mut other = client.clone();
    let call = tokio::spawn(async move { other.generate(request(900)).await });
    while client
        .get_load(v1::GetLoadRequest {})
        .await
        .unwrap()
        .into_inner()
        .running
        == 0
    {}
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_the_work() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    // Others make every step longer, so that the deadline passes long before the last token.
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(client.generate_stream(request(1000)).await.unwrap());
    }
    let mut asked = Request::new(request(1000));
    asked.set_timeout(Duration::from_millis(400));
    let mut stream = client.generate_stream(asked).await.unwrap().into_inner();
    let status = loop {
        match stream.message().await {
            Ok(Some(message)) => {
                let finished = matches!(message.event, Some(Event::FinishInfo(_)));
                assert!(!finished, "there is no time for 1000 tokens");
            }
            Ok(None) => panic!("the stream ends with an error"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    drop(others);
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_a_unary_call_too() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(client.generate_stream(request(1000)).await.unwrap());
    }
    // On a busy machine the client's own timer, which says CANCELLED, may be the first to fire.
    let told = async {
        loop {
            let mut asked = Request::new(request(1000));
            asked.set_timeout(Duration::from_millis(100));
            let status = client.generate(asked).await.unwrap_err();
            if status.code() != Code::Cancelled {
                break status;
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(20), told).await;
    assert_eq!(status.unwrap().code(), Code::DeadlineExceeded);
    drop(others);
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_ends_with_what_there_is() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let mut asked = request(900);
    asked.request_id = "mine".into();
    let mut stream = client
        .generate_stream(asked.clone())
        .await
        .unwrap()
        .into_inner();
    let taken = client.generate(asked).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    for request_id in ["unknown", "mine"] {
        let request_id = request_id.to_owned();
        client.abort(v1::AbortRequest { request_id }).await.unwrap();
    }
    let (mut tokens, mut finish) = (0, None);
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Tokens(piece) => tokens += piece.token_ids.len() as u32,
            Event::FinishInfo(info) => finish = Some(info),
            _ => {}
        }
    }
    let finish = finish.expect("finish_info is last");
    assert_eq!(finish.finish_reason(), FinishReason::Aborted);
    assert_eq!(finish.generated_token_count, tokens);
    assert!(tokens < 900);
    becomes_idle(&mut client).await;
}

async fn health(service: &Verifier, name: &str) -> Result<ServingStatus, Code> {
    let mut client = HealthClient::new(channel(service).await);
    let asked = HealthCheckRequest {
        service: name.to_owned(),
    };
    let answer = client.check(asked).await.map_err(|status| status.code())?;
    Ok(answer.into_inner().status())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_alive_and_ready() {
    let verifier = verifier(|_| {}).await;
    assert_eq!(health(&verifier, "").await, Ok(ServingStatus::Serving));
    let ready = health(&verifier, "dssd.v1.Generation").await;
    assert_eq!(ready, Ok(ServingStatus::Serving));
    assert_eq!(
        health(&verifier, "dssd.v1.Nothing").await,
        Err(Code::NotFound)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_running_generations_finish() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let whole = generate(&mut client, request(300)).await;
    let mut stream = client
        .generate_stream(request(300))
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    verifier.shutdown.cancel();
    let mut tokens = Vec::new();
    let mut finished = false;
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Tokens(piece) => tokens.extend(piece.token_ids),
            Event::FinishInfo(info) => finished = info.finish_reason() == FinishReason::Length,
            _ => {}
        }
    }
    assert!(finished);
    assert_eq!(tokens, whole.token_ids);
    let endpoint = Channel::builder(verifier.uri());
    verifier.stop().await;
    // A call on the old channel may be told that its connection closes under it; a new one finds nobody.
    assert!(endpoint.connect().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_timeout_cuts_off_what_takes_longer() {
    let verifier = verifier(|config| config.serve.drain_timeout = Duration::from_millis(50)).await;
    let mut client = client(&verifier).await;
    let mut stream = client
        .generate_stream(request(1000))
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        }
    };
    let ((), end) = tokio::join!(verifier.stop(), end);
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}
