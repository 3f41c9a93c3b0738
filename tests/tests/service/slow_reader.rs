//! Clients that take their time to read.

use crate::support::*;
use dssd_proto::v1::{
    self, GenerateRequest, GenerateStreamResponse, generate_stream_response::Event,
    generation_client::GenerationClient,
};
use std::time::Duration;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// A client whose connection takes little before it has read: what else is sent waits at the
/// server.
async fn narrow(verifier: &Verifier) -> GenerationClient<Channel> {
    let endpoint = Endpoint::from(verifier.uri()).initial_stream_window_size(1024);
    GenerationClient::new(endpoint.connect().await.unwrap())
}

/// A long answer of long messages.
fn long(seed: u64) -> GenerateRequest {
    GenerateRequest {
        logprobs: Some(20),
        ..sampled(900, seed)
    }
}

async fn read(mut stream: Streaming<GenerateStreamResponse>) -> (Vec<u32>, Result<bool, Status>) {
    let (mut tokens, mut finished) = (Vec::new(), false);
    loop {
        match stream.message().await {
            Ok(Some(message)) => match message.event.unwrap() {
                Event::Tokens(piece) => {
                    assert_eq!(
                        piece.first_index as usize,
                        tokens.len(),
                        "no token is missing"
                    );
                    tokens.extend(piece.token_ids);
                }
                Event::FinishInfo(_) => finished = true,
                _ => {}
            },
            Ok(None) => return (tokens, Ok(finished)),
            Err(status) => return (tokens, Err(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_read_rests_in_its_place_and_goes_on_when_it_is_read() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, long(1)).await;
    let stream = narrow(&verifier).await.generate_stream(long(1)).await;
    // Each of these has as many steps as the first one would need to come to its end.
    for seed in 2..4 {
        generate(&mut client, long(seed)).await;
    }
    let load = client.get_load(v1::GetLoadRequest {}).await.unwrap();
    let load = load.into_inner();
    assert_eq!(load.running, 1, "it is not read, so it is not finished");
    assert!(load.free_kv_blocks < load.kv_blocks, "it keeps its place");
    let (tokens, end) = read(stream.unwrap().into_inner()).await;
    assert!(end.unwrap());
    assert_eq!(tokens, expected.token_ids);
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_read_for_long_is_ended_and_can_be_resumed() {
    let verifier = verifier(|config| config.read_timeout = Duration::from_millis(200)).await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, long(1)).await;
    let mut narrow = narrow(&verifier).await;
    let stream = narrow.generate_stream(long(1)).await.unwrap();
    // Its room is free before anything was read.
    becomes_idle(&mut client).await;
    let (tokens, end) = read(stream.into_inner()).await;
    let status = end.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert!(status.message().contains("resume"), "{status}");
    assert!(!tokens.is_empty() && tokens.len() < expected.token_ids.len());
    assert!(expected.token_ids.starts_with(&tokens));

    let info = expected.prompt_info.unwrap();
    let resumed = GenerateRequest {
        resume: Some(v1::Resume {
            token_ids: tokens.clone(),
            seed: 1,
            numerics_id: info.numerics_id,
        }),
        ..long(1)
    };
    let rest = generate(&mut client, resumed).await;
    assert_eq!([tokens, rest.token_ids].concat(), expected.token_ids);
}
