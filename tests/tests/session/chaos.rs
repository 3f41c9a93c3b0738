//! Both sessions are total: any message in any state gives an answer or a refusal.

use std::time::Duration;

use draft_svc::session::{DraftSession, DrafterProfile};
use dssd_proto::v1::{
    Commit, DraftStopReason, DraftedToken, DrafterMessage, Proposal, Ready, Resync,
    VerifierMessage, drafter_message, verifier_message,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use verify_svc::session::{Next, RoundHints, VerifySession};

use crate::toy;

struct Noise(ChaCha8Rng);

impl Noise {
    /// Mostly small, so that messages are often almost right.
    fn number(&mut self) -> u32 {
        match self.0.random_range(0..40) {
            0 => u32::MAX,
            1 => self.0.random(),
            _ => self.0.random_range(0..12),
        }
    }

    fn tokens(&mut self) -> Vec<u32> {
        (0..self.0.random_range(0..5))
            .map(|_| self.number())
            .collect()
    }

    fn time(&mut self) -> Duration {
        Duration::from_micros(self.0.random_range(0..200))
    }

    /// Often the answer that is wanted: to the Commit `epoch` with `length` tokens committed.
    fn drafter_message(&mut self, epoch: u64, length: usize) -> DrafterMessage {
        let right = self.0.random_bool(0.9);
        let epoch = if right { epoch } else { self.number().into() };
        let base_position = if right { length as u32 } else { self.number() };
        let held_position = if right { 1 } else { self.number() };
        let drafted = |token_id| DraftedToken {
            token_id,
            exit_head: token_id,
            entropy: 0.5,
        };
        let message = match self.0.random_range(0..8) {
            0 => None,
            1 => Some(drafter_message::Message::Resync(Resync {
                epoch,
                held_position,
            })),
            2..4 => Some(drafter_message::Message::Ready(Ready {
                held_position,
                ..Ready::default()
            })),
            _ => {
                let tokens: Vec<_> = self.tokens().into_iter().map(drafted).collect();
                let most = tokens.len() as u32 + u32::from(self.0.random_bool(0.1));
                Some(drafter_message::Message::Proposal(Proposal {
                    epoch,
                    base_position,
                    tokens,
                    stop_reason: self.number() as i32,
                    draft_us: self.0.random(),
                    load: None,
                    ahead_tokens: self.0.random_range(0..=most),
                    discarded_ahead_tokens: self.0.random(),
                }))
            }
        };
        DrafterMessage { message }
    }

    fn verifier_message(&mut self) -> VerifierMessage {
        let message = match self.0.random_range(0..12) {
            0 => None,
            1..3 => {
                let mut open = toy::open(&[1, 2, 3]);
                open.token_ids.extend(self.tokens());
                open.last_epoch = self.number().into();
                Some(verifier_message::Message::Open(open))
            }
            _ => Some(verifier_message::Message::Commit(self.commit())),
        };
        VerifierMessage { message }
    }

    /// A Commit of tokens that the drafter holds, and mostly one more.
    fn agreeing_commit(&mut self, session: &DraftSession) -> Commit {
        let mut token_ids = session.tokens().get(3..).unwrap_or_default().to_vec();
        token_ids.truncate(self.0.random_range(0..8));
        token_ids.extend(self.0.random_bool(0.5).then_some(1));
        Commit {
            epoch: session.epoch() + 1,
            first_position: 3,
            kv_position: 2 + token_ids.len() as u32,
            token_ids,
            max_draft_tokens: self.0.random_range(0..6),
            ..Commit::default()
        }
    }

    fn commit(&mut self) -> Commit {
        let (first_position, token_ids) = (self.number(), self.tokens());
        let end = first_position.wrapping_add(token_ids.len() as u32);
        Commit {
            epoch: self.number().into(),
            first_position,
            token_ids,
            kv_position: end.wrapping_sub(1),
            max_draft_tokens: self.number(),
            draft_budget_us: Some(self.0.random()),
            ..Commit::default()
        }
    }
}

#[test]
fn a_verify_session_bears_any_drafter() {
    let (mut answers, mut resets, mut verified) = (0, 0, 0);
    for seed in 0..3_000 {
        let mut noise = Noise(ChaCha8Rng::seed_from_u64(seed));
        let mut session = VerifySession::new(toy::open(&[1, 2, 3]));
        let mut epoch = 0;
        for _ in 0..40 {
            let now = noise.time();
            match noise.0.random_range(0..10) {
                0 if !session.is_attached() || noise.0.random_bool(0.1) => {
                    drop(session.attach());
                    epoch = 0;
                }
                0..4 => {
                    let hints = RoundHints {
                        now,
                        remaining: noise.number() as usize,
                        max_draft_tokens: noise.number(),
                        wait_budget: Duration::from_micros(100),
                        ..RoundHints::default()
                    };
                    let accepted = noise.0.random_bool(0.5).then(|| noise.number() as usize);
                    let sent = session.committed(&[1], accepted, &hints);
                    if let Some(verifier_message::Message::Commit(commit)) =
                        sent.and_then(|message| message.message)
                    {
                        epoch = commit.epoch;
                    }
                }
                4..6 => verified += u32::from(matches!(session.next(now), Next::Verify(_))),
                _ => match session
                    .on_message(noise.drafter_message(epoch, session.tokens().len()), now)
                {
                    Ok(answer) => answers += u32::from(answer.is_some()),
                    Err(_) => resets += 1,
                },
            }
        }
        let statistics = session.statistics();
        assert!(statistics.num_accepted_tokens <= statistics.num_draft_tokens);
        assert!(statistics.num_ahead_tokens <= statistics.num_draft_tokens);
        assert!(statistics.resets <= statistics.drafter_losses);
    }
    assert!(
        answers > 1_000 && resets > 1_000 && verified > 100,
        "{answers} {resets} {verified}"
    );
}

#[test]
fn a_draft_session_bears_any_verifier() {
    let (mut answers, mut refusals, mut drafts) = (0, 0, 0);
    let (mut worked_ahead, mut came_true) = (0, 0);
    for seed in 0..3_000 {
        let mut noise = Noise(ChaCha8Rng::seed_from_u64(seed));
        let mut session = DraftSession::new(DrafterProfile {
            checkpoint_fingerprint: "aa".to_owned(),
            tokenizer_hash: "bb".to_owned(),
            vocabulary_size: toy::VOCABULARY,
            max_context: 12,
            max_draft_tokens: 6,
            ..DrafterProfile::default()
        });
        for _ in 0..40 {
            let now = noise.time();
            let plan = session.plan();
            let (rows, goal) = (plan.feed.len(), plan.goal);
            if goal.is_some() && !session.is_foretold() {
                assert_eq!(plan.truncate_to + rows, session.tokens().len());
            }
            let ahead = session.ahead().map(|ahead| ahead.feed.len());
            if let Some(feed) = ahead {
                worked_ahead += 1;
                assert_eq!(plan.truncate_to + feed, session.tokens().len());
            }
            came_true += u32::from(session.is_foretold());
            match noise.0.random_range(0..15) {
                12 => _ = session.work_ahead(noise.0.random_bool(0.5).then_some(1)),
                13 => session.foretold(1),
                14 if noise.0.random_bool(0.3) => session.stop_ahead(),
                14 => session.resume(noise.0.random_bool(0.5)),
                0..3 => drop(session.fed(rows, toy::load())),
                3 => drop(session.fed(noise.number() as usize, toy::load())),
                4 if goal.is_some() && session.must_stop(now).is_none() => {
                    session.drafted(DraftedToken {
                        token_id: 1,
                        exit_head: 0,
                        entropy: 0.5,
                    });
                }
                5 => {
                    let reason = DraftStopReason::Entropy;
                    drafts += u32::from(session.finished(reason, now, toy::load()).is_some());
                }
                6 if noise.0.random_bool(0.1) => drop(session.evicted()),
                7 => {
                    let commit = noise.agreeing_commit(&session);
                    let message = Some(verifier_message::Message::Commit(commit));
                    let message = VerifierMessage { message };
                    drop(session.on_message(message, now, toy::load()));
                }
                _ => match session.on_message(noise.verifier_message(), now, toy::load()) {
                    Ok(answer) => answers += u32::from(answer.is_some()),
                    Err(_) => refusals += 1,
                },
            }
        }
    }
    assert!(
        answers > 1_000 && refusals > 1_000 && drafts > 100,
        "{answers} {refusals} {drafts}"
    );
    assert!(
        worked_ahead > 1_000 && came_true > 100,
        "{worked_ahead} {came_true}"
    );
}
