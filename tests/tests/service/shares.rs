//! What clients of one server may take from each other: nothing.

use crate::{pki::*, support::*};
use dssd_common::serve::Wire;
use dssd_proto::v1::{
    self, FinishReason, GenerateStreamResponse, generate_stream_response::Event,
    generation_client::GenerationClient,
};
use std::time::Duration;
use tonic::{Code, Streaming};
use tonic_types::StatusExt as _;

async fn shared(limit: Option<usize>) -> (Folder, Verifier) {
    let folder = Folder::new();
    let tokens = folder.write("tokens", &format!("{TOKEN}\n{OTHER_TOKEN}\n"));
    let verifier = verifier(|config| {
        config.serve.door.token_file = Some(tokens);
        config.serve.door.max_streams_per_token = limit;
        // So slow that what is to run still runs.
        config.serve.max_step_rows = 1;
    })
    .await;
    // The port is open before the service is.
    drop(channel(&verifier).await);
    (folder, verifier)
}

fn client_with(token: &str, verifier: &Verifier) -> GenerationClient<Wire> {
    GenerationClient::new(dialer(None, None, Some(token)).wire(&verifier.uri()))
}

async fn finish(mut stream: Streaming<GenerateStreamResponse>) -> v1::FinishInfo {
    loop {
        let message = stream.message().await.unwrap();
        if let Some(Event::FinishInfo(info)) = message.expect("finish_info is last").event {
            return info;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_its_clients_own() {
    let (_folder, verifier) = shared(None).await;
    let mut one = client_with(TOKEN, &verifier);
    let mut two = client_with(OTHER_TOKEN, &verifier);
    let named = |tokens| {
        let mut named = request(tokens);
        named.request_id = "same".to_owned();
        named
    };
    let abort = v1::AbortRequest {
        request_id: "same".to_owned(),
    };
    let of_one = one.generate_stream(named(600)).await.unwrap().into_inner();
    two.abort(abort.clone()).await.unwrap();
    let of_two = two
        .generate_stream(named(900))
        .await
        .expect("its name is free for others");
    two.abort(abort).await.unwrap();
    let (of_one, of_two) = tokio::join!(finish(of_one), finish(of_two.into_inner()));
    assert_eq!(of_one.finish_reason(), FinishReason::Length);
    assert_eq!(of_two.finish_reason(), FinishReason::Aborted);
    verifier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_no_more_calls_than_its_share() {
    let (_folder, verifier) = shared(Some(2)).await;
    let mut one = client_with(TOKEN, &verifier);
    let mut two = client_with(OTHER_TOKEN, &verifier);
    let mut open = Vec::new();
    for number in 0..2 {
        let mut long = request(1000);
        long.request_id = number.to_string();
        let mut stream = one.generate_stream(long).await.unwrap().into_inner();
        stream.message().await.unwrap();
        open.push(stream);
    }
    let refused = one.generate(request(1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let retry = refused.get_error_details().retry_info().cloned();
    assert!(retry.is_some_and(|retry| retry.retry_delay.is_some()));
    two.generate(request(1))
        .await
        .expect("others have a share of their own");
    let load = one.get_load(v1::GetLoadRequest {}).await;
    load.expect("questions are not counted");
    let request_id = "0".to_owned();
    let aborted = one.abort(v1::AbortRequest { request_id }).await;
    aborted.expect("whoever has too much can give it up");
    // The share is free once the whole answer has been read, or nobody reads it any more.
    drop(open);
    let room = async {
        while let Err(status) = one.generate(request(1)).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
        }
    };
    let room = tokio::time::timeout(Duration::from_secs(60), room).await;
    room.expect("ended calls make room");
    verifier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_metadata_is_refused_and_the_connection_goes_on() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let with_metadata = |bytes: usize| {
        let mut asked = tonic::Request::new(v1::GetModelInfoRequest {});
        let value = "x".repeat(bytes).parse().unwrap();
        asked.metadata_mut().insert("x-padding", value);
        asked
    };
    client.get_model_info(with_metadata(8 << 10)).await.unwrap();
    client
        .get_model_info(with_metadata(24 << 10))
        .await
        .unwrap_err();
    client.get_model_info(with_metadata(0)).await.unwrap();
    verifier.stop().await;
}
