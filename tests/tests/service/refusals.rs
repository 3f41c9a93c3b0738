//! What is refused, and that the refusal names the field.

use crate::support::*;
use dssd_proto::v1::{self, GenerateRequest, Resume, Speculation};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

type Change = fn(&mut GenerateRequest);

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.clone());
    violations
        .unwrap_or_default()
        .into_iter()
        .map(|v| v.field)
        .collect()
}

fn speculation(change: fn(&mut Speculation)) -> Option<Speculation> {
    let mut speculation = Speculation::default();
    change(&mut speculation);
    Some(speculation)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_field_is_named() {
    let cases: [(&str, Change); 28] = [
        ("prompt", |r| r.prompt = None),
        ("text", |r| {
            r.prompt = Some(v1::generate_request::Prompt::Text(String::new()))
        }),
        ("token_ids.ids", |r| r.prompt = ids(vec![])),
        ("token_ids.ids", |r| r.prompt = ids(vec![5; 1024])),
        ("token_ids.ids[1]", |r| r.prompt = ids(vec![5, 4096])),
        ("temperature", |r| r.temperature = Some(-1.0)),
        ("temperature", |r| r.temperature = Some(f32::NAN)),
        ("top_p", |r| r.top_p = Some(1.5)),
        ("cache_salt", |r| r.cache_salt = "pepper".to_owned()),
        ("min_p", |r| r.min_p = Some(-0.1)),
        ("repetition_penalty", |r| r.repetition_penalty = Some(0.0)),
        ("presence_penalty", |r| r.presence_penalty = Some(3.0)),
        ("frequency_penalty", |r| r.frequency_penalty = Some(-3.0)),
        ("logit_bias", |r| r.logit_bias = [(4096, 1.0)].into()),
        ("max_new_tokens", |r| r.max_new_tokens = Some(0)),
        ("max_new_tokens", |r| r.max_new_tokens = Some(1024)),
        ("min_new_tokens", |r| r.min_new_tokens = Some(11)),
        ("stop_strings", |r| r.stop_strings = vec![String::new()]),
        ("stop_token_ids[0]", |r| r.stop_token_ids = vec![4096]),
        ("logprobs", |r| r.logprobs = Some(21)),
        ("request_id", |r| r.request_id = "x".repeat(257)),
        ("speculation.mode", |r| {
            r.speculation = speculation(|s| s.mode = 3)
        }),
        ("speculation.mode", |r| {
            r.speculation = speculation(|s| s.mode = 77)
        }),
        ("speculation.policy", |r| {
            r.speculation = speculation(|s| s.policy = "guess".into())
        }),
        ("speculation.policy", |r| {
            r.speculation = speculation(|s| s.policy = "product:0:2".into())
        }),
        ("speculation.policy", |r| {
            r.speculation = speculation(|s| s.exit_head = Some(1))
        }),
        ("speculation.max_draft_tokens", |r| {
            r.speculation = speculation(|s| s.max_draft_tokens = Some(1000));
        }),
        ("speculation.policy", |r| {
            r.speculation = speculation(|s| s.target_agreement = Some(1.5));
        }),
    ];
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    for (field, change) in cases {
        let mut asked = request(10);
        change(&mut asked);
        let status = client.generate(asked.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        assert_eq!(fields(&status), [field], "{status}");
        let status = client.generate_stream(asked).await.unwrap_err();
        assert_eq!(fields(&status), [field], "{status}");
    }
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_cannot_be_is_named() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let info = client
        .get_model_info(v1::GetModelInfoRequest {})
        .await
        .unwrap();
    let resume = Resume {
        token_ids: vec![5; 4],
        seed: 1,
        numerics_id: info.into_inner().numerics_id,
    };
    let cases: [(&str, Change); 4] = [
        ("resume.seed", |r| r.seed = Some(2)),
        ("resume.token_ids", |r| r.max_new_tokens = Some(4)),
        ("resume.token_ids[0]", |r| r.stop_token_ids = vec![5]),
        ("resume.token_ids[4]", |r| {
            r.resume.as_mut().unwrap().token_ids.push(9999)
        }),
    ];
    for (field, change) in cases {
        let mut asked = request(10);
        asked.resume = Some(resume.clone());
        change(&mut asked);
        let status = client.generate(asked).await.unwrap_err();
        assert_eq!(fields(&status), [field], "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scoring_and_detokenizing_check_their_fields_too() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let score = |ids: &[u32], first_index, logprobs| v1::ScoreRequest {
        prompt: Some(v1::score_request::Prompt::TokenIds(v1::TokenIds {
            ids: ids.to_vec(),
        })),
        first_index,
        logprobs,
        ..Default::default()
    };
    let cases = [
        ("prompt", v1::ScoreRequest::default()),
        ("token_ids.ids", score(&[1], None, None)),
        ("token_ids.ids[0]", score(&[5000, 1], None, None)),
        ("first_index", score(&[1, 2], Some(0), None)),
        ("first_index", score(&[1, 2], Some(2), None)),
        ("logprobs", score(&[1, 2], None, Some(21))),
    ];
    for (field, asked) in cases {
        let status = client.score(asked).await.unwrap_err();
        assert_eq!(fields(&status), [field], "{status}");
    }
    let unknown = v1::DetokenizeRequest {
        token_ids: vec![1, 4096],
    };
    let status = client.detokenize(unknown).await.unwrap_err();
    assert_eq!(fields(&status), ["token_ids[1]"]);
    let too_many = v1::DetokenizeRequest {
        token_ids: vec![1; 1025],
    };
    let status = client.detokenize(too_many).await.unwrap_err();
    assert_eq!(fields(&status), ["token_ids"]);
    let status = client.abort(v1::AbortRequest::default()).await.unwrap_err();
    assert_eq!(fields(&status), ["request_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tokenizer_ids_work_and_text_is_refused_with_the_reason() {
    let verifier = verifier_of(open_demo().0, None, |_| {}).await;
    let mut client = client(&verifier).await;
    let status = client.generate(request(10)).await.unwrap_err();
    assert_eq!(fields(&status), ["text"]);
    assert!(status.message().contains("tokenizer.json"), "{status}");
    let mut asked = request(10);
    asked.prompt = ids(vec![7, 8, 9]);
    let answer = generate(&mut client, asked.clone()).await;
    assert_eq!((answer.token_ids.len(), answer.text.as_str()), (10, ""));
    asked.stop_strings = vec!["x".into()];
    let status = client.generate(asked).await.unwrap_err();
    assert_eq!(fields(&status), ["stop_strings"]);
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
    assert_eq!(fields(&status), ["text"]);
    assert!(status.message().contains("bytes"), "{status}");
    let status = client.tokenize(v1::TokenizeRequest { text }).await;
    assert_eq!(fields(&status.unwrap_err()), ["text"]);
    // A message of more than 16 MiB is not even read.
    let mut asked = request(10);
    let text = "x".repeat(17 << 20);
    asked.prompt = Some(v1::generate_request::Prompt::Text(text));
    let status = client.generate(asked).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}
