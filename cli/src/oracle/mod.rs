//! A drafter that knows the true continuation, and proposes it with errors at a known rate.

mod prophecy;

use dssd_proto::v1::{
    Commit, DraftStopReason, DrafterLoad, DrafterMessage, GetDrafterInfoRequest,
    GetDrafterInfoResponse, Open, Proposal, Ready, Resync, VerifierMessage, drafter_message,
    drafting_server::Drafting, verifier_message,
};
use futures::{Stream, stream};
pub(crate) use prophecy::{OracleSettings, Prophecy, Truth};
use std::pin::Pin;
use tonic::{Request, Response, Status, Streaming};

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
        Prophecy::new(&self.truth, self.settings, open)
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
            ..Proposal::default()
        }))
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

    fn generation() -> Generation {
        let truth = Truth::default();
        truth.tell("a", &(0..1000).collect::<Vec<_>>());
        let settings = OracleSettings {
            acceptance: 1.0,
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
    fn a_proposal_follows_the_commit_and_ends_with_the_truth() {
        let mut generation = generation();
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
