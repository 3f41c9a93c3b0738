//! The prefix cache: what requests have in common is computed once, and changes nothing.

use crate::support::*;
use dssd_common::serve::Switch;
use dssd_proto::v1::{self, GenerateRequest};
use futures::{StreamExt as _, stream};

/// A request whose prompt begins with the same 400 tokens as all others.
fn with_prefix(number: u32) -> GenerateRequest {
    let mut prompt: Vec<u32> = (0..400).map(|i| 100 + i * 7 % 900).collect();
    prompt.extend((0..8).map(|i| 50 + number * 11 % 1000 + i));
    GenerateRequest {
        prompt: ids(prompt),
        logprobs: Some(2),
        ..sampled(4, u64::from(number))
    }
}

fn cached(answer: &v1::GenerateResponse) -> u32 {
    answer.finish_info.as_ref().unwrap().cached_prompt_tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_prefix_is_computed_once_and_answers_are_the_same() {
    let with = verifier(|_| {}).await;
    let without = verifier(|config| config.prefix_cache = Switch::Off).await;
    let (with, without) = (client(&with).await, client(&without).await);
    // Some at once, from the first one on.
    let answers = stream::iter(0..100).map(|number| {
        let (mut with, mut without) = (with.clone(), without.clone());
        async move {
            let shared = generate(&mut with, with_prefix(number)).await;
            (shared, generate(&mut without, with_prefix(number)).await)
        }
    });
    let answers: Vec<_> = answers.buffered(8).collect().await;
    let (mut computed, mut all) = (0, 0);
    for (shared, alone) in answers {
        assert_eq!(shared.token_ids, alone.token_ids);
        assert_eq!(shared.logprobs, alone.logprobs, "to the last bit");
        assert_eq!(cached(&alone), 0);
        let length = shared.prompt_info.as_ref().unwrap().prompt_token_count;
        all += length;
        computed += length - cached(&shared);
    }
    assert!(computed * 10 <= all, "{computed} of {all} rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_a_prefix_of_the_next_turn_and_drafts_do_not_spoil_it() {
    let drafter = drafter().await;
    let uri = drafter.uri();
    let verifier = verifier(|config| config.drafts = vec![uri]).await;
    let mut client = client(&verifier).await;
    let mut first = with_prefix(1);
    first.max_new_tokens = Some(100);
    let answer = generate(&mut client, first.clone()).await;
    let mut turn = match first.prompt.clone() {
        Some(v1::generate_request::Prompt::TokenIds(prompt)) => prompt.ids,
        _ => panic!("ids"),
    };
    turn.extend(answer.token_ids);
    let next = GenerateRequest {
        prompt: ids(turn.clone()),
        ..sampled(30, 3)
    };
    let shared = generate(&mut client, next.clone()).await;
    assert!(
        cached(&shared) as usize >= turn.len() - 17,
        "{}",
        cached(&shared)
    );
    let alone = GenerateRequest {
        cache_salt: "alone".into(),
        ..plain(next)
    };
    let alone = generate(&mut client, alone).await;
    assert_eq!(cached(&alone), 0);
    assert_eq!(shared.token_ids, alone.token_ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn salts_keep_prefixes_apart() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let salted = |salt: &str| GenerateRequest {
        cache_salt: salt.to_owned(),
        ..with_prefix(1)
    };
    for (salt, expected) in [
        ("", 0),
        ("pepper", 0),
        ("pepper", 400),
        ("", 400),
        ("salt", 0),
    ] {
        let answer = generate(&mut client, salted(salt)).await;
        assert_eq!(cached(&answer), expected, "`{salt}`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_generation_reuses_what_it_computed_before() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let mut asked = with_prefix(1);
    asked.max_new_tokens = Some(60);
    let whole = generate(&mut client, asked.clone()).await;
    asked.resume = Some(v1::Resume {
        token_ids: whole.token_ids[..40].to_vec(),
        seed: 1,
        numerics_id: whole.prompt_info.unwrap().numerics_id,
    });
    let rest = generate(&mut client, asked).await;
    assert_eq!(rest.token_ids, whole.token_ids[40..]);
    assert_eq!(rest.logprobs, whole.logprobs[40..]);
    assert_eq!(cached(&rest), 447 / 16 * 16);
}
