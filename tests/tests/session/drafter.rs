//! Scenarios of the drafter's session.

use draft_svc::session::{AheadPlan, DraftSession, DrafterProfile, Plan, Refusal};
use dssd_proto::v1::{
    Commit, DraftStopReason, DraftedToken, DrafterMessage, Open, Proposal, SamplingSettings,
    VerifierMessage, drafter_message::Message, verifier_message,
};

use crate::{
    script::{Event, joined, play_folder},
    toy,
};

#[test]
fn scenarios() {
    play_folder("draft-svc/testdata", || DraftSession::new(profile()), play);
}

fn profile() -> DrafterProfile {
    DrafterProfile {
        checkpoint_fingerprint: "aa".to_owned(),
        tokenizer_hash: "bb".to_owned(),
        vocabulary_size: toy::VOCABULARY,
        max_context: 12,
        max_draft_tokens: 6,
        exit_layers: vec![1, 2],
        calibration_id: "cc".to_owned(),
    }
}

fn play(session: &mut DraftSession, event: &Event) -> Vec<String> {
    let token = event.number_or("token", 0);
    match event.verb {
        "plan" => vec![plan(session.plan())],
        "fed" => sent(session.fed(event.number_or("rows", 0) as usize, toy::load())),
        "drafted" => {
            session.drafted(DraftedToken {
                token_id: token,
                exit_head: 0,
                entropy: 0.5,
            });
            Vec::new()
        }
        "must_stop" => {
            let reason = session.must_stop(event.time());
            vec![
                reason
                    .map_or("no", |reason| reason.as_str_name())
                    .to_owned(),
            ]
        }
        "finished" => {
            let reason = event
                .text("reason")
                .and_then(DraftStopReason::from_str_name)
                .unwrap();
            sent(session.finished(reason, event.time(), toy::load()))
        }
        "work_ahead" => {
            let guess = event.number("guess").map(|token| token as u32);
            vec![session.work_ahead(guess).to_string()]
        }
        "ahead" => vec![session.ahead().map_or("no".to_owned(), ahead)],
        "foretold" => {
            session.foretold(token);
            Vec::new()
        }
        "stop_ahead" => {
            session.stop_ahead();
            Vec::new()
        }
        "is_foretold" => vec![session.is_foretold().to_string()],
        "resume" => {
            session.resume(event.text("rerun") == Some("yes"));
            Vec::new()
        }
        "evicted" => sent(Some(session.evicted())),
        "history" => vec![joined(session.tokens().to_vec())],
        _ => match session.on_message(message(event), event.time(), toy::load()) {
            Ok(answer) => sent(answer),
            Err(refusal @ Refusal::Mismatch { .. }) => vec![format!("mismatch: {refusal}")],
            Err(refusal) => vec![format!("refused: {refusal}")],
        },
    }
}

fn message(event: &Event) -> VerifierMessage {
    let message = match event.verb {
        "empty" => None,
        "open" => Some(verifier_message::Message::Open(open(event))),
        "commit" => Some(verifier_message::Message::Commit(commit(event))),
        verb => panic!("unknown event {verb}"),
    };
    VerifierMessage { message }
}

fn open(event: &Event) -> Open {
    let tokens = event.list("tokens");
    let mut open = toy::open(&tokens);
    open.prompt_length = event.number_or("prompt", open.prompt_length);
    open.vocabulary_size = event.number_or("vocabulary", open.vocabulary_size);
    open.last_epoch = event.number("last_epoch").unwrap_or(0);
    for (name, field) in [
        ("fingerprint", &mut open.checkpoint_fingerprint),
        ("tokenizer", &mut open.tokenizer_hash),
        ("request", &mut open.request_id),
    ] {
        if let Some(value) = event.text(name) {
            *field = value.to_owned();
        }
    }
    let stop_token_ids = event.list("stop");
    open.sampling = (event.text("sampling") != Some("none")).then(|| SamplingSettings {
        stop_token_ids,
        max_new_tokens: event.number_or("new", 0),
        ..SamplingSettings::default()
    });
    open
}

/// `kv` may be left out where it is right.
fn commit(event: &Event) -> Commit {
    let token_ids = event.list("tokens");
    let first_position = event.number_or("first", 0);
    let end = first_position.saturating_add(token_ids.len() as u32);
    Commit {
        epoch: event.number("epoch").unwrap_or(0),
        first_position,
        kv_position: event.number_or("kv", end.saturating_sub(1)),
        token_ids,
        accepted: event.number("accepted").map(|accepted| accepted as u32),
        proposal_epoch: event.number("of"),
        max_draft_tokens: event.number_or("max", 0),
        draft_budget_us: event.number("budget"),
        verify_cost_us: Vec::new(),
    }
}

fn plan(plan: Plan) -> String {
    let mut line = format!(
        "keep {} feed={}",
        plan.truncate_to,
        joined(plan.feed.to_vec())
    );
    if let Some(goal) = plan.goal {
        let (epoch, base, max) = (goal.epoch, goal.base_position, goal.max_draft_tokens);
        line += &format!(" draft epoch={epoch} base={base} max={max}");
        if let Some(deadline) = goal.deadline {
            line += &format!(" deadline={}", deadline.as_micros());
        }
    }
    line
}

fn ahead(ahead: AheadPlan) -> String {
    let feed = joined(ahead.feed.to_vec());
    format!("feed={feed} base={}", ahead.base_position)
}

fn sent(message: Option<DrafterMessage>) -> Vec<String> {
    let Some(message) = message else {
        return Vec::new();
    };
    let line = match message.message {
        Some(Message::Ready(ready)) => format!("ready held={}", ready.held_position),
        Some(Message::Resync(resync)) => {
            format!(
                "resync epoch={} held={}",
                resync.epoch, resync.held_position
            )
        }
        Some(Message::Proposal(proposal)) => proposed(&proposal),
        None => panic!("an empty message was sent"),
    };
    vec![line]
}

fn proposed(proposal: &Proposal) -> String {
    let mut line = format!(
        "proposal epoch={} base={} tokens={} {} draft_us={}",
        proposal.epoch,
        proposal.base_position,
        joined(proposal.tokens.iter().map(|token| token.token_id)),
        proposal.stop_reason().as_str_name(),
        proposal.draft_us
    );
    for (name, count) in [
        ("ahead", proposal.ahead_tokens),
        ("discarded", proposal.discarded_ahead_tokens),
    ] {
        if count > 0 {
            line += &format!(" {name}={count}");
        }
    }
    line
}
