//! What is refused for want of something, and what the refusal says.

use crate::{fields::named, support::*};

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
