//! The engine stepped by hand: what it proposes with and without work ahead.

use super::Scheduler;
use crate::{
    Config,
    engine::{Command, Peer, Spans, StreamKey},
    service,
};
use dssd_common::serve::{WorkAhead, open_model};
use dssd_proto::v1::{
    Commit, DrafterMessage, Open, Proposal, SamplingSettings, Speculation, VerifierMessage,
    drafter_message::Message, verifier_message,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc::{Receiver, channel};
use tonic::Status;

const KEY: StreamKey = StreamKey(1);
/// What generations begin with, and where the verifier's own words come from.
const STORY: &str = "Once upon a time there was a little girl who loved to play with her dog. One \
                     day they went to the park and saw a big bird in the tree.";
const PROMPT: usize = 12;
const ROUNDS: usize = 30;
const MAX_NEW_TOKENS: u32 = 400;

/// A drafter with one stream.
struct Drafter {
    scheduler: Scheduler,
    inbox: Receiver<Result<DrafterMessage, Status>>,
    story: Vec<u32>,
}

impl Drafter {
    fn new(work_ahead: WorkAhead, same_host: bool) -> Self {
        let (checkpoint, tokenizer) = open_model(None).unwrap();
        let mut config = Config::for_model("unused".into());
        config.serve.threads = Some(1);
        config.work_ahead = work_ahead;
        let parts = service::load(&config, &checkpoint, tokenizer.as_deref()).unwrap();
        let mut scheduler = Scheduler::new(parts);
        let (outbox, inbox) = channel(16);
        scheduler.open(
            KEY,
            Peer {
                outbox,
                same_host,
                spans: Spans::default(),
            },
        );
        let story = tokenizer.unwrap().encode(STORY).unwrap();
        Self {
            scheduler,
            inbox,
            story,
        }
    }

    fn open(&self, policy: &str, temperature: f32) -> Open {
        let profile = &self.scheduler.parts.profile;
        Open {
            checkpoint_fingerprint: profile.checkpoint_fingerprint.clone(),
            tokenizer_hash: profile.tokenizer_hash.clone(),
            vocabulary_size: profile.vocabulary_size,
            token_ids: self.story[..PROMPT].to_vec(),
            prompt_length: PROMPT as u32,
            sampling: Some(SamplingSettings {
                temperature,
                top_p: 0.95,
                seed: 7,
                repetition_penalty: 1.1,
                max_new_tokens: MAX_NEW_TOKENS,
                ..SamplingSettings::default()
            }),
            speculation: Some(Speculation {
                policy: policy.to_owned(),
                ..Speculation::default()
            }),
            ..Open::default()
        }
    }

    fn take(&mut self, message: verifier_message::Message) {
        let message = Some(message);
        self.scheduler.on_message(0, VerifierMessage { message });
    }

    /// Steps until the proposal of the newest Commit comes, which is `epoch`; the number of steps,
    /// and the proposal. What was foretold may have answered Commits before it at once.
    fn proposal(&mut self, epoch: u64) -> (usize, Proposal) {
        let mut steps = 0;
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                match message.unwrap().message {
                    Some(Message::Proposal(proposal)) if proposal.epoch == epoch => {
                        return (steps, proposal);
                    }
                    _ => {}
                }
            }
            let worked = self.scheduler.step();
            assert!(worked || !self.inbox.is_empty(), "nobody goes on");
            steps += usize::from(worked);
        }
    }

    /// What was foretold at `position`.
    fn foretold(&self, position: usize) -> Option<u32> {
        self.scheduler.sequences[0]
            .session
            .tokens()
            .get(position)
            .copied()
    }
}

/// A verifier whose taste is random: what it commits is right for no model.
struct Verifier {
    random: ChaCha8Rng,
    story: Vec<u32>,
    tokens: Vec<u32>,
    epoch: u64,
    /// Epoch and tokens of the proposal that is verified.
    proposed: Option<(u64, Vec<u32>)>,
}

impl Verifier {
    fn new(drafter: &Drafter) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(5),
            story: drafter.story.clone(),
            tokens: drafter.story[..PROMPT].to_vec(),
            epoch: 0,
            proposed: None,
        }
    }

    /// The Commit of a round in which `accepted` tokens were right and `own` came after them.
    fn commit(&mut self, accepted: usize, own: u32, max_draft_tokens: u32) -> Commit {
        let first = self.tokens.len();
        let (proposal_epoch, drafted) = self.proposed.take().unzip();
        let mut token_ids = drafted.unwrap_or_default();
        token_ids.truncate(accepted);
        token_ids.push(own);
        self.tokens.extend_from_slice(&token_ids);
        self.epoch += 1;
        Commit {
            epoch: self.epoch,
            first_position: first as u32,
            kv_position: self.tokens.len() as u32 - 1,
            token_ids,
            accepted: proposal_epoch.map(|_| accepted as u32),
            proposal_epoch,
            max_draft_tokens,
            ..Commit::default()
        }
    }

    /// The messages after a proposal, of which the last one asks for a draft. `guess` is what the
    /// drafter foretold behind it.
    fn round(&mut self, open: &Open, guess: Option<u32>) -> Vec<verifier_message::Message> {
        let drafted = self.proposed.as_ref().map_or(0, |(_, tokens)| tokens.len());
        let other = self.story[self.random.random_range(0..self.story.len())];
        let longest = self.random.random_range(1..6);
        let mut messages = Vec::new();
        match self.random.random_range(0..10) {
            // All right, and the guess with it.
            0..5 => messages.push(self.commit(drafted, guess.unwrap_or(other), longest)),
            // All right but for the guess.
            5 => messages.push(self.commit(drafted, other, longest)),
            // A plain round behind it, for which nothing is asked.
            6 => {
                messages.push(self.commit(drafted, guess.unwrap_or(other), 0));
                messages.push(self.commit(0, other, longest));
            }
            _ => {
                let accepted = self.random.random_range(0..=drafted);
                messages.push(self.commit(accepted, other, longest));
            }
        }
        let mut messages: Vec<_> = messages
            .into_iter()
            .map(verifier_message::Message::Commit)
            .collect();
        if self.random.random_bool(0.1) {
            // As after a Resync: all tokens at once.
            let open = Open {
                token_ids: self.tokens[..self.tokens.len() - 1].to_vec(),
                last_epoch: self.epoch,
                ..open.clone()
            };
            self.tokens.pop();
            messages.push(verifier_message::Message::Open(open));
            messages.push(verifier_message::Message::Commit(
                self.commit(0, other, longest),
            ));
        }
        messages
    }
}

impl Drafter {
    /// A drafter that has sent the first proposal, of up to `longest` tokens, and works ahead.
    fn working(policy: &str, longest: u32) -> (Self, Verifier) {
        let mut drafter = Self::new(WorkAhead::On, true);
        let open = drafter.open(policy, 0.0);
        drafter.take(verifier_message::Message::Open(open));
        let mut verifier = Verifier::new(&drafter);
        let own = drafter.story[PROMPT];
        let commit = verifier.commit(0, own, longest);
        drafter.take(verifier_message::Message::Commit(commit));
        let (_, proposal) = drafter.proposal(verifier.epoch);
        let tokens = proposal.tokens.iter().map(|token| token.token_id);
        verifier.proposed = Some((proposal.epoch, tokens.collect()));
        (drafter, verifier)
    }

    /// Tells that all was as foretold, and asks for up to `longest` tokens.
    fn agree(&mut self, verifier: &mut Verifier, longest: u32) {
        let (_, tokens) = verifier.proposed.as_ref().unwrap();
        let drafted = tokens.len();
        let guess = self.foretold(verifier.tokens.len() + drafted).unwrap();
        let commit = verifier.commit(drafted, guess, longest);
        self.take(verifier_message::Message::Commit(commit));
    }
}

/// Sums over rounds.
#[derive(Debug, Default)]
struct Seen {
    ahead: u32,
    discarded: u32,
    /// Proposals of some tokens that came without a step.
    at_once: u32,
}

/// Plays random rounds with a drafter that works ahead, for a random time in each, and the same
/// messages with one that does not; their proposals must be the same.
fn compare(policy: &str, temperature: f32, seen: &mut Seen) {
    let mut ahead = Drafter::new(WorkAhead::On, true);
    let mut plain = Drafter::new(WorkAhead::Off, false);
    let open = ahead.open(policy, temperature);
    for drafter in [&mut ahead, &mut plain] {
        drafter.take(verifier_message::Message::Open(open.clone()));
    }
    let mut verifier = Verifier::new(&ahead);
    let mut messages = verifier.round(&open, None);
    for round in 0..ROUNDS {
        for message in messages {
            ahead.take(message.clone());
            plain.take(message);
        }
        let (steps, drafted) = ahead.proposal(verifier.epoch);
        let (_, expected) = plain.proposal(verifier.epoch);
        let what = |proposal: &Proposal| {
            (
                (proposal.epoch, proposal.base_position, proposal.stop_reason),
                proposal.tokens.clone(),
            )
        };
        assert_eq!(what(&drafted), what(&expected), "{policy}, round {round}");
        assert_eq!(
            (expected.ahead_tokens, expected.discarded_ahead_tokens),
            (0, 0)
        );
        seen.ahead += drafted.ahead_tokens;
        seen.discarded += drafted.discarded_ahead_tokens;
        seen.at_once += u32::from(steps == 0 && !drafted.tokens.is_empty());
        // From nothing at all to everything that there is to do.
        let most = verifier.random.random_range(0..80);
        for _ in 0..most {
            ahead.scheduler.step();
        }
        while plain.scheduler.step() {}
        let guess = ahead.foretold(verifier.tokens.len() + drafted.tokens.len());
        let tokens = drafted.tokens.iter().map(|token| token.token_id);
        verifier.proposed = Some((drafted.epoch, tokens.collect()));
        messages = verifier.round(&open, guess);
    }
}

#[test]
fn proposals_are_the_same_with_and_without_work_ahead() {
    // `auto` and `del` ask what steps cost, which no two runs agree upon.
    let policies = [
        "fixed:0:4",
        "fixed:2:3",
        "entropy:3",
        "entropy@0.8",
        "max-prob:0:0.4:keep",
        "adaedl:0",
        "product:1:0.3",
    ];
    for policy in policies {
        let mut seen = Seen::default();
        for temperature in [0.0, 0.8] {
            compare(policy, temperature, &mut seen);
        }
        assert!(
            seen.ahead >= 5 && seen.discarded >= 2 && seen.at_once >= 2,
            "{policy}: {seen:?}"
        );
    }
}

#[test]
fn work_ahead_ends_where_the_generation_does() {
    let mut drafter = Drafter::new(WorkAhead::On, true);
    let mut open = drafter.open("fixed:0:4", 0.0);
    open.sampling.get_or_insert_default().max_new_tokens = 8;
    let mut verifier = Verifier::new(&drafter);
    drafter.take(verifier_message::Message::Open(open));
    let own = drafter.story[PROMPT];
    let commit = verifier.commit(0, own, 4);
    drafter.take(verifier_message::Message::Commit(commit));
    let (_, proposal) = drafter.proposal(verifier.epoch);
    while drafter.scheduler.step() {}
    assert_eq!(proposal.tokens.len(), 4);
    // 1 committed, 4 drafted, 1 guessed: of the 2 that remain one is the verifier's own.
    let tokens = drafter.scheduler.sequences[0].session.tokens().len();
    assert_eq!(tokens, PROMPT + 7);
}

#[test]
fn a_verifier_on_this_machine_gets_work_ahead_only_if_it_is_forced() {
    for (work_ahead, same_host, works) in [
        (WorkAhead::Off, false, false),
        (WorkAhead::On, true, true),
        (WorkAhead::Auto, true, false),
        (WorkAhead::Auto, false, true),
    ] {
        let mut drafter = Drafter::new(work_ahead, same_host);
        let open = drafter.open("fixed:0:2", 0.0);
        drafter.take(verifier_message::Message::Open(open));
        let mut verifier = Verifier::new(&drafter);
        let own = drafter.story[PROMPT];
        let commit = verifier.commit(0, own, 4);
        drafter.take(verifier_message::Message::Commit(commit));
        drafter.proposal(verifier.epoch);
        let session = &drafter.scheduler.sequences[0].session;
        assert_eq!(session.ahead().is_some(), works, "{work_ahead} {same_host}");
    }
}

#[test]
fn an_outdated_message_leaves_a_draft_as_it_is() {
    let mut drafter = Drafter::new(WorkAhead::Off, false);
    let open = drafter.open("fixed:3:2", 0.0);
    drafter.take(verifier_message::Message::Open(open.clone()));
    let mut verifier = Verifier::new(&drafter);
    let own = drafter.story[PROMPT];
    let commit = verifier.commit(0, own, 2);
    drafter.take(verifier_message::Message::Commit(commit.clone()));
    while drafter.scheduler.sequences[0].depth < 2 {
        assert!(drafter.scheduler.step());
    }
    drafter.take(verifier_message::Message::Commit(commit));
    drafter.take(verifier_message::Message::Open(open));
    let (_, proposal) = drafter.proposal(verifier.epoch);
    assert_eq!((proposal.epoch, proposal.tokens.len()), (1, 2));
}

#[test]
fn a_row_that_has_run_half_way_goes_on_there() {
    let (mut drafter, mut verifier) = Drafter::working("fixed:2:1", 1);
    // Three bands up to the exit give the guess, and two of three have run for the token behind it.
    for _ in 0..5 {
        assert!(drafter.scheduler.step());
    }
    drafter.agree(&mut verifier, 1);
    let (steps, proposal) = drafter.proposal(verifier.epoch);
    assert_eq!((steps, proposal.tokens.len()), (1, 1));
}

#[test]
fn only_what_a_draft_uses_counts_as_saved() {
    let (mut drafter, mut verifier) = Drafter::working("fixed:0:4", 4);
    while drafter.scheduler.step() {}
    let costs = &mut drafter.scheduler.parts.experience.costs;
    costs.bands.fill(Some(1.0));
    costs.exits.fill(Some(0.5));
    drafter.agree(&mut verifier, 1);
    // The one guess was right, and nobody waited.
    assert_eq!(drafter.scheduler.parts.experience.ahead.gain(), 1.5);
}

#[test]
fn what_others_waited_counts_against_a_stream_that_has_closed() {
    let (mut drafter, _) = Drafter::working("fixed:0:4", 4);
    drafter.scheduler.parts.experience.ahead.delayed(1.0);
    drafter.scheduler.handle(Command::Close(KEY));
    assert_eq!(drafter.scheduler.parts.experience.ahead.gain(), -1.0);
}
