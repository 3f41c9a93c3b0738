//! What is refused for want of something, and what the refusal says.

use crate::{fields::named, support::*};
use dssd_proto::v1;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tokenizer_ids_work_and_text_is_refused_with_the_reason() {
    let verifier = verifier_of(open_demo().0, None, |_| {}).await;
    let mut client = client(&verifier).await;
    let status = client.generate(request(10)).await.unwrap_err();
    assert_eq!(named(&status), ["text"]);
    assert!(status.message().contains("tokenizer.json"), "{status}");
    let mut asked = request(10);
    asked.prompt = ids(vec![7, 8, 9]);
    let answer = generate(&mut client, asked.clone()).await;
    assert_eq!((answer.token_ids.len(), answer.text.as_str()), (10, ""));
    asked.stop_strings = vec!["x".into()];
    let status = client.generate(asked).await.unwrap_err();
    assert_eq!(named(&status), ["stop_strings"]);
}

/// Millions of bytes are not looked at: their number says that they cannot fit.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_far_beyond_the_context_is_refused_for_its_bytes() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let text = "once upon a time ".repeat(900_000);
    let mut asked = request(10);
    asked.prompt = Some(v1::generate_request::Prompt::Text(text.clone()));
    let status = client.generate(asked).await.unwrap_err();
    assert_eq!(named(&status), ["text"]);
    assert!(status.message().contains("bytes"), "{status}");
    let status = client.tokenize(v1::TokenizeRequest { text }).await;
    assert_eq!(named(&status.unwrap_err()), ["text"]);
    // A message of more than 16 MiB is not even read.
    let mut asked = request(10);
    let text = "x".repeat(17 << 20);
    asked.prompt = Some(v1::generate_request::Prompt::Text(text));
    let status = client.generate(asked).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}
