//! The verifier's session under messages that no honest drafter sends.

use crate::{
    harness::Target,
    script::{self, Event},
};
use dssd_proto::v1::{
    DraftedToken, DrafterLoad, DrafterMessage, Open, Proposal, Ready, Resync, SamplingSettings,
    VerifierMessage, drafter_message::Message, verifier_message,
};
use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;
use verify_svc::session::{Next, RoundHints, VerifySession};

const TARGET: Target = Target {
    name: "verifier session",
    share: 0.05,
};
const VOCABULARY: u32 = 50;
const PROMPT: [u32; 3] = [1, 2, 3];

/// Whatever comes in: what is committed is what was committed here, what is suggested can be
/// verified, and a reset detaches.
#[test]
fn any_messages_in_any_order() {
    let scenarios = script::scenarios("verify-svc/testdata");
    TARGET.run(|random| {
        let mut run = Run {
            session: VerifySession::new(open()),
            committed: PROMPT.to_vec(),
            resets: 0,
        };
        let mut now = Duration::ZERO;
        for event in script::mutated(random, &scenarios) {
            now += Duration::from_micros(random.random_range(0..150));
            let at = event.number("at").map(Duration::from_micros);
            run.play(random, &event, at.unwrap_or(now));
            assert_eq!(run.session.tokens(), run.committed);
        }
        let report = run.session.statistics().report();
        assert!(report.num_accepted_tokens <= report.num_draft_tokens);
        assert!((0.0..=1.0).contains(&report.draft_acceptance_rate));
        run.resets == 0
    });
}

struct Run {
    session: VerifySession,
    committed: Vec<u32>,
    resets: u32,
}

impl Run {
    fn play(&mut self, random: &mut ChaCha8Rng, event: &Event, now: Duration) {
        let message = match event.verb.as_str() {
            "attach" => {
                let first = self.session.attach();
                return self.told(Some(first));
            }
            "lost" => return self.session.on_lost(),
            "next" | "committed" | "is_silent" | "is_ready" | "statistics" | "off" => {
                return self.round(random, event, now);
            }
            "ready" => Some(Message::Ready(Ready {
                held_position: event.small("held"),
                load: random.random_bool(0.5).then(DrafterLoad::default),
                ..Ready::default()
            })),
            "resync" => Some(Message::Resync(Resync {
                epoch: event.number("epoch").unwrap_or(0),
                held_position: event.small("held"),
            })),
            "proposal" => Some(Message::Proposal(proposal(random, event))),
            _ => None,
        };
        match self.session.on_message(DrafterMessage { message }, now) {
            Ok(answer) => self.told(answer),
            Err(nonsense) => {
                assert!(!nonsense.to_string().is_empty() && !self.session.is_attached());
                self.resets += 1;
            }
        }
    }

    /// A round, with as many tokens accepted as an engine may say.
    fn round(&mut self, random: &mut ChaCha8Rng, event: &Event, now: Duration) {
        let next = self.session.next(now);
        let mut tokens = event.list("tokens");
        let accepted = match &next {
            Next::Verify(proposal) => {
                assert!(!proposal.tokens.is_empty());
                let drafted = proposal.tokens.iter();
                assert!(drafted.clone().all(|t| t.token_id < VOCABULARY));
                assert!(drafted.clone().all(|t| t.entropy >= 0.0));
                let count = random.random_range(0..=proposal.tokens.len());
                tokens = drafted.take(count).map(|t| t.token_id).collect();
                tokens.push(7);
                Some(count)
            }
            Next::Wait { until } => {
                assert!(*until > now);
                return;
            }
            Next::Plain(_) => None,
        };
        self.committed.extend_from_slice(&tokens);
        let hints = RoundHints {
            now,
            remaining: *[0, 1, 2, 100, usize::MAX].choose(random).unwrap(),
            max_draft_tokens: *[0, 1, 4, u32::MAX].choose(random).unwrap(),
            draft_budget: Duration::from_micros(80),
            wait_budget: *[Duration::ZERO, Duration::from_micros(100), Duration::MAX]
                .choose(random)
                .unwrap(),
            verify_cost_us: vec![5, 6],
        };
        let message = self.session.committed(&tokens, accepted, &hints);
        self.told(message);
        self.session.is_silent();
        self.session.is_ready();
    }

    /// What a drafter is told is the truth.
    fn told(&self, message: Option<VerifierMessage>) {
        let Some(message) = message else { return };
        match message.message.unwrap() {
            verifier_message::Message::Open(open) => assert_eq!(open.token_ids, self.committed),
            verifier_message::Message::Commit(commit) => {
                let first = commit.first_position as usize;
                assert_eq!(commit.token_ids, self.committed[first..]);
            }
        }
    }
}

fn proposal(random: &mut ChaCha8Rng, event: &Event) -> Proposal {
    let tokens = event
        .list("tokens")
        .into_iter()
        .map(|token_id| DraftedToken {
            token_id,
            exit_head: *[0, 1, u32::MAX].choose(random).unwrap(),
            entropy: *[0.5, 0.0, -0.0, f32::MAX, f32::NAN, -1.0]
                .choose_weighted(random, |entropy| if *entropy == 0.5 { 40 } else { 1 })
                .unwrap(),
        });
    Proposal {
        epoch: event.number("epoch").unwrap_or(0),
        base_position: event.small("base"),
        tokens: tokens.collect(),
        stop_reason: *[1, 0, 5, 6, -1, i32::MAX].choose(random).unwrap(),
        draft_us: *[0, 9, u64::MAX].choose(random).unwrap(),
        load: None,
        ahead_tokens: event.small("ahead"),
        discarded_ahead_tokens: event.small("discarded"),
    }
}

pub(crate) fn open() -> Open {
    Open {
        request_id: "run".to_owned(),
        checkpoint_fingerprint: "aa".to_owned(),
        tokenizer_hash: "bb".to_owned(),
        vocabulary_size: VOCABULARY,
        token_ids: PROMPT.to_vec(),
        prompt_length: 3,
        sampling: Some(SamplingSettings::default()),
        speculation: None,
        last_epoch: 0,
    }
}
