//! Drafters that work ahead, and what a drafter and a verifier tell of drafts.

use crate::support::*;
use dssd_common::serve::WorkAhead;
use dssd_proto::v1::{
    GenerateResponse, GetDrafterInfoRequest, GetDrafterInfoResponse, Speculation,
    SpeculativeDecoding, drafting_client::DraftingClient,
};
use std::time::Duration;

fn report(answer: &GenerateResponse) -> SpeculativeDecoding {
    let finish = answer.finish_info.clone().unwrap();
    finish.speculative_decoding.unwrap()
}

async fn info(drafter: &Drafter) -> GetDrafterInfoResponse {
    let mut client = DraftingClient::new(channel(drafter).await);
    let info = client.get_drafter_info(GetDrafterInfoRequest {}).await;
    info.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn work_ahead_changes_no_token_and_is_accounted_for() {
    let forced = |config: &mut draft_svc::Config| config.work_ahead = WorkAhead::On;
    let drafter = drafter_at("127.0.0.1:0", open_demo().0, forced).await;
    assert_eq!(info(&drafter).await.work_ahead, "on");
    let verifier = verifier(|config| config.drafts = vec![drafter.uri()]).await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, plain(sampled(100, 3))).await;
    let (mut used, mut in_vain) = (0, 0);
    // How far it comes depends on the machine; that it comes anywhere does not.
    let worked = async {
        while used == 0 || in_vain == 0 {
            let answer = generate(&mut client, sampled(100, 3)).await;
            assert_eq!(answer.token_ids, expected.token_ids);
            let report = report(&answer);
            assert!(report.num_ahead_tokens <= report.num_draft_tokens);
            used += report.num_ahead_tokens;
            in_vain += report.num_discarded_ahead_tokens;
        }
    };
    let worked = tokio::time::timeout(Duration::from_secs(30), worked).await;
    worked.expect("tokens drafted ahead are used, and others are in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drafter_tells_how_its_heads_fared() {
    let drafter = drafter().await;
    let fresh = info(&drafter).await;
    assert_eq!(fresh.work_ahead, "auto");
    assert_eq!(fresh.exit_heads.len(), fresh.exit_layers.len());
    assert_eq!(fresh.exit_heads[0].observed_acceptance, None);
    let verifier = verifier(|config| config.drafts = vec![drafter.uri()]).await;
    let mut client = client(&verifier).await;
    let answer = generate(&mut client, request(200)).await;
    let heads = info(&drafter).await.exit_heads;
    let report = report(&answer);
    // The last round's verdict stays with the verifier, and so does that of a late proposal.
    assert!(heads[0].judged_tokens <= report.num_draft_tokens);
    assert!(
        heads[0].judged_tokens > report.num_draft_tokens / 4,
        "{report:?}"
    );
    let observed = heads[0].observed_acceptance.unwrap();
    let drift = heads[0].drift.unwrap();
    assert!((observed - heads[0].calibrated_acceptance.unwrap() - drift).abs() < 1e-12);
    assert!((0.0..=1.0).contains(&observed), "{observed}");
    assert_eq!(
        heads[1].judged_tokens, 0,
        "`fixed:0:2` drafts at the first head"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_agreement_of_a_server_is_that_of_requests_that_name_none() {
    let drafter = drafter().await;
    let verifier = verifier(|config| {
        config.serve.policy = None;
        config.serve.target_agreement = Some(0.8);
        config.drafts = vec![drafter.uri()];
    })
    .await;
    let mut client = client(&verifier).await;
    let cases = [
        (Speculation::default(), "entropy@0.8"),
        (named("entropy"), "entropy@0.8"),
        (named("fixed:0:3"), "fixed:0:3"),
        (
            Speculation {
                entropy_threshold: Some(1.5),
                ..named("entropy")
            },
            "entropy:1.5",
        ),
        (
            Speculation {
                target_agreement: Some(0.7),
                ..Speculation::default()
            },
            "entropy@0.7",
        ),
    ];
    for (speculation, policy) in cases {
        let mut asked = request(8);
        asked.speculation = Some(speculation);
        let answer = generate(&mut client, asked).await;
        assert_eq!(report(&answer).policy, policy);
    }
}

fn named(policy: &str) -> Speculation {
    Speculation {
        policy: policy.to_owned(),
        ..Speculation::default()
    }
}
