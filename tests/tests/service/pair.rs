//! Both services: drafts change the speed, never a token.

use crate::support::*;
use dssd_common::checkpoint::random_checkpoint;
use dssd_common::kernels::WeightType;
use dssd_proto::v1::{self, DrafterState, GenerateRequest, generate_stream_response::Event};
use std::{sync::Arc, time::Duration};

fn with_policy(request: GenerateRequest, policy: &str) -> GenerateRequest {
    GenerateRequest {
        speculation: Some(v1::Speculation {
            policy: policy.to_owned(),
            ..Default::default()
        }),
        ..request
    }
}

fn report(answer: &v1::GenerateResponse) -> v1::SpeculativeDecoding {
    let finish = answer.finish_info.clone().unwrap();
    finish.speculative_decoding.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_are_accepted_and_change_nothing() {
    let drafter = drafter().await;
    let verifier = verifier(|config| config.drafts = vec![drafter.uri()]).await;
    let mut client = client(&verifier).await;
    let penalised = GenerateRequest {
        repetition_penalty: Some(1.2),
        presence_penalty: Some(0.4),
        frequency_penalty: Some(0.2),
        logit_bias: [(17, 2.0), (42, -3.0)].into(),
        min_new_tokens: Some(30),
        ignore_eos: false,
        ..sampled(60, 5)
    };
    // A proposal may be late on a busy machine, so what was drafted is counted over all runs.
    let (mut drafted, mut accepted) = (0, 0);
    for asked in [request(60), sampled(60, 1), penalised] {
        let expected = generate(&mut client, plain(asked.clone())).await;
        assert_eq!(report(&expected).num_drafts, 0);
        assert_eq!(report(&expected).policy, "off");
        for policy in ["", "fixed:0:2", "fixed:3:4", "entropy:1.5"] {
            let answer = generate(&mut client, with_policy(asked.clone(), policy)).await;
            assert_eq!(answer.token_ids, expected.token_ids, "policy `{policy}`");
            assert_eq!(answer.text, expected.text);
            let report = report(&answer);
            assert!(report.policy.starts_with(policy), "{report:?}");
            drafted += report.num_draft_tokens;
            accepted += report.num_accepted_tokens;
        }
    }
    assert!(
        0 < accepted && accepted < drafted,
        "{accepted} of {drafted}"
    );
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_generations_share_the_drafter() {
    let drafter = drafter().await;
    let verifier = verifier(|config| config.drafts = vec![drafter.uri()]).await;
    let mut client = client(&verifier).await;
    let mut expected = Vec::new();
    for seed in 0..6 {
        expected.push(
            generate(&mut client, plain(sampled(40, seed)))
                .await
                .token_ids,
        );
    }
    let together = (0..6).map(|seed| {
        let mut client = client.clone();
        async move { generate(&mut client, sampled(40, seed)).await }
    });
    let answers = futures::future::join_all(together).await;
    let accepted: u64 = answers.iter().map(|a| report(a).num_accepted_tokens).sum();
    assert!(accepted > 0);
    for (answer, expected) in answers.into_iter().zip(expected) {
        assert_eq!(answer.token_ids, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drafter_may_vanish_and_come_back() {
    let first = drafter().await;
    let address = first.address.to_string();
    let verifier = verifier(|config| config.drafts = vec![first.uri()]).await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, plain(sampled(500, 4))).await;
    let mut asked = sampled(500, 4);
    asked.speculation = Some(v1::Speculation {
        trace: true,
        ..Default::default()
    });
    let mut stream = client.generate_stream(asked).await.unwrap().into_inner();
    let (mut first, mut tokens, mut finish) = (Some(first), Vec::new(), None);
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Tokens(piece) => tokens.extend(piece.token_ids),
            Event::Round(round) if !round.drafted.is_empty() => {
                if let Some(first) = first.take() {
                    first.stop().await;
                }
            }
            Event::FinishInfo(info) => finish = info.speculative_decoding,
            _ => {}
        }
    }
    assert_eq!(tokens, expected.token_ids);
    let lost = finish.expect("finish_info");
    assert!(lost.num_drafts >= 1 && lost.drafter_losses >= 1, "{lost:?}");

    let _second = drafter_at(&address, open_demo().0, |_| {}).await;
    let found =
        async { while report(&generate(&mut client, sampled(60, 4)).await).num_drafts == 0 {} };
    let found = tokio::time::timeout(Duration::from_secs(30), found).await;
    found.expect("the drafter that came back is found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drafter_of_another_model_is_left_out() {
    let (checkpoint, _) = open_demo();
    let config = checkpoint.config().clone();
    let other = Arc::new(random_checkpoint(config, WeightType::Bf16, 1).unwrap());
    let drafter = drafter_at("127.0.0.1:0", other, |_| {}).await;
    let verifier = verifier(|config| config.drafts = vec![drafter.uri()]).await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, plain(request(200))).await;
    let answer = generate(&mut client, request(200)).await;
    assert_eq!(answer.token_ids, expected.token_ids);
    assert_eq!(report(&answer).num_drafts, 0);
    let info = client
        .get_server_info(v1::GetServerInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    let status = &info.drafters[0];
    assert_ne!(status.state(), DrafterState::Ready);
    assert!(
        status.reason.contains("checkpoint_fingerprint"),
        "{status:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_the_drafter_lacks_is_no_fault_of_the_drafter() {
    let drafter = drafter().await;
    let verifier = verifier(|config| config.drafts = vec![drafter.uri()]).await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, request(100)).await;
    let answer = generate(&mut client, with_policy(request(100), "fixed:9:2")).await;
    assert_eq!(answer.token_ids, expected.token_ids);
    assert_eq!(report(&answer).num_drafts, 0);
    let after = generate(&mut client, request(100)).await;
    assert!(
        report(&after).num_drafts > 0,
        "others are still drafted for"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_is_ready_without_its_drafter() {
    let verifier = verifier(|config| config.drafts = vec!["http://127.0.0.1:1".parse().unwrap()]);
    let verifier = verifier.await;
    let mut client = client(&verifier).await;
    let answer = generate(&mut client, request(50)).await;
    let expected = generate(&mut client, plain(request(50))).await;
    assert_eq!(answer.token_ids, expected.token_ids);
    assert_eq!(report(&answer).num_drafts, 0);
}

/// A real, published Llama model gives its published text through the pair, drafts and all. It
/// is not part of this repository: `DSSD_TEST_DATA` names the folder with `checkpoints/stories260k`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_model_gives_its_published_text_with_drafts() {
    let Some(data) = std::env::var_os("DSSD_TEST_DATA") else {
        eprintln!("skipped: DSSD_TEST_DATA is not set");
        return;
    };
    let dir = std::path::Path::new(&data).join("checkpoints/stories260k");
    let expected = std::fs::read_to_string(dir.join("expected_greedy.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let numbers = |key: &str| -> Vec<u32> {
        let numbers = expected[key].as_array().unwrap().iter();
        numbers
            .map(|number| u32::try_from(number.as_u64().unwrap()).unwrap())
            .collect()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let draft_uri = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let drafting = draft_svc::run(
        draft_svc::Config::for_model(dir.clone()),
        listener.into(),
        shutdown.clone(),
    );
    let drafting = tokio::spawn(drafting);
    let (checkpoint, tokenizer) = dssd_common::serve::open_model(Some(&dir)).unwrap();
    let verifier = verifier_of(checkpoint, tokenizer, |config| {
        config.drafts = vec![draft_uri]
    })
    .await;
    let mut client = client(&verifier).await;
    let wanted = numbers("token_ids");
    let request = GenerateRequest {
        prompt: ids(numbers("prompt_token_ids")),
        max_new_tokens: Some(wanted.len() as u32),
        ignore_eos: true,

        ..GenerateRequest::default()
    };
    let speculated = generate(&mut client, with_policy(request.clone(), "fixed:3:3")).await;
    let plainly = generate(&mut client, plain(request)).await;
    for answer in [&speculated, &plainly] {
        assert_eq!(answer.token_ids, wanted);
        assert_eq!(answer.text, expected["text"].as_str().unwrap());
    }
    assert!(
        report(&speculated).num_accepted_tokens > 0,
        "drafts were accepted"
    );
    verifier.stop().await;
    shutdown.cancel();
    drafting.await.unwrap().unwrap();
}
