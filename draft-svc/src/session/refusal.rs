//! What a drafter refuses, and the checks that find it.

use dssd_proto::v1::{Commit, Open};

use super::DrafterProfile;

/// Why a message ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Verifier and drafter do not belong together (FAILED_PRECONDITION).
    #[error("{what} differs: the verifier has `{verifier}`, this drafter `{drafter}`")]
    Mismatch {
        /// Field of the Open.
        what: &'static str,
        /// The verifier's value.
        verifier: String,
        /// This drafter's value.
        drafter: String,
    },
    /// A field that cannot be (INVALID_ARGUMENT).
    #[error("`{field}` {reason}")]
    Invalid {
        /// Path of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A Commit on a stream without an Open (INVALID_ARGUMENT).
    #[error("`commit` came before any `open`")]
    CommitBeforeOpen,
}

impl Refusal {
    pub(super) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            reason: reason.into(),
        }
    }
}

/// Whether `open` is about this drafter's model and can be held.
pub(super) fn check_open(open: &Open, profile: &DrafterProfile) -> Result<(), Refusal> {
    let same = |what, verifier: &dyn ToString, drafter: &dyn ToString| {
        let (verifier, drafter) = (verifier.to_string(), drafter.to_string());
        if verifier == drafter {
            return Ok(());
        }
        Err(Refusal::Mismatch {
            what,
            verifier,
            drafter,
        })
    };
    same(
        "checkpoint_fingerprint",
        &open.checkpoint_fingerprint,
        &profile.checkpoint_fingerprint,
    )?;
    same(
        "tokenizer_hash",
        &open.tokenizer_hash,
        &profile.tokenizer_hash,
    )?;
    same(
        "vocabulary_size",
        &open.vocabulary_size,
        &profile.vocabulary_size,
    )?;
    let length = open.token_ids.len();
    if length == 0 {
        return Err(Refusal::invalid("open.token_ids", "is empty"));
    }
    if length > profile.max_context {
        let reason = format!(
            "has {length} tokens, the context holds {}",
            profile.max_context
        );
        return Err(Refusal::invalid("open.token_ids", reason));
    }
    check_tokens("open.token_ids", &open.token_ids, profile)?;
    if open.prompt_length == 0 || open.prompt_length as usize > length {
        let reason = format!("is {}, must be 1 to {length}", open.prompt_length);
        return Err(Refusal::invalid("open.prompt_length", reason));
    }
    if open.sampling.is_none() {
        return Err(Refusal::invalid("open.sampling", "is missing"));
    }
    Ok(())
}

/// Whether `commit` agrees with itself and with the stream's `open`.
pub(super) fn check_commit(
    commit: &Commit,
    open: &Open,
    profile: &DrafterProfile,
) -> Result<(), Refusal> {
    if commit.epoch == 0 {
        return Err(Refusal::invalid("commit.epoch", "is 0, must be 1 or more"));
    }
    if commit.first_position < open.prompt_length {
        let reason = format!(
            "is {}, inside the prompt of {} tokens",
            commit.first_position, open.prompt_length
        );
        return Err(Refusal::invalid("commit.first_position", reason));
    }
    let end = commit.first_position as usize + commit.token_ids.len();
    if end > profile.max_context {
        let reason = format!("end at {end}, the context holds {}", profile.max_context);
        return Err(Refusal::invalid("commit.token_ids", reason));
    }
    if commit.kv_position as usize + 1 != end {
        let reason = format!(
            "is {}, must be {}",
            commit.kv_position,
            end.saturating_sub(1)
        );
        return Err(Refusal::invalid("commit.kv_position", reason));
    }
    match (commit.accepted, commit.proposal_epoch) {
        (None, None) => {}
        (Some(_), Some(epoch)) if (1..commit.epoch).contains(&epoch) => {}
        _ => {
            let reason = "must name an earlier epoch, if and only if `accepted` is set";
            return Err(Refusal::invalid("commit.proposal_epoch", reason));
        }
    }
    check_tokens("commit.token_ids", &commit.token_ids, profile)
}

fn check_tokens(
    field: &'static str,
    tokens: &[u32],
    profile: &DrafterProfile,
) -> Result<(), Refusal> {
    match tokens
        .iter()
        .find(|&&token| token >= profile.vocabulary_size)
    {
        None => Ok(()),
        Some(token) => {
            let reason = format!(
                "has {token}, the vocabulary has {} ids",
                profile.vocabulary_size
            );
            Err(Refusal::invalid(field, reason))
        }
    }
}
