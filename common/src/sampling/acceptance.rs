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
    use crate::sampling::{History, Sampler, SamplingParams, Scratch};

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

    const VOCABULARY: u32 = 24;
    const PROMPT: [u32; 3] = [3, 1, 4];

    /// A model that sees the last two tokens; `error` moves it away from the full one.
    fn logits(tokens: &[u32], error: f32) -> Vec<f32> {
        let context = tokens
            .iter()
            .rev()
            .take(2)
            .fold(7, |context, token| context * 31 + token);
        let level = |id: u32| {
            (context
                .wrapping_mul(2_654_435_761)
                .wrapping_add(id * 40_503)
                >> 7)
                % 97
        };
        (0..VOCABULARY)
            .map(|id| level(id) as f32 * 0.04 + error * (id % 5) as f32)
            .collect()
    }

    /// Rounds of `draft_len` drafted tokens; what they commit, and how many drafted tokens were accepted.
    fn speculate(sampler: &Sampler, draft_len: usize, tokens: usize) -> (Vec<u32>, usize) {
        let (mut history, mut scratch, mut total) =
            (History::new(&PROMPT, &[]), Scratch::default(), 0);
        while history.generated().len() < tokens {
            let base = history.len();
            for _ in 0..draft_len {
                let guess = sampler
                    .choose(&logits(history.tokens(), 0.15), &history, &mut scratch)
                    .unwrap();
                history.push(guess);
            }
            let draft = history.tokens()[base..].to_vec();
            history.truncate(base);
            let mut chosen = Vec::new();
            for row in 0..=draft_len {
                chosen.push(
                    sampler
                        .choose(&logits(history.tokens(), 0.0), &history, &mut scratch)
                        .unwrap(),
                );
                draft
                    .get(row)
                    .into_iter()
                    .for_each(|&drafted| history.push(drafted));
            }
            history.truncate(base);
            let Accepted {
                accepted,
                committed,
            } = accept(&draft, &chosen);
            committed.iter().for_each(|&id| history.push(id));
            total += accepted;
        }
        (history.generated()[..tokens].to_vec(), total)
    }

    /// The theorem of this project in small: drafts of any length commit what plain decoding would have.
    #[test]
    fn speculation_commits_what_plain_decoding_would() {
        const TOKENS: usize = 300;
        let greedy = SamplingParams {
            min_new_tokens: 40,
            ..SamplingParams::default()
        };
        let penalized = SamplingParams {
            repetition_penalty: 1.1,
            frequency_penalty: 0.05,
            presence_penalty: 0.3,
            ..greedy.clone()
        };
        let noisy = SamplingParams {
            temperature: 0.8,
            seed: 5,
            ..greedy.clone()
        };
        let all = SamplingParams {
            temperature: 1.1,
            top_k: 12,
            top_p: 0.95,
            seed: 6,
            ..penalized.clone()
        };
        for params in [greedy, penalized, noisy, all] {
            let sampler = Sampler::new(params, VOCABULARY as usize, vec![0, 1]).unwrap();
            let (plain, _) = speculate(&sampler, 0, TOKENS);
            for draft_len in [1, 2, 3, 7] {
                let (tokens, accepted) = speculate(&sampler, draft_len, TOKENS);
                assert_eq!(tokens, plain, "drafts of {draft_len}");
                assert!(
                    accepted > TOKENS / 5,
                    "drafts of {draft_len}: only {accepted} tokens accepted"
                );
            }
        }
    }
}
