//! How much of a draft is kept.

/// What one verification commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// Drafted tokens that were right.
    pub accepted: usize,
    /// The new tokens: the accepted ones and one of the full model.
    pub committed: &'a [u32],
}

/// The longest prefix of `draft` that the full model would have chosen too, plus the token that it chooses next.
///
/// `chosen[i]` is the full model's choice after the first i drafted tokens, so `chosen` has one token more than `draft`.
/// Choices after the first wrong one followed tokens that never came, and are dropped.
#[must_use]
pub fn accept<'a>(draft: &[u32], chosen: &'a [u32]) -> Accepted<'a> {
    debug_assert_eq!(
        chosen.len(),
        draft.len() + 1,
        "one choice per drafted token and one more"
    );
    let accepted = draft
        .iter()
        .zip(chosen)
        .take_while(|(drafted, right)| drafted == right)
        .count();
    Accepted {
        accepted,
        committed: chosen.get(..=accepted).unwrap_or(chosen),
    }
}

#[cfg(test)]
mod tests {
    use super::{Accepted, accept};

    #[test]
    fn all_right_gives_one_more() {
        assert_eq!(
            accept(&[4, 5, 6], &[4, 5, 6, 7]),
            Accepted {
                accepted: 3,
                committed: &[4, 5, 6, 7]
            }
        );
    }

    #[test]
    fn the_first_wrong_token_is_corrected_and_ends_the_draft() {
        assert_eq!(
            accept(&[4, 5, 6], &[4, 9, 6, 7]),
            Accepted {
                accepted: 1,
                committed: &[4, 9]
            }
        );
        assert_eq!(
            accept(&[4, 5], &[9, 5, 6]),
            Accepted {
                accepted: 0,
                committed: &[9]
            }
        );
    }

    #[test]
    fn an_empty_draft_is_plain_decoding() {
        assert_eq!(
            accept(&[], &[3]),
            Accepted {
                accepted: 0,
                committed: &[3]
            }
        );
    }
}
