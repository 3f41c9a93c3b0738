//! A shutdown, from the signal to the end.

use crate::support::*;
use dssd_proto::v1::{self, generation_client::GenerationClient};
use std::time::Duration;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

async fn health(channel: Channel, service: &str) -> ServingStatus {
    let asked = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel).check(asked).await.unwrap();
    answer.into_inner().status()
}

async fn new_channel(endpoint: &Endpoint) -> Channel {
    endpoint
        .connect()
        .await
        .expect("the door is open to the end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_denies_readiness_then_new_work_then_what_runs() {
    let verifier = verifier(|config| {
        config.serve.drain_delay = Duration::from_secs(6);
        config.serve.drain_timeout = Duration::from_secs(5);
        // So slow that nothing long is done before the end.
        config.serve.max_step_rows = 1;
    })
    .await;
    let mut early = client(&verifier).await;
    generate(&mut early, request(1)).await;
    verifier.shutdown.cancel();

    let endpoint = Channel::builder(verifier.uri());
    let not_ready = async {
        let channel = new_channel(&endpoint).await;
        while health(channel.clone(), "dssd.v1.Generation").await != ServingStatus::NotServing {}
        channel
    };
    let channel = tokio::time::timeout(Duration::from_secs(4), not_ready).await;
    let channel = channel.expect("readiness is denied long before work is");
    assert_eq!(health(channel.clone(), "").await, ServingStatus::Serving);

    // What arrives now, on old and new connections, is taken.
    generate(&mut early, request(2)).await;
    let mut late = GenerationClient::new(channel);
    let mut streams = Vec::new();
    for _ in 0..24 {
        let mut stream = late
            .generate_stream(request(1000))
            .await
            .unwrap()
            .into_inner();
        stream.message().await.unwrap();
        streams.push(stream);
    }

    // After the delay nothing is, and whoever comes is told so.
    let refused = async {
        loop {
            let mut newcomer = GenerationClient::new(new_channel(&endpoint).await);
            match newcomer.generate(request(1)).await {
                Ok(_) => {}
                Err(status) => break (status, newcomer),
            }
        }
    };
    let (status, mut newcomer) = tokio::time::timeout(Duration::from_secs(30), refused)
        .await
        .expect("new work is refused in the end");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("shutting down"), "{status}");
    let load = newcomer.get_load(v1::GetLoadRequest {}).await.unwrap();
    assert!(load.into_inner().running > 0, "what runs goes on meanwhile");
    let alive = health(new_channel(&endpoint).await, "").await;
    assert_eq!(alive, ServingStatus::Serving);

    for mut stream in streams {
        let end = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a stream that is cut off says so"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::Unavailable, "{end}");
    }
    verifier.stop().await;
    assert!(endpoint.connect().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drafter_ends_its_streams_at_once() {
    use dssd_proto::v1::drafting_client::DraftingClient;
    let drafter = drafter().await;
    let mut client = DraftingClient::new(channel(&drafter).await);
    let (_sender, messages) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut stream = client.draft(messages).await.unwrap().into_inner();
    drafter.shutdown.cancel();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
    let status = end.expect("it does not wait for verifiers").unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    drafter.stop().await;
}
