//! What rounds should bring that were not tried: the model behind `auto`.
//!
//! A round that drafts d tokens at head h, each of which is accepted with probability α, brings
//! 1 + α + … + α^d tokens (Leviathan et al., arXiv 2211.17192, equation 1). With the running costs
//! it takes d·t_h + V(d) + o seconds: t_h for a token at the head, V(d) for a step of the whole
//! model with d more rows, and o for whatever rounds took beyond their steps – the way there and
//! back, waiting for a processor. o is one number for all heads, so that the rounds of one tell of
//! the others. The forecast of a head is that of its best d.
//!
//! α is the mean of what the calibration promised at the entropies that were read, times the level
//! of its promises that was seen, where a head with few tokens takes the level of all heads. A
//! head that was never read is taken at the entropies of the one that was: deeper heads are surer,
//! so this is cautious. Without a calibration nothing is known of a head that was not tried. It gets
//! the benefit of the doubt: wrong tokens are as many fewer as layers remain behind it.

use super::{Costs, HeadAgreement, experience::running};

/// Tokens that promises count for in the level of a head, and of all heads.
const LEVEL_WEIGHT: f64 = 8.0;
/// The same for a guess without a calibration.
const GUESS_WEIGHT: f64 = 3.0;
/// Acceptance at the first head before the first experience.
const HOPE: f64 = 0.7;
/// Least weight of the newest reading, and of the newest round's overhead.
const NEWEST: f64 = 0.05;
/// Times its forecast from which on a round counts as an accident, unless the one before did.
const ACCIDENT: f64 = 2.0;

/// What a round brings, or should.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    pub(super) tokens: f64,
    pub(super) seconds: f64,
}

/// A running mean whose first values count alike.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean {
    pub(super) value: f64,
    count: u32,
}

/// What is known of rounds beyond the costs of their steps. One for all sequences.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Promised acceptance at each head where positions began there.
    read: Vec<Mean>,
    /// The same at entropies of other heads.
    foreign: Vec<Mean>,
    /// Seconds that rounds took beyond their steps.
    overhead: Mean,
    /// Seconds that the first round of a series took beyond that.
    catch_up: Option<f64>,
    is_calibrated: bool,
    /// Whether the last round was far from its forecast.
    surprised: bool,
}

impl Mean {
    pub(super) fn add(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        self.value += (value - self.value) * NEWEST.max(1.0 / f64::from(self.count));
    }

    fn known(self) -> Option<f64> {
        (self.count > 0).then_some(self.value)
    }
}

impl Forecast {
    pub(super) fn new(heads: usize, is_calibrated: bool) -> Self {
        Self {
            read: vec![Mean::default(); heads],
            foreign: vec![Mean::default(); heads],
            overhead: Mean::default(),
            catch_up: None,
            is_calibrated,
            surprised: false,
        }
    }

    /// Takes note of an entropy that was read where positions begin at head `entry`: `promised`
    /// acceptance at it, of each head.
    pub(super) fn read(&mut self, entry: usize, promised: &[f64]) {
        for (head, &promised) in promised.iter().enumerate() {
            let means = if head == entry {
                &mut self.read
            } else {
                &mut self.foreign
            };
            if let Some(mean) = means.get_mut(head) {
                mean.add(promised);
            }
        }
    }

    /// Takes note of a round that took `seconds`, where its steps take `steps`. Returns the seconds
    /// that it counts for: an accident, which says nothing of the next round, is cut short.
    pub(super) fn took(&mut self, seconds: f64, steps: f64) -> f64 {
        let expected = steps + self.overhead.value;
        let far = self.overhead.count > 0 && seconds > ACCIDENT * expected;
        let accident = far && !self.surprised;
        self.surprised = far;
        let counted = if accident { expected } else { seconds };
        if !accident {
            self.overhead.add(seconds - steps);
        }
        counted
    }

    /// Takes note of the first round of a series, which had to catch up.
    pub(super) fn caught_up(&mut self, seconds: f64, steps: f64) {
        let beyond = (seconds - steps - self.overhead.value).max(0.0);
        self.catch_up = Some(running(self.catch_up, beyond));
    }

    /// Seconds that it takes to begin to draft.
    pub(super) fn catch_up(&self) -> f64 {
        self.catch_up.unwrap_or(0.0)
    }

    /// How often each head is right, as a share of what was promised, or guessed.
    pub(super) fn levels(&self, agreements: &[HeadAgreement]) -> Vec<f64> {
        if !self.is_calibrated {
            let right = self.acceptance(agreements).into_iter().zip(agreements);
            let level = right.map(|(right, agreement)| {
                let (weight, promised) = (agreement.counts().1, agreement.sums().1);
                if promised > 0.0 {
                    right * weight / promised
                } else {
                    1.0
                }
            });
            return level.collect();
        }
        let sums = agreements.iter().map(HeadAgreement::sums);
        let (right, promised) = sums.fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        let common = (right + LEVEL_WEIGHT) / (promised + LEVEL_WEIGHT);
        let of_head = |agreement: &HeadAgreement| {
            let (accepted, promised) = agreement.sums();
            (accepted + LEVEL_WEIGHT * common) / (promised + LEVEL_WEIGHT)
        };
        agreements.iter().map(of_head).collect()
    }

    /// Mean acceptance at each head, as far as it can be told.
    pub(super) fn acceptance(&self, agreements: &[HeadAgreement]) -> Vec<f64> {
        if self.is_calibrated {
            let heads = self.read.iter().zip(&self.foreign);
            let promised = heads.map(|(read, foreign)| read.known().or(foreign.known()));
            let levels = self.levels(agreements);
            let each = promised.zip(levels).map(|(promised, level)| {
                let promised = promised.unwrap_or(HOPE);
                (promised * level).min(0.999)
            });
            return each.collect();
        }
        let guess = |head: usize, agreement: &HeadAgreement, shallower: f64| {
            let hope = if head == 0 { HOPE } else { shallower };
            let (accepted, weight) = agreement.counts();
            (accepted + GUESS_WEIGHT * hope) / (weight + GUESS_WEIGHT)
        };
        let mut each: Vec<f64> = Vec::with_capacity(agreements.len());
        let remaining = |head: usize| (agreements.len() - head) as f64;
        for (head, agreement) in agreements.iter().enumerate() {
            let before = each.last().copied().unwrap_or(HOPE);
            let wrong = (1.0 - before) * remaining(head) / (remaining(head) + 1.0);
            each.push(guess(head, agreement, 1.0 - wrong));
        }
        each
    }

    /// Rounds from a head whose tokens are accepted with probability `alpha`, of at most `longest`
    /// tokens; none before any cost was measured.
    pub(super) fn round(
        &self,
        head: usize,
        alpha: f64,
        longest: usize,
        costs: &Costs,
    ) -> Option<Round> {
        let (token, plain) = (costs.direct(head)?, costs.plain()?);
        let row = plain * costs.another_row();
        let mut tokens = 1.0;
        let mut right = 1.0;
        let rounds = (1..=longest).map(|length| {
            right *= alpha;
            tokens += right;
            let verify = plain + length as f64 * row;
            let seconds = length as f64 * token + verify + self.overhead.value;
            Round {
                tokens,
                seconds: seconds.max(verify),
            }
        });
        rounds.max_by(|a, b| a.rate().total_cmp(&b.rate()))
    }
}

impl Round {
    /// Tokens per second.
    pub(super) fn rate(self) -> f64 {
        self.tokens / self.seconds
    }
}
