//! Scenarios of the verifier's session.

use std::time::Duration;

use dssd_proto::v1::{
    Commit, DraftStopReason, DraftedToken, DrafterMessage, Proposal, Ready, Resync, Speculation,
    SpeculationMode, VerifierMessage, drafter_message::Message, verifier_message,
};
use verify_svc::session::{Next, RoundHints, VerifySession};

use crate::{
    script::{Event, joined, play_folder},
    toy,
};

#[test]
fn scenarios() {
    play_folder(
        "verify-svc/testdata",
        || VerifySession::new(toy::open(&[1, 2, 3])),
        play,
    );
}

#[test]
fn the_report_has_the_fields_definitions() {
    let events = [
        "attach",
        "ready held=2",
        "committed tokens=4",
        "proposal epoch=1 base=4 tokens=5,6,7,8 discarded=3",
        "next",
        "committed tokens=5,6,7,9 accepted=3",
        "proposal epoch=2 base=8 tokens=10 ahead=1 discarded=2",
        "next",
        "committed tokens=11 accepted=0",
        // No more than the longest draft that was asked for.
        "proposal epoch=3 base=9 discarded=99",
        // Once is enough, whatever the link does.
        "proposal epoch=3 base=9 discarded=99",
    ];
    let mut session = VerifySession::new(toy::open(&[1, 2, 3]));
    for event in events {
        play(&mut session, &Event::parse(event));
    }
    let report = session.statistics().report();
    assert_eq!(
        (
            report.num_drafts,
            report.num_draft_tokens,
            report.num_accepted_tokens
        ),
        (2, 5, 3)
    );
    assert_eq!(
        (report.num_ahead_tokens, report.num_discarded_ahead_tokens),
        (1, 9)
    );
    assert_eq!(report.mean_acceptance_length, 2.5);
    assert_eq!(report.draft_acceptance_rate, 0.6);
    assert_eq!(report.exit_heads[0].count, 5);
    assert_eq!(report.stop_reasons[0].count, 2);
}

fn play(session: &mut VerifySession, event: &Event) -> Vec<String> {
    match event.verb {
        "off" => {
            let mut open = toy::open(&[1, 2, 3]);
            let mode = SpeculationMode::Off.into();
            open.speculation = Some(Speculation {
                mode,
                ..Speculation::default()
            });
            *session = VerifySession::new(open);
            Vec::new()
        }
        "attach" => vec![sent(&session.attach())],
        "lost" => {
            session.on_lost();
            Vec::new()
        }
        "is_silent" => vec![session.is_silent().to_string()],
        "is_ready" => vec![session.is_ready().to_string()],
        "next" => vec![next(&session.next(event.time()))],
        "committed" => committed(session, event).iter().map(sent).collect(),
        "statistics" => statistics(session),
        _ => match session.on_message(message(event), event.time()) {
            Ok(answer) => answer.iter().map(sent).collect(),
            Err(nonsense) => vec![format!("reset: {nonsense}")],
        },
    }
}

fn committed(session: &mut VerifySession, event: &Event) -> Option<VerifierMessage> {
    let hints = RoundHints {
        now: event.time(),
        remaining: event.number_or("remaining", 100) as usize,
        max_draft_tokens: event.number_or("max", 4),
        draft_budget: Duration::from_micros(80),
        wait_budget: Duration::from_micros(100),
        verify_cost_us: event.list("cost").into_iter().map(u64::from).collect(),
    };
    let accepted = event.number("accepted").map(|accepted| accepted as usize);
    session.committed(&event.list("tokens"), accepted, &hints)
}

fn message(event: &Event) -> DrafterMessage {
    let epoch = event.number("epoch").unwrap_or(0);
    let held_position = event.number_or("held", 0);
    let entropy = event
        .text("entropy")
        .map_or(0.5, |value| value.parse().unwrap());
    let tokens = event.list("tokens").into_iter();
    let message = match event.verb {
        "empty" => None,
        "ready" => Some(Message::Ready(Ready {
            held_position,
            ..Ready::default()
        })),
        "resync" => Some(Message::Resync(Resync {
            epoch,
            held_position,
        })),
        "proposal" => Some(Message::Proposal(Proposal {
            epoch,
            base_position: event.number_or("base", 0),
            tokens: tokens
                .map(|token_id| DraftedToken {
                    token_id,
                    exit_head: 0,
                    entropy,
                })
                .collect(),
            stop_reason: DraftStopReason::Entropy.into(),
            draft_us: event.number("draft_us").unwrap_or(0),
            load: Some(toy::load()),
            ahead_tokens: event.number_or("ahead", 0),
            discarded_ahead_tokens: event.number_or("discarded", 0),
        })),
        verb => panic!("unknown event {verb}"),
    };
    DrafterMessage { message }
}

fn sent(message: &VerifierMessage) -> String {
    match &message.message {
        Some(verifier_message::Message::Open(open)) => format!(
            "open tokens={} prompt={} last_epoch={}",
            joined(open.token_ids.clone()),
            open.prompt_length,
            open.last_epoch
        ),
        Some(verifier_message::Message::Commit(commit)) => commit_line(commit),
        None => panic!("an empty message was sent"),
    }
}

fn commit_line(commit: &Commit) -> String {
    let mut line = format!(
        "commit epoch={} first={} tokens={} kv={} max={}",
        commit.epoch,
        commit.first_position,
        joined(commit.token_ids.clone()),
        commit.kv_position,
        commit.max_draft_tokens
    );
    if let (Some(accepted), Some(epoch)) = (commit.accepted, commit.proposal_epoch) {
        line += &format!(" accepted={accepted} of={epoch}");
    }
    if let Some(budget) = commit.draft_budget_us {
        line += &format!(" budget={budget}");
    }
    if !commit.verify_cost_us.is_empty() {
        line += &format!(" cost={:?}", commit.verify_cost_us);
    }
    line
}

fn next(next: &Next) -> String {
    match next {
        Next::Verify(proposal) => format!(
            "verify epoch={} tokens={}",
            proposal.epoch,
            joined(proposal.tokens.iter().map(|token| token.token_id))
        ),
        Next::Plain(reason) => format!("plain {}", reason.as_str_name()),
        Next::Wait { until } => format!("wait until={}", until.as_micros()),
    }
}

/// Every count that is not 0.
fn statistics(session: &VerifySession) -> Vec<String> {
    let statistics = session.statistics();
    let counts = [
        ("num_drafts", statistics.num_drafts),
        ("num_draft_tokens", statistics.num_draft_tokens),
        ("num_accepted_tokens", statistics.num_accepted_tokens),
        ("stale_proposals", statistics.stale_proposals),
        ("late_proposals", statistics.late_proposals),
        ("back_offs", statistics.back_offs),
        ("resyncs", statistics.resyncs),
        ("resets", statistics.resets),
        ("drafter_losses", statistics.drafter_losses),
        ("draft_wait_us", statistics.draft_wait.as_micros() as u64),
        ("wire_us", statistics.wire.as_micros() as u64),
    ];
    let counts = counts.iter().filter(|(_, count)| *count > 0);
    let plain = statistics.plain_rounds.iter();
    let plain = plain.map(|(reason, count)| format!("{}={count}", reason.as_str_name()));
    counts
        .map(|(name, count)| format!("{name}={count}"))
        .chain(plain)
        .collect()
}
