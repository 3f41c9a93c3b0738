//! A drafter that knows the true continuation, and proposes it with errors at a known rate.

use dssd_proto::v1::{
    Commit, DraftStopReason, DraftedToken, DrafterLoad, DrafterMessage, GetDrafterInfoRequest,
    GetDrafterInfoResponse, Open, Proposal, Ready, Resync, VerifierMessage, drafter_message,
    drafting_server::Drafting, verifier_message,
};
use futures::{Stream, stream};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};
use tonic::{Request, Response, Status, Streaming};

/// What each generation is going to be, by its `request_id`. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Truth {
    by_request: Arc<Mutex<HashMap<String, Arc<[u32]>>>>,
}

impl Truth {
    /// Tells the tokens that the generation `request_id` will have, the prompt's left out.
    pub(crate) fn tell(&self, request_id: &str, generated: &[u32]) {
        // No code panics while it holds the lock.
        let mut map = self
            .by_request
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        map.insert(request_id.to_owned(), generated.into());
    }

    fn of(&self, request_id: &str) -> Arc<[u32]> {
        let map = self
            .by_request
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        map.get(request_id).cloned().unwrap_or_default()
    }
}

/// How well an oracle drafts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OracleSettings {
    /// Probability that a proposed token is the true one, 0 to 1.
    pub(crate) acceptance: f64,
    /// Which tokens are wrong depends on this, the generation and the position alone.
    pub(crate) seed: u64,
}

/// The drafter, as a gRPC service.
#[derive(Clone)]
pub(crate) struct Oracle {
    truth: Truth,
    settings: OracleSettings,
}

impl Oracle {
    /// An oracle of `truth`.
    pub(crate) fn new(truth: Truth, settings: OracleSettings) -> Self {
        Self { truth, settings }
    }

    /// What it says of the generation that `open` begins.
    pub(crate) fn prophecy(&self, open: &Open) -> Prophecy {
        let mut name = DefaultHasher::new();
        open.request_id.hash(&mut name);
        let mut noise = ChaCha8Rng::seed_from_u64(self.settings.seed);
        noise.set_stream(name.finish());
        Prophecy {
            truth: self.truth.of(&open.request_id),
            prompt_length: open.prompt_length,
            vocabulary: open.vocabulary_size,
            acceptance: self.settings.acceptance,
            noise,
        }
    }
}

/// One stream.
struct Session {
    oracle: Oracle,
    generation: Option<Generation>,
}

struct Generation {
    prophecy: Prophecy,
    /// Committed tokens, prompt included.
    committed: u32,
}

/// What an oracle says of one generation.
pub(crate) struct Prophecy {
    truth: Arc<[u32]>,
    prompt_length: u32,
    vocabulary: u32,
    acceptance: f64,
    /// The errors; a position has its own place in it.
    noise: ChaCha8Rng,
}

impl Session {
    fn answer(&mut self, message: VerifierMessage) -> Result<Option<DrafterMessage>, Status> {
        let answer = match message.message {
            Some(verifier_message::Message::Open(open)) => Some(self.open(open)),
            Some(verifier_message::Message::Commit(commit)) => {
                let generation = self
                    .generation
                    .as_mut()
                    .ok_or_else(|| Status::failed_precondition("a Commit came before any Open"))?;
                generation.commit(&commit)
            }
            None => return Err(Status::invalid_argument("an empty message")),
        };
        Ok(answer.map(|message| DrafterMessage {
            message: Some(message),
        }))
    }

    fn open(&mut self, open: Open) -> drafter_message::Message {
        let committed = open.token_ids.len() as u32;
        self.generation = Some(Generation {
            prophecy: self.oracle.prophecy(&open),
            committed,
        });
        drafter_message::Message::Ready(Ready {
            held_position: committed.saturating_sub(1),
            load: Some(DrafterLoad::default()),
            ..Ready::default()
        })
    }
}

impl Generation {
    fn commit(&mut self, commit: &Commit) -> Option<drafter_message::Message> {
        if commit.first_position > self.committed {
            return Some(drafter_message::Message::Resync(Resync {
                epoch: commit.epoch,
                held_position: self.committed,
            }));
        }
        self.committed = commit.first_position + commit.token_ids.len() as u32;
        if commit.max_draft_tokens == 0 {
            return None;
        }
        let known = self.prophecy.end();
        let end = known.min(self.committed.saturating_add(commit.max_draft_tokens));
        let tokens = (self.committed..end)
            .map(|position| self.prophecy.propose(position))
            .collect();
        Some(drafter_message::Message::Proposal(Proposal {
            epoch: commit.epoch,
            base_position: self.committed,
            tokens,
            stop_reason: DraftStopReason::MaxDraft.into(),
            draft_us: 0,
            load: Some(DrafterLoad::default()),
        }))
    }
}

impl Prophecy {
    /// The position after the last known one.
    fn end(&self) -> u32 {
        self.prompt_length + self.truth.len() as u32
    }

    /// The token at `position`; beyond the known ones, an arbitrary one.
    pub(crate) fn propose(&mut self, position: u32) -> DraftedToken {
        let index = position.saturating_sub(self.prompt_length) as usize;
        let token = self.truth.get(index).copied().unwrap_or_default();
        // Two draws of 64 bits each, so that every position has four words of its own.
        self.noise.set_word_pos(u128::from(position) * 4);
        let right = self.noise.random_bool(self.acceptance);
        let shift = 1 + self.noise.random::<u64>() % u64::from(self.vocabulary.max(2) - 1);
        let wrong = (u64::from(token) + shift) % u64::from(self.vocabulary.max(1));
        DraftedToken {
            token_id: if right { token } else { wrong as u32 },
            exit_head: 0,
            entropy: 0.0,
        }
    }
}

#[tonic::async_trait]
impl Drafting for Oracle {
    type DraftStream = Pin<Box<dyn Stream<Item = Result<DrafterMessage, Status>> + Send>>;

    async fn draft(
        &self,
        request: Request<Streaming<VerifierMessage>>,
    ) -> Result<Response<Self::DraftStream>, Status> {
        let session = Session {
            oracle: self.clone(),
            generation: None,
        };
        let state = (request.into_inner(), session);
        let answers = stream::try_unfold(state, |(mut inbox, mut session)| async move {
            while let Some(message) = inbox.message().await? {
                if let Some(answer) = session.answer(message)? {
                    return Ok(Some((answer, (inbox, session))));
                }
            }
            Ok(None)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_drafter_info(
        &self,
        _: Request<GetDrafterInfoRequest>,
    ) -> Result<Response<GetDrafterInfoResponse>, Status> {
        Ok(Response::new(GetDrafterInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..GetDrafterInfoResponse::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Generation, Oracle, OracleSettings, Session, Truth};
    use dssd_proto::v1::{Commit, Open, VerifierMessage, drafter_message, verifier_message};

    fn generation(acceptance: f64) -> Generation {
        let truth = Truth::default();
        truth.tell("a", &(0..1000).collect::<Vec<_>>());
        let settings = OracleSettings {
            acceptance,
            seed: 3,
        };
        let mut session = Session {
            oracle: Oracle::new(truth, settings),
            generation: None,
        };
        let open = Open {
            request_id: "a".to_owned(),
            token_ids: vec![1, 2],
            prompt_length: 2,
            vocabulary_size: 1000,
            ..Open::default()
        };
        session
            .answer(VerifierMessage {
                message: Some(verifier_message::Message::Open(open)),
            })
            .unwrap();
        session.generation.unwrap()
    }

    #[test]
    fn errors_have_their_rate_and_depend_on_the_position_alone() {
        let mut generation = generation(0.7);
        let mut right = 0;
        for position in 2..1002 {
            let first = generation.prophecy.propose(position);
            assert!(first.token_id < 1000);
            assert_eq!(first, generation.prophecy.propose(position));
            right += u32::from(first.token_id == position - 2);
        }
        // Mean 700, standard deviation 14.5: five of them.
        assert!((628..=772).contains(&right), "{right}");
    }

    #[test]
    fn a_proposal_follows_the_commit_and_ends_with_the_truth() {
        let mut generation = generation(1.0);
        let mut proposed = |first_position, max_draft_tokens| {
            let commit = Commit {
                epoch: 1,
                first_position,
                token_ids: vec![9],
                max_draft_tokens,
                ..Commit::default()
            };
            generation.committed = first_position;
            match generation.commit(&commit) {
                Some(drafter_message::Message::Proposal(proposal)) => {
                    assert_eq!(proposal.base_position, first_position + 1);
                    proposal.tokens.iter().map(|t| t.token_id).collect()
                }
                other => panic!("{other:?}"),
            }
        };
        let tokens: Vec<u32> = proposed(2, 3);
        assert_eq!(tokens, [1, 2, 3]);
        assert_eq!(proposed(999, 4), [998, 999]);
    }
}
