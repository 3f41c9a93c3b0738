//! How much of a draft is kept.

/// What one verification commits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Drafted tokens that were right.
    pub accepted: usize,
    /// The new tokens: the accepted ones, and one of the full model unless the sequence ended before it.
    pub committed: Vec<u32>,
}

/// The longest prefix of `draft` that the full model chooses too, plus the token that it chooses next.
///
/// `choose(i)` is the full model's choice after the first i drafted tokens; `None` once the sequence has ended. It is
/// called for i = 0, 1, … and never after a wrong drafted token: what follows one would be a choice after tokens that
/// never came.
///
/// # Errors
/// The first error of `choose`.
pub fn accept<E>(
    draft: &[u32],
    mut choose: impl FnMut(usize) -> Result<Option<u32>, E>,
) -> Result<Accepted, E> {
    let mut outcome = Accepted::default();
    for i in 0..=draft.len() {
        let Some(token) = choose(i)? else { break };
        outcome.committed.push(token);
        if draft.get(i) != Some(&token) {
            break;
        }
        outcome.accepted += 1;
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::{Accepted, accept};
    use crate::sampling::{History, Sampler, SamplingParams, Scratch};

    fn accept_all(draft: &[u32], chosen: &[u32]) -> Accepted {
        let choose = |i: usize| Ok::<_, std::convert::Infallible>(chosen.get(i).copied());
        accept(draft, choose).unwrap()
    }

    fn accepted(accepted: usize, committed: &[u32]) -> Accepted {
        Accepted {
            accepted,
            committed: committed.to_vec(),
        }
    }

    #[test]
    fn all_right_gives_one_more() {
        assert_eq!(
            accept_all(&[4, 5, 6], &[4, 5, 6, 7]),
            accepted(3, &[4, 5, 6, 7])
        );
    }

    #[test]
    fn the_first_wrong_token_is_corrected_and_ends_the_draft() {
        assert_eq!(accept_all(&[4, 5, 6], &[4, 9, 6, 7]), accepted(1, &[4, 9]));
        assert_eq!(accept_all(&[4, 5], &[9, 5, 6]), accepted(0, &[9]));
    }

    #[test]
    fn an_empty_draft_is_plain_decoding() {
        assert_eq!(accept_all(&[], &[3]), accepted(0, &[3]));
    }

    #[test]
    fn a_sequence_that_ends_inside_a_draft_commits_nothing_after_its_end() {
        assert_eq!(accept_all(&[4, 5, 6], &[4, 5]), accepted(2, &[4, 5]));
    }

    #[test]
    fn nothing_is_chosen_after_a_wrong_token() {
        let mut calls = 0;
        let choose = |_| {
            calls += 1;
            Ok::<_, std::convert::Infallible>(Some(9))
        };
        accept(&[9, 5, 9, 9], choose).unwrap();
        assert_eq!(calls, 2);
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
            let outcome = accept(&draft, |_| {
                let row = logits(history.tokens(), 0.0);
                let token = sampler.choose(&row, &history, &mut scratch)?;
                history.push(token);
                Ok::<_, crate::Error>(Some(token))
            });
            total += outcome.unwrap().accepted;
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
