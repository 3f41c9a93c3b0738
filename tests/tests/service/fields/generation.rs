//! Requests to verify-svc.

use super::{Row, named};
use crate::support::*;
use dssd_proto::v1::{
    self, GenerateRequest, Resume, ScoreRequest, Speculation, TokenIds, score_request,
};
use tonic::{Code, Status};

/// On a prompt of text and ten tokens.
const GENERATE: &[Row<GenerateRequest>] = &[
    ("GenerateRequest.request_id", "request_id", |r| {
        r.request_id = "x".repeat(257)
    }),
    ("GenerateRequest.request_id", "", |r| {
        r.request_id = "\u{0}\n\u{1f469}".into()
    }),
    ("GenerateRequest.text", "prompt", |r| r.prompt = None),
    ("GenerateRequest.text", "text", |r| {
        r.prompt = Some(v1::generate_request::Prompt::Text(String::new()));
    }),
    ("GenerateRequest.text", "text", |r| {
        r.prompt = Some(v1::generate_request::Prompt::Text("word ".repeat(5000)));
    }),
    ("GenerateRequest.token_ids", "token_ids.ids", |r| {
        r.prompt = ids(vec![])
    }),
    ("TokenIds.ids", "token_ids.ids", |r| {
        r.prompt = ids(vec![5; 1024])
    }),
    ("TokenIds.ids", "token_ids.ids[1]", |r| {
        r.prompt = ids(vec![5, 4096])
    }),
    ("TokenIds.ids", "token_ids.ids[0]", |r| {
        r.prompt = ids(vec![u32::MAX])
    }),
    ("GenerateRequest.temperature", "temperature", |r| {
        r.temperature = Some(-1.0)
    }),
    ("GenerateRequest.temperature", "temperature", |r| {
        r.temperature = Some(f32::NAN)
    }),
    ("GenerateRequest.temperature", "temperature", |r| {
        r.temperature = Some(f32::INFINITY)
    }),
    ("GenerateRequest.temperature", "", |r| {
        r.temperature = Some(1e-45)
    }),
    ("GenerateRequest.temperature", "", |r| {
        r.temperature = Some(f32::MAX)
    }),
    ("GenerateRequest.top_k", "", |r| r.top_k = Some(u32::MAX)),
    ("GenerateRequest.top_p", "top_p", |r| r.top_p = Some(0.0)),
    ("GenerateRequest.top_p", "top_p", |r| r.top_p = Some(1.5)),
    ("GenerateRequest.top_p", "top_p", |r| {
        r.top_p = Some(f32::NAN)
    }),
    ("GenerateRequest.min_p", "min_p", |r| r.min_p = Some(-0.1)),
    ("GenerateRequest.min_p", "min_p", |r| r.min_p = Some(1.1)),
    ("GenerateRequest.seed", "", |r| r.seed = Some(u64::MAX)),
    (
        "GenerateRequest.repetition_penalty",
        "repetition_penalty",
        |r| {
            r.repetition_penalty = Some(0.0);
        },
    ),
    (
        "GenerateRequest.repetition_penalty",
        "repetition_penalty",
        |r| {
            r.repetition_penalty = Some(f32::INFINITY);
        },
    ),
    ("GenerateRequest.repetition_penalty", "", |r| {
        r.repetition_penalty = Some(f32::MIN_POSITIVE);
        r.temperature = Some(1e-30);
    }),
    (
        "GenerateRequest.presence_penalty",
        "presence_penalty",
        |r| r.presence_penalty = Some(3.0),
    ),
    (
        "GenerateRequest.frequency_penalty",
        "frequency_penalty",
        |r| {
            r.frequency_penalty = Some(-3.0);
        },
    ),
    ("GenerateRequest.logit_bias", "logit_bias", |r| {
        r.logit_bias = [(4096, 1.0)].into()
    }),
    ("GenerateRequest.logit_bias", "logit_bias", |r| {
        r.logit_bias = [(1, f32::NAN)].into()
    }),
    ("GenerateRequest.logit_bias", "", |r| {
        r.logit_bias = [(1, f32::MAX), (2, f32::MIN)].into();
    }),
    ("GenerateRequest.max_new_tokens", "max_new_tokens", |r| {
        r.max_new_tokens = Some(0)
    }),
    ("GenerateRequest.max_new_tokens", "max_new_tokens", |r| {
        r.max_new_tokens = Some(1024)
    }),
    ("GenerateRequest.max_new_tokens", "max_new_tokens", |r| {
        r.max_new_tokens = Some(u32::MAX)
    }),
    ("GenerateRequest.min_new_tokens", "min_new_tokens", |r| {
        r.min_new_tokens = Some(11)
    }),
    ("GenerateRequest.min_new_tokens", "min_new_tokens", |r| {
        r.min_new_tokens = Some(1);
        r.stop_token_ids = (0..4096).collect();
    }),
    ("GenerateRequest.stop_strings", "stop_strings", |r| {
        r.stop_strings = vec![String::new()]
    }),
    ("GenerateRequest.stop_strings", "stop_strings", |r| {
        r.stop_strings = vec!["x".into(); 17];
    }),
    ("GenerateRequest.stop_strings", "stop_strings", |r| {
        r.stop_strings = vec!["x".repeat(1025)];
    }),
    ("GenerateRequest.stop_token_ids", "stop_token_ids[0]", |r| {
        r.stop_token_ids = vec![4096]
    }),
    ("GenerateRequest.stop_token_ids", "", |r| {
        r.stop_token_ids = vec![7; 100_000]
    }),
    ("GenerateRequest.include_stop_strings", "", |r| {
        r.include_stop_strings = true
    }),
    ("GenerateRequest.ignore_eos", "", |r| r.ignore_eos = false),
    ("GenerateRequest.logprobs", "logprobs", |r| {
        r.logprobs = Some(21)
    }),
    ("GenerateRequest.cache_salt", "cache_salt", |r| {
        r.cache_salt = "x".repeat(257)
    }),
    ("GenerateRequest.cache_salt", "", |r| {
        r.cache_salt = "pepper".into()
    }),
    ("GenerateRequest.speculation", "", |r| {
        r.speculation = Some(Speculation::default())
    }),
    ("Speculation.mode", "speculation.mode", |r| {
        speculation(r).mode = 3
    }),
    ("Speculation.mode", "speculation.mode", |r| {
        speculation(r).mode = 77
    }),
    ("Speculation.mode", "speculation.mode", |r| {
        speculation(r).mode = -1
    }),
    ("Speculation.policy", "speculation.policy", |r| {
        speculation(r).policy = "guess".into()
    }),
    ("Speculation.policy", "speculation.policy", |r| {
        speculation(r).policy = "product:0:2".into();
    }),
    ("Speculation.policy", "speculation.policy", |r| {
        speculation(r).policy = "x".repeat(100_000)
    }),
    (
        "Speculation.max_draft_tokens",
        "speculation.max_draft_tokens",
        |r| {
            speculation(r).max_draft_tokens = Some(1000);
        },
    ),
    ("Speculation.exit_head", "speculation.policy", |r| {
        speculation(r).exit_head = Some(1)
    }),
    ("Speculation.target_agreement", "speculation.policy", |r| {
        speculation(r).target_agreement = Some(1.5);
    }),
    ("Speculation.entropy_threshold", "speculation.policy", |r| {
        speculation(r).entropy_threshold = Some(f32::NAN);
    }),
    ("Speculation.trace", "", |r| speculation(r).trace = true),
    ("GenerateRequest.resume", "resume.token_ids", |r| {
        r.max_new_tokens = Some(4);
        resume(r);
    }),
    ("Resume.token_ids", "resume.token_ids[0]", |r| {
        r.stop_token_ids = vec![5];
        resume(r);
    }),
    ("Resume.token_ids", "resume.token_ids[4]", |r| {
        resume(r).token_ids.push(9999)
    }),
    ("Resume.seed", "resume.seed", |r| {
        r.seed = Some(2);
        resume(r);
    }),
    ("Resume.numerics_id", MISMATCH, |r| {
        resume(r).numerics_id = "other".into()
    }),
    ("Resume.numerics_id", MISMATCH, |r| {
        resume(r).numerics_id = "é".repeat(1 << 20)
    }),
];

/// On three tokens.
const SCORE: &[Row<ScoreRequest>] = &[
    ("ScoreRequest.request_id", "", |r| {
        r.request_id = "x".repeat(300)
    }),
    ("ScoreRequest.text", "prompt", |r| r.prompt = None),
    ("ScoreRequest.text", "text", |r| {
        r.prompt = Some(score_request::Prompt::Text(String::new()));
    }),
    ("ScoreRequest.token_ids", "token_ids.ids", |r| {
        r.prompt = scored(&[1])
    }),
    ("ScoreRequest.token_ids", "token_ids.ids", |r| {
        r.prompt = scored(&[1; 1025])
    }),
    ("ScoreRequest.token_ids", "token_ids.ids[0]", |r| {
        r.prompt = scored(&[5000, 1])
    }),
    ("ScoreRequest.first_index", "first_index", |r| {
        r.first_index = Some(0)
    }),
    ("ScoreRequest.first_index", "first_index", |r| {
        r.first_index = Some(3)
    }),
    ("ScoreRequest.first_index", "first_index", |r| {
        r.first_index = Some(u32::MAX)
    }),
    ("ScoreRequest.logprobs", "logprobs", |r| {
        r.logprobs = Some(21)
    }),
    ("ScoreRequest.speculation", "speculation.mode", |r| {
        r.speculation = Some(Speculation::default());
    }),
];

/// Checked one by one below.
const OTHERS: &[&str] = &[
    "AbortRequest.request_id",
    "TokenizeRequest.text",
    "DetokenizeRequest.token_ids",
];

/// Stands for FAILED_PRECONDITION, which names no field.
const MISMATCH: &str = "mismatch";

pub(super) fn covered() -> impl Iterator<Item = &'static str> {
    let generate = GENERATE.iter().map(|row| row.0);
    let score = SCORE.iter().map(|row| row.0);
    generate.chain(score).chain(OTHERS.iter().copied())
}

fn speculation(request: &mut GenerateRequest) -> &mut Speculation {
    request.speculation.get_or_insert_default()
}

/// Four tokens to resume from; the test fills in what the server is called.
fn resume(request: &mut GenerateRequest) -> &mut Resume {
    request.resume.get_or_insert(Resume {
        token_ids: vec![5; 4],
        seed: 1,
        numerics_id: String::new(),
    })
}

fn scored(ids: &[u32]) -> Option<score_request::Prompt> {
    let ids = ids.to_vec();
    Some(score_request::Prompt::TokenIds(TokenIds { ids }))
}

/// Whether a call ended as its row says.
fn check<T>(row: (&str, &str), outcome: Result<T, Status>) {
    let (place, field) = row;
    let status = match (field, outcome) {
        ("", outcome) => return drop(outcome.unwrap_or_else(|status| panic!("{place}: {status}"))),
        (_, Ok(_)) => panic!("{place} is taken, it had to be refused as {field}"),
        (_, Err(status)) => status,
    };
    if field == MISMATCH {
        assert_eq!(status.code(), Code::FailedPrecondition, "{place}: {status}");
    } else {
        assert_eq!(status.code(), Code::InvalidArgument, "{place}: {status}");
        assert_eq!(named(&status), [field], "{place}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generate() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let info = client.get_model_info(v1::GetModelInfoRequest {}).await;
    let numerics_id = info.unwrap().into_inner().numerics_id;
    for &(place, field, change) in GENERATE {
        let mut asked = request(10);
        change(&mut asked);
        if let Some(resume) = asked.resume.as_mut().filter(|r| r.numerics_id.is_empty()) {
            resume.numerics_id.clone_from(&numerics_id);
        }
        check((place, field), client.generate(asked.clone()).await);
        if !field.is_empty() {
            check((place, field), client.generate_stream(asked).await);
        }
    }
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_else() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    for &(place, field, change) in SCORE {
        let mut asked = ScoreRequest {
            prompt: scored(&[1, 2, 3]),
            ..ScoreRequest::default()
        };
        change(&mut asked);
        check((place, field), client.score(asked).await);
    }
    let abort = |id: &str| v1::AbortRequest {
        request_id: id.to_owned(),
    };
    check((OTHERS[0], "request_id"), client.abort(abort("")).await);
    check(
        (OTHERS[0], ""),
        client.abort(abort(&"x".repeat(1 << 20))).await,
    );
    for text in ["", "\u{0}\u{10ffff}<|endoftext|>"] {
        let text = text.to_owned();
        check(
            (OTHERS[1], ""),
            client.tokenize(v1::TokenizeRequest { text }).await,
        );
    }
    for (field, token_ids) in [
        ("token_ids[1]", vec![1, 4096]),
        ("", vec![]),
        ("", vec![0; 9]),
    ] {
        let asked = v1::DetokenizeRequest { token_ids };
        check((OTHERS[2], field), client.detokenize(asked).await);
    }
    becomes_idle(&mut client).await;
}
