//! The drafter's session under messages that no honest verifier sends.

use crate::{
    harness::Target,
    script::{self, Event},
    verifier,
};
use draft_svc::session::{DraftSession, DrafterProfile};
use dssd_proto::v1::{
    Commit, DraftStopReason, DraftedToken, DrafterLoad, DrafterMessage, Open, VerifierMessage,
    drafter_message, verifier_message::Message,
};
use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

const TARGET: Target = Target {
    name: "drafter session",
    share: 0.05,
};
const CONTEXT: usize = 12;

/// Whatever comes in: the plan fits the KV cache, nothing grows beyond the context by much, and
/// proposals are as long as was asked for.
#[test]
fn any_messages_in_any_order() {
    let scenarios = script::scenarios("draft-svc/testdata");
    TARGET.run(|random| {
        let mut session = DraftSession::new(profile());
        let mut kv = Vec::new();
        let mut now = Duration::ZERO;
        for event in script::mutated(random, &scenarios) {
            now += Duration::from_micros(random.random_range(0..50));
            let at = event.number("at").map_or(now, Duration::from_micros);
            let said = match message(random, &event) {
                Some(message) => match session.on_message(message, at, DrafterLoad::default()) {
                    Ok(said) => said,
                    Err(refusal) => {
                        assert!(!refusal.to_string().is_empty());
                        return false;
                    }
                },
                None => work(random, &mut session, &event, at),
            };
            check(&session, said.as_ref());
            step(random, &mut session, &mut kv, at);
        }
        true
    });
}

fn check(session: &DraftSession, said: Option<&DrafterMessage>) {
    let most = CONTEXT + profile().max_draft_tokens as usize + 2;
    assert!(session.tokens().len() <= most);
    let proposal = said.and_then(|said| said.message.as_ref());
    if let Some(drafter_message::Message::Proposal(proposal)) = proposal {
        assert!(proposal.tokens.len() <= profile().max_draft_tokens as usize);
        assert!(proposal.ahead_tokens as usize <= proposal.tokens.len());
        assert!(proposal.epoch > 0);
    }
}

/// What an engine would do now and then: rows, and the token that follows.
fn step(random: &mut ChaCha8Rng, session: &mut DraftSession, kv: &mut Vec<u32>, now: Duration) {
    let plan = session.plan();
    assert!(plan.truncate_to <= kv.len(), "KV that is not there");
    kv.truncate(plan.truncate_to);
    if random.random_bool(0.3) {
        return;
    }
    let (feed, goal) = (plan.feed.to_vec(), plan.goal.is_some());
    let waits = goal || !feed.is_empty();
    let ahead = session
        .ahead()
        .filter(|_| !waits)
        .map(|plan| plan.feed.to_vec());
    let feed = ahead.clone().unwrap_or(feed);
    let rows = random.random_range(0..=feed.len());
    kv.extend_from_slice(&feed[..rows]);
    let said = session.fed(rows, DrafterLoad::default());
    check(session, said.as_ref());
    if rows < feed.len() || !(goal || ahead.is_some()) {
        return;
    }
    // What was foretold may have run, behind what the draft has taken of it so far.
    let foretold = session.is_foretold() && kv.starts_with(session.tokens());
    assert!(
        foretold || kv == session.tokens(),
        "KV and history at a choice: {kv:?}, {:?}",
        session.tokens()
    );
    let token_id = random.random_range(0..50);
    if ahead.is_some() {
        return session.foretold(token_id);
    }
    if session.must_stop(now).is_some() || random.random_bool(0.2) {
        let said = session.finished(DraftStopReason::Entropy, now, DrafterLoad::default());
        check(session, said.as_ref());
    } else if !session.is_foretold() {
        session.drafted(DraftedToken {
            token_id,
            exit_head: 0,
            entropy: 0.5,
        });
    }
}

/// What is no message: the engine's part of a scenario.
fn work(
    random: &mut ChaCha8Rng,
    session: &mut DraftSession,
    event: &Event,
    now: Duration,
) -> Option<DrafterMessage> {
    let load = DrafterLoad::default();
    match event.verb.as_str() {
        "finished" => return session.finished(DraftStopReason::Cost, now, load),
        "work_ahead" => _ = session.work_ahead(event.number("guess").map(|token| token as u32)),
        "stop_ahead" => session.stop_ahead(),
        "resume" if session.is_foretold() => session.resume(random.random_bool(0.5)),
        "evicted" => return Some(session.evicted()),
        _ => {}
    }
    None
}

fn message(random: &mut ChaCha8Rng, event: &Event) -> Option<VerifierMessage> {
    let message = match event.verb.as_str() {
        "empty" => None,
        "open" => Some(Message::Open(open(random, event))),
        "commit" => Some(Message::Commit(commit(random, event))),
        _ => return None,
    };
    Some(VerifierMessage { message })
}

fn open(random: &mut ChaCha8Rng, event: &Event) -> Open {
    let mut open = verifier::open();
    open.token_ids = event.list("tokens");
    open.prompt_length = match event.number("prompt") {
        Some(length) => length as u32,
        None => open.token_ids.len() as u32,
    };
    open.last_epoch = event.number("last_epoch").unwrap_or(0);
    if let (Some(sampling), true) = (&mut open.sampling, random.random_bool(0.1)) {
        sampling.stop_token_ids = event.list("stop");
        sampling.max_new_tokens = *[0, 1, 7, u32::MAX].choose(random).unwrap();
    }
    if random.random_bool(0.02) {
        open.sampling = None;
    }
    open
}

fn commit(random: &mut ChaCha8Rng, event: &Event) -> Commit {
    let token_ids = event.list("tokens");
    let first_position = event.small("first");
    let end = first_position.saturating_add(token_ids.len() as u32);
    Commit {
        epoch: event.number("epoch").unwrap_or(0),
        first_position,
        kv_position: event
            .number("kv")
            .map_or(end.saturating_sub(1), |kv| kv as u32),
        token_ids,
        accepted: event.number("accepted").map(|accepted| accepted as u32),
        proposal_epoch: event.number("of"),
        max_draft_tokens: event.small("max"),
        draft_budget_us: *[event.number("budget"), Some(0), Some(u64::MAX), None]
            .choose(random)
            .unwrap(),
        verify_cost_us: vec![u64::MAX; random.random_range(0..3)],
    }
}

fn profile() -> DrafterProfile {
    DrafterProfile {
        checkpoint_fingerprint: "aa".to_owned(),
        tokenizer_hash: "bb".to_owned(),
        vocabulary_size: 50,
        max_context: CONTEXT,
        max_draft_tokens: 6,
        exit_layers: vec![1, 2],
        calibration_id: "cc".to_owned(),
    }
}
