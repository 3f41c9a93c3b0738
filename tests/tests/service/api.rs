//! Generation, scoring and the rest of the API on a verifier alone.

use crate::support::*;
use dssd_proto::v1::{self, FinishReason, generate_stream_response::Event};
use futures::TryStreamExt as _;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn greedy_tokens_are_those_of_the_library() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let answer = generate(&mut client, request(60)).await;
    let prompt = client
        .tokenize(v1::TokenizeRequest {
            text: PROMPT.into(),
        })
        .await;
    let prompt = prompt.unwrap().into_inner().token_ids;
    assert_eq!(answer.token_ids, library_tokens(&prompt, 60));
    let info = answer.prompt_info.unwrap();
    assert_eq!(info.prompt_token_count as usize, prompt.len());
    let finish = answer.finish_info.unwrap();
    assert_eq!(finish.finish_reason(), FinishReason::Length);
    assert_eq!(finish.generated_token_count, 60);
    let text = client
        .detokenize(v1::DetokenizeRequest {
            token_ids: answer.token_ids,
        })
        .await;
    assert_eq!(answer.text, text.unwrap().into_inner().text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_the_same_piece_by_piece() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let whole = generate(&mut client, sampled(50, 3)).await;
    let mut asked = sampled(50, 3);
    asked.speculation = Some(v1::Speculation {
        trace: true,
        ..Default::default()
    });
    let stream = client.generate_stream(asked).await.unwrap().into_inner();
    let mut events: Vec<Event> = stream
        .map_ok(|message| message.event.unwrap())
        .try_collect()
        .await
        .unwrap();
    let Event::PromptInfo(info) = events.remove(0) else {
        panic!("the first message is prompt_info");
    };
    assert_eq!(info.sampling, whole.prompt_info.unwrap().sampling);
    let Some(Event::FinishInfo(_)) = events.pop() else {
        panic!("the last message is finish_info");
    };
    let (mut tokens, mut text, mut rounds) = (Vec::new(), String::new(), 0);
    for event in events {
        match event {
            Event::Tokens(piece) => {
                assert_eq!(piece.first_index as usize, tokens.len());
                tokens.extend(piece.token_ids);
                text += &piece.text;
            }
            Event::Round(round) => {
                assert_eq!(round.round, rounds);
                assert_eq!(round.plain_reason(), v1::PlainReason::NoDrafter);
                rounds += 1;
            }
            other => panic!("{other:?} in the middle"),
        }
    }
    assert_eq!((tokens, text), (whole.token_ids, whole.text));
    assert_eq!(rounds, 49, "the first token comes from the prompt's pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unset_seed_is_told_and_gives_the_same_again() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let mut asked = sampled(30, 0);
    asked.seed = None;
    let first = generate(&mut client, asked.clone()).await;
    let seed = first.prompt_info.unwrap().sampling.unwrap().seed;
    let again = generate(&mut client, sampled(30, seed)).await;
    assert_eq!(again.token_ids, first.token_ids);
    let other = generate(&mut client, asked).await;
    assert_ne!(other.token_ids, first.token_ids, "another seed is drawn");
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_continues_where_the_client_was() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let whole = generate(&mut client, sampled(40, 9)).await;
    let info = whole.prompt_info.unwrap();
    let mut asked = sampled(40, 9);
    asked.seed = None;
    asked.resume = Some(v1::Resume {
        token_ids: whole.token_ids[..15].to_vec(),
        seed: 9,
        numerics_id: info.numerics_id,
    });
    let rest = generate(&mut client, asked.clone()).await;
    assert_eq!(rest.token_ids, whole.token_ids[15..]);
    assert!(whole.text.ends_with(&rest.text) && !rest.text.is_empty());
    let finish = rest.finish_info.unwrap();
    assert_eq!(
        (finish.generated_token_count, finish.resumed_token_count),
        (40, 15)
    );

    asked.resume.as_mut().unwrap().numerics_id = "other".into();
    let status = client.generate(asked).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("other"), "{status}");
}

/// A client that lost only the end of an answer gets just that: the stop string is in what it has.
#[tokio::test(flavor = "multi_thread")]
async fn resume_after_the_stop_string_tells_the_end_and_nothing_more() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let whole = generate(&mut client, request(30)).await;
    let stop: String = whole.text.chars().skip(20).take(6).collect();
    let mut asked = request(30);
    asked.stop_strings = vec![stop.clone()];
    let stopped = generate(&mut client, asked.clone()).await;
    assert!(stopped.token_ids.len() < 30);
    asked.resume = Some(v1::Resume {
        token_ids: stopped.token_ids,
        seed: stopped.prompt_info.clone().unwrap().sampling.unwrap().seed,
        numerics_id: stopped.prompt_info.unwrap().numerics_id,
    });
    let end = generate(&mut client, asked).await;
    assert_eq!((end.token_ids, end.text.as_str()), (vec![], ""));
    let finish = end.finish_info.unwrap();
    assert_eq!(finish.finish_reason(), v1::FinishReason::Stop);
    assert_eq!(finish.stop_string, Some(stop));
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_are_the_logprobs_of_generation() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let prompt: Vec<u32> = (100..140).collect();
    let mut asked = request(20);
    asked.prompt = ids(prompt.clone());
    asked.logprobs = Some(3);
    let generated = generate(&mut client, asked).await;
    let tokens = [prompt.as_slice(), &generated.token_ids].concat();
    let score = v1::ScoreRequest {
        prompt: Some(v1::score_request::Prompt::TokenIds(v1::TokenIds {
            ids: tokens,
        })),
        first_index: Some(40),
        logprobs: Some(3),
        ..Default::default()
    };
    let scored = client.score(score).await.unwrap().into_inner();
    assert_eq!(scored.first_index, 40);
    assert_eq!(scored.logprobs, generated.logprobs);
    for entry in &scored.logprobs {
        assert_eq!(entry.rank, 1, "greedy tokens are the most likely ones");
        assert_eq!(entry.top.len(), 3);
        assert_eq!(entry.top[0].token_id, entry.token_id);
        assert!(entry.logprob < 0.0 && entry.top[0].logprob >= entry.top[2].logprob);
    }
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_over_several_tokens_does_not_leak() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let whole = generate(&mut client, request(60)).await;
    let middle = whole.text.char_indices().nth(80).unwrap().0;
    let stop = &whole.text[middle..middle + 12];
    assert!(!whole.text[..middle].contains(stop));
    let mut asked = request(60);
    asked.stop_strings = vec!["never said".into(), stop.into()];
    let stopped = generate(&mut client, asked.clone()).await;
    assert_eq!(stopped.text, whole.text[..middle]);
    let finish = stopped.finish_info.unwrap();
    assert_eq!(finish.finish_reason(), FinishReason::Stop);
    assert_eq!(finish.stop_string.as_deref(), Some(stop));
    assert!(whole.token_ids.starts_with(&stopped.token_ids));
    asked.include_stop_strings = true;
    let including = generate(&mut client, asked.clone()).await;
    assert_eq!(including.text, whole.text[..middle + 12]);

    let mut pieces = String::new();
    asked.include_stop_strings = false;
    let mut stream = client.generate_stream(asked).await.unwrap().into_inner();
    while let Some(message) = stream.message().await.unwrap() {
        if let Some(Event::Tokens(tokens)) = message.event {
            pieces += &tokens.text;
        }
    }
    assert_eq!(pieces, whole.text[..middle]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_token_ends_and_is_counted() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let whole = generate(&mut client, request(30)).await;
    let stop = whole.token_ids[12];
    let at = whole.token_ids.iter().position(|&id| id == stop).unwrap();
    let mut asked = request(30);
    asked.stop_token_ids = vec![stop];
    let stopped = generate(&mut client, asked).await;
    assert_eq!(stopped.token_ids, whole.token_ids[..=at]);
    assert_eq!(stopped.finish_info.unwrap().stop_token_id, Some(stop));
}

#[tokio::test(flavor = "multi_thread")]
async fn information_is_about_the_model_that_is_served() {
    let verifier = verifier(|config| config.serve.max_context = Some(512)).await;
    let mut client = client(&verifier).await;
    let model = client
        .get_model_info(v1::GetModelInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    let (checkpoint, tokenizer) = open_demo();
    assert_eq!(
        model.checkpoint_fingerprint,
        checkpoint.fingerprint().unwrap()
    );
    assert_eq!(model.tokenizer_hash, tokenizer.unwrap().hash());
    assert_eq!(
        (model.vocabulary_size, model.layer_count, model.max_context),
        (4096, 12, 512)
    );
    assert_eq!(
        (model.dtype.as_str(), model.eos_token_ids),
        ("bf16", vec![0])
    );
    let server = client
        .get_server_info(v1::GetServerInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    let limits = server.limits.unwrap();
    assert_eq!(limits.max_context, 512);
    assert!(server.drafters.is_empty() && !server.allow_lossy);
    let load = client
        .get_load(v1::GetLoadRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((load.running, load.free_kv_blocks), (0, limits.kv_blocks));
}

#[tokio::test(flavor = "multi_thread")]
async fn numerics_tell_computing_types_apart() {
    let (stored, wide) = tokio::join!(
        verifier(|_| {}),
        verifier(|config| config.serve.dtype = dssd_common::serve::Dtype::F32)
    );
    let mut ids = Vec::new();
    for verifier in [&stored, &wide] {
        let mut client = client(verifier).await;
        let info = client
            .get_model_info(v1::GetModelInfoRequest {})
            .await
            .unwrap();
        ids.push(info.into_inner().numerics_id);
    }
    assert_ne!(ids[0], ids[1]);
}
