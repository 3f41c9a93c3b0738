//! The rungs, with drafts and without in turn.

use super::{
    LadderArgs, Load,
    call::Answer,
    closed::{self, Measured, Turn},
    measures::{Belongs, Measures, Totals},
    report::{Ratio, Repeats, Rung, Saturation, Verified},
};
use crate::bench::stages::Stages;
use anyhow::{Result, bail};
use dssd_common::policy::PolicySpec;
use std::{collections::HashMap, sync::Arc};

/// Numbers of requests that a measurement may use.
const REQUESTS: u64 = 1 << 24;

/// Which rungs, and how often.
pub(super) struct Ladder {
    streams: Vec<usize>,
    repeats: u16,
    verifies: bool,
}

/// What the ladder told.
#[derive(Default)]
pub(super) struct Climbed {
    pub(super) rungs: Vec<Rung>,
    pub(super) ratios: Vec<Ratio>,
    pub(super) saturation: Option<Saturation>,
    pub(super) verified: Verified,
    pub(super) wrong: u64,
    pub(super) totals: Totals,
}

/// One rung with all its repeats.
struct Pair {
    on: Repeats,
    off: Repeats,
}

impl Ladder {
    pub(super) fn new(args: &LadderArgs) -> Self {
        let mut streams: Vec<usize> = args.streams.iter().map(|&n| n as usize).collect();
        streams.sort_unstable();
        streams.dedup();
        Self {
            streams,
            repeats: args.repeats,
            verifies: args.verify,
        }
    }

    /// Stages of the climb.
    pub(super) fn turns(&self) -> usize {
        1 + 2 * self.streams.len() * usize::from(self.repeats)
    }

    /// Measures every rung in every repeat: what drifts meanwhile meets all of them.
    ///
    /// # Errors
    /// If the calls of a measurement fail, or those of a rung are all refused.
    pub(super) async fn climb(&self, load: &Arc<Load>, stages: &Stages) -> Result<Climbed> {
        let none = || Measures::new(Belongs::ByEnd, load.settings.objectives);
        let mut pairs = Vec::with_capacity(self.streams.len());
        for &streams in &self.streams {
            pairs.push(Pair {
                on: Repeats::new(streams, load.settings.policy, none()?),
                off: Repeats::new(streams, PolicySpec::Off, none()?),
            });
        }
        let mut climbed = Climbed::default();
        stages.begin("warming up");
        self.warm_up(load, &mut climbed).await?;
        for repeat in 0..self.repeats {
            for (rung, pair) in pairs.iter_mut().enumerate() {
                let number = usize::from(repeat) * self.streams.len() + rung + 1;
                let first = number as u64 * REQUESTS;
                // Whoever runs second must not always be the same.
                let on_first = (usize::from(repeat) + rung) % 2 == 0;
                let verified = pair
                    .run(load, first, on_first, self.verifies, stages)
                    .await?;
                climbed.verified.add(verified);
            }
        }
        for pair in &pairs {
            climbed.add(pair)?;
        }
        let drafted = climbed
            .rungs
            .iter()
            .filter(|rung| rung.speculation != "off");
        let mean = load.workload.mean_output_tokens();
        climbed.saturation = Saturation::of(drafted, mean);
        Ok(climbed)
    }

    /// The first calls pay for connecting, and for pages that nobody has touched yet.
    async fn warm_up(&self, load: &Arc<Load>, climbed: &mut Climbed) -> Result<()> {
        let streams = self.streams.iter().max().copied().unwrap_or(1);
        for policy in [load.settings.policy, PolicySpec::Off] {
            let turn = Turn {
                streams,
                policy,
                first: 0,
                keeps: false,
            };
            let Measured { measures, .. } = take(load, turn).await?;
            climbed.totals.merge(&measures.totals);
            climbed.wrong += measures.wrong;
        }
        Ok(())
    }
}

impl Pair {
    /// One repeat.
    async fn run(
        &mut self,
        load: &Arc<Load>,
        first: u64,
        on_first: bool,
        keeps: bool,
        stages: &Stages,
    ) -> Result<Verified> {
        let order = match on_first {
            true => [&mut self.on, &mut self.off],
            false => [&mut self.off, &mut self.on],
        };
        let mut answers = Vec::with_capacity(2);
        for repeats in order {
            let (streams, policy) = (repeats.streams, repeats.policy);
            stages.begin(format!("{streams} streams, {policy}"));
            let turn = Turn {
                streams,
                policy,
                first,
                keeps,
            };
            let measured = take(load, turn).await?;
            repeats.add(&measured)?;
            answers.push(measured.answers);
        }
        Ok(Verified::of(&answers))
    }
}

/// One measurement.
///
/// # Errors
/// If there were errors alone: what made them would spoil all that follows, too.
async fn take(load: &Arc<Load>, turn: Turn) -> Result<Measured> {
    let measured = closed::measure(load, turn).await?;
    let Measures {
        totals,
        first_error,
        ..
    } = &measured.measures;
    if totals.finished == 0
        && let Some(why) = first_error
    {
        bail!(
            "{} streams, {}: no call finished: {why}",
            turn.streams,
            turn.policy
        );
    }
    Ok(measured)
}

impl Verified {
    /// Compares answers of requests that both sides have.
    fn of(sides: &[HashMap<u64, Answer>]) -> Self {
        let [one, other] = sides else {
            return Self::default();
        };
        let both = one
            .iter()
            .filter_map(|(number, a)| Some((a, other.get(number)?)));
        both.fold(Self::default(), |sum, (a, b)| Self {
            compared: sum.compared + 1,
            differing: sum.differing + u64::from(a != b),
        })
    }

    fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.differing += other.differing;
    }
}

impl Climbed {
    fn add(&mut self, pair: &Pair) -> Result<()> {
        for side in [&pair.on, &pair.off] {
            let measures = &side.measures;
            if measures.totals.finished == 0 {
                bail!(
                    "{} streams, {}: all calls were refused",
                    side.streams,
                    side.policy
                );
            }
            self.totals.merge(&measures.totals);
            self.wrong += measures.wrong;
            self.rungs.push(side.rung());
        }
        self.ratios
            .extend(Ratio::new(pair.on.streams, &pair.on.rates, &pair.off.rates));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Verified};
    use std::collections::HashMap;

    #[test]
    fn equal_requests_are_compared_and_others_left_alone() {
        let answer = |token| Answer {
            token_ids: vec![1, token],
            text: String::new(),
        };
        let side = |all: &[(u64, u32)]| -> HashMap<u64, Answer> {
            all.iter()
                .map(|&(number, token)| (number, answer(token)))
                .collect()
        };
        let verified = Verified::of(&[
            side(&[(1, 5), (2, 6), (3, 7)]),
            side(&[(2, 6), (3, 8), (4, 5)]),
        ]);
        assert_eq!((verified.compared, verified.differing), (2, 1));
    }
}
