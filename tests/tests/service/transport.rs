//! What comes in below the messages: bytes that are none, too many of them, wrong paths, headers.

use crate::{fields::named, support::*};
use dssd_proto::v1::{self, drafting_client::DraftingClient};
use dssd_tests::Raw;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::{Service as _, http},
    transport::Channel,
};

/// A call with the bytes of one message.
async fn call(channel: &Channel, path: &'static str, message: &[u8]) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let messages = Request::new(tokio_stream::once(message.to_vec()));
    let path = http::uri::PathAndQuery::from_static(path);
    let mut answers = grpc.streaming(messages, path, Raw).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// Field 1 as a group that never ends: no message of ours has one.
const GARBAGE: &[u8] = &[
    0x0b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
];

const OF_VERIFIER: [&str; 9] = [
    "/dssd.v1.Generation/Generate",
    "/dssd.v1.Generation/GenerateStream",
    "/dssd.v1.Generation/Score",
    "/dssd.v1.Generation/Abort",
    "/dssd.v1.Generation/Tokenize",
    "/dssd.v1.Generation/Detokenize",
    "/dssd.v1.Generation/GetModelInfo",
    "/dssd.v1.Generation/GetServerInfo",
    "/dssd.v1.Generation/GetLoad",
];
const OF_DRAFTER: [&str; 2] = [
    "/dssd.v1.Drafting/Draft",
    "/dssd.v1.Drafting/GetDrafterInfo",
];

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_the_senders_fault() {
    let (verifier, drafter) = tokio::join!(verifier(|_| {}), drafter());
    let verifier = (channel(&verifier).await, &OF_VERIFIER[..]);
    let drafter = (channel(&drafter).await, &OF_DRAFTER[..]);
    for (channel, paths) in [verifier, drafter] {
        for path in paths {
            let status = call(&channel, path, GARBAGE).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{path}: {status}");
            assert!(status.message().contains("cannot be read"), "{status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_limit_is_refused_and_paths_are_known() {
    let (verifier, drafter) = tokio::join!(verifier(|_| {}), drafter());
    let big = vec![0; dssd_common::serve::MAX_MESSAGE_BYTES + 1];
    let verifier = channel(&verifier).await;
    let drafter = channel(&drafter).await;
    for (channel, path) in [(&verifier, OF_VERIFIER[0]), (&drafter, OF_DRAFTER[0])] {
        let status = call(channel, path, &big).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{path}: {status}");
    }
    for path in [
        "/dssd.v1.Generation/Nothing",
        "/dssd.v9.Generation/Generate",
        "/",
    ] {
        for channel in [&verifier, &drafter] {
            let status = call(channel, path, &[]).await.unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_are_the_senders_fault() {
    let verifier = verifier(|_| {}).await;
    let mut channel = channel(&verifier).await;
    // Compressed without a codec; an unknown flag; cut off; no message at all.
    for frame in [
        "\u{1}\0\0\0\u{2}hi",
        "\u{7f}\0\0\0\u{1}x",
        "\0\0\0\0\u{7f}abc",
        "",
    ] {
        let request = http::Request::post(format!("{}dssd.v1.Generation/Abort", verifier.uri()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(frame.to_owned()))
            .unwrap();
        std::future::poll_fn(|context| channel.poll_ready(context))
            .await
            .unwrap();
        let response = channel.call(request).await.unwrap();
        let status = Status::from_header_map(response.headers()).unwrap();
        let blamed = [Code::InvalidArgument, Code::Unimplemented];
        assert!(blamed.contains(&status.code()), "{frame:?}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_checked_and_bounded() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    for timeout in ["1", "S", "-1S", "123456789S", "1 S", "5x"] {
        let mut asked = Request::new(request(5));
        asked
            .metadata_mut()
            .insert("grpc-timeout", timeout.parse().unwrap());
        let status = client.generate(asked).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{timeout}: {status}");
        assert_eq!(named(&status), ["grpc-timeout"], "{status}");
    }
    let mut asked = Request::new(request(5));
    let huge = "x".repeat(1 << 20).parse().unwrap();
    asked.metadata_mut().insert("x-huge", huge);
    let status = client.generate(asked).await.unwrap_err();
    assert!(!status.message().starts_with("internal error"), "{status}");
    // Nobody else suffers.
    let mut other = crate::support::client(&verifier).await;
    assert_eq!(generate(&mut other, request(5)).await.token_ids.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refusal_quotes_is_bounded() {
    let drafter = drafter().await;
    let mut client = DraftingClient::new(channel(&drafter).await);
    let open = v1::Open {
        checkpoint_fingerprint: "é".repeat(1 << 20),
        ..v1::Open::default()
    };
    let message = Some(v1::verifier_message::Message::Open(open));
    let messages = tokio_stream::once(v1::VerifierMessage { message });
    let mut answers = client.draft(messages).await.unwrap().into_inner();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().len() < 2000 && status.message().ends_with('…'));
}
