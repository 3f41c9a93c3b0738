//! What drafts taught: how often each head is right at an entropy, and what everything costs.

use super::{
    AheadRecord, HeadAgreement, Outcome,
    forecast::{Forecast, Round},
    rates::Rates,
};
use crate::exit::{AcceptanceTable, Calibration};

/// Width of an entropy bin, nats.
const BIN_NATS: f32 = 0.5;
/// The last bin holds everything from 7.5 nats on.
const BINS: usize = 16;
/// Tokens that the calibration counts for in each bin.
const PRIOR_WEIGHT: f64 = 24.0;
/// The same for the guess without one.
const GUESS_WEIGHT: f64 = 4.0;
/// Weight of what was, token by token: in a bin those of that bin.
pub(super) const MEMORY: f64 = 0.99;
/// Least promised acceptance.
const LEAST: f64 = 0.01;
/// Weight of the newest in running costs.
const NEWEST: f64 = 0.1;
/// How far from a running cost the newest counts, as a share of it.
const FAR: f64 = 0.3;

/// Acceptance as drafts of all sequences saw it, and running costs.
#[derive(Clone, Debug)]
pub struct Experience {
    calibration: Option<Calibration>,
    heads: Vec<Head>,
    /// What steps cost.
    pub costs: Costs,
    /// What rounds brought, by how they were drafted.
    pub rates: Rates,
    /// What rounds should bring.
    pub forecast: Forecast,
    /// What working ahead brought.
    pub ahead: AheadRecord,
}

/// One head, by entropy.
#[derive(Clone, Debug, Default)]
struct Head {
    bins: [Bin; BINS],
    /// All entropies together. Sums of the bins would not do: a rare bin fades too seldom.
    agreement: HeadAgreement,
    adrift: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    accepted: f64,
    promised: f64,
}

/// Running means in seconds. What was never measured is none.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// A row through each band.
    pub bands: Vec<Option<f64>>,
    /// Reading each exit: its head, and the summary of the logits.
    pub exits: Vec<Option<f64>>,
    /// A step of the whole model with 0, 1, 2 … more rows.
    pub verify: Vec<f64>,
}

impl Experience {
    /// Nothing seen yet, of so many heads.
    pub fn new(heads: usize, calibration: Option<Calibration>) -> Self {
        let head = Head {
            agreement: HeadAgreement::new(calibration.is_some()),
            ..Head::default()
        };
        Self {
            rates: Rates::new(heads),
            forecast: Forecast::new(heads, calibration.is_some()),
            calibration,
            heads: vec![head; heads],
            ahead: AheadRecord::default(),
            costs: Costs {
                bands: vec![None; heads],
                exits: vec![None; heads],
                ..Costs::default()
            },
        }
    }

    /// What the heads' entropies promise, where that is known.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_ref()
    }

    /// Probability that a token which `head` chose at an entropy (nats) is accepted: what was
    /// promised, corrected by what was seen near that entropy.
    pub fn acceptance(&self, head: usize, entropy: f32, temperature: f64) -> f64 {
        self.acceptance_at_level(head, entropy, temperature, 1.0)
    }

    /// The same where a head is known to be right `level` times as often as was promised: that
    /// counts wherever little was seen near that entropy.
    pub(super) fn acceptance_at_level(
        &self,
        head: usize,
        entropy: f32,
        temperature: f64,
        level: f64,
    ) -> f64 {
        let promised = self.promised(head, entropy, temperature);
        let Some(bin) = self.heads.get(head).map(|head| head.bins[bin_of(entropy)]) else {
            return promised;
        };
        let prior = match self.calibration {
            Some(_) => PRIOR_WEIGHT * promised,
            None => GUESS_WEIGHT * promised,
        };
        // The curve inside a bin stays; its level moves.
        let level = (bin.accepted + prior * level) / (bin.promised + prior).max(f64::MIN_POSITIVE);
        (promised * level).clamp(0.0, 0.999)
    }

    /// Takes note of a verified draft.
    pub fn learn(&mut self, outcome: Outcome<'_>, temperature: f64) {
        let judged = outcome.drafted.iter().take(outcome.accepted + 1);
        for (index, drafted) in judged.enumerate() {
            let promised = self.promised(drafted.head, drafted.entropy, temperature);
            let Some(head) = self.heads.get_mut(drafted.head) else {
                continue;
            };
            let right = f64::from(u8::from(index < outcome.accepted));
            head.agreement.judge(right, promised);
            let bin = &mut head.bins[bin_of(drafted.entropy)];
            bin.accepted = MEMORY * bin.accepted + right;
            bin.promised = MEMORY * bin.promised + promised;
        }
    }

    /// How the drafted tokens of each head fared, from the shallowest.
    pub fn agreements(&self) -> impl Iterator<Item = HeadAgreement> {
        self.heads.iter().map(|head| head.agreement)
    }

    /// Observed minus calibrated acceptance of a head; none without a calibration, or before the
    /// first token.
    pub fn drift(&self, head: usize) -> Option<f64> {
        self.agreements().nth(head)?.drift()
    }

    /// Heads whose acceptance has left the calibrated band since this was asked last. A head is
    /// told of again only after it has returned.
    pub fn newly_adrift(&mut self) -> Vec<(usize, HeadAgreement)> {
        let heads = self.heads.iter_mut().enumerate();
        let left = heads.filter_map(|(index, head)| {
            let before = head.adrift;
            head.adrift = head.agreement.is_adrift(before);
            (head.adrift && !before).then_some((index, head.agreement))
        });
        left.collect()
    }

    /// What rounds should bring: plain ones, then those from each head with at most `longest`
    /// tokens. None where no cost was measured.
    pub(super) fn rounds(&self, longest: usize) -> Vec<Option<Round>> {
        let plain = self.costs.plain().map(|seconds| Round {
            tokens: 1.0,
            seconds,
        });
        let heads = self.mean_acceptance().into_iter().enumerate();
        let drafted = heads.map(|(head, alpha)| {
            let forecast = &self.forecast;
            forecast.round(head, alpha, longest, &self.costs)
        });
        std::iter::once(plain).chain(drafted).collect()
    }

    /// Mean acceptance where positions begin at each head, as far as it can be told.
    pub(super) fn mean_acceptance(&self) -> Vec<f64> {
        let agreements: Vec<HeadAgreement> = self.agreements().collect();
        self.forecast.acceptance(&agreements)
    }

    /// How often each head is right, as a share of what was promised.
    pub(super) fn levels(&self) -> Vec<f64> {
        let agreements: Vec<HeadAgreement> = self.agreements().collect();
        self.forecast.levels(&agreements)
    }

    /// What the calibration says, or a cautious guess: a head of entropy H names each of about
    /// e^H tokens as likely as another.
    pub(super) fn promised(&self, head: usize, entropy: f32, temperature: f64) -> f64 {
        let entropy = f64::from(entropy.max(0.0));
        let tables = self
            .calibration
            .as_ref()
            .map(|calibration| calibration.acceptance(temperature));
        let table: Option<&AcceptanceTable> =
            tables.as_ref().and_then(|tables| tables.get(head).copied());
        match table {
            // Never hopeless: what is 0 could not be corrected.
            Some(table) => table.probability(entropy).max(LEAST),
            None => 0.9 * crate::math::exp(-0.5 * entropy),
        }
    }
}

impl Costs {
    /// Takes note of a row through a band, and of reading the exit at its end, if it was read.
    pub fn observe_band(&mut self, band: usize, pass: f64, exit: Option<f64>) {
        if let Some(mean) = self.bands.get_mut(band) {
            *mean = Some(steady(*mean, pass));
        }
        if let (Some(mean), Some(exit)) = (self.exits.get_mut(band), exit) {
            *mean = Some(steady(*mean, exit));
        }
    }

    /// Going from a band on to a head's exit, and reading that one alone. A band that was never
    /// run costs what the others do; none before any was.
    pub fn through(&self, band: usize, head: usize) -> Option<f64> {
        let bands: Option<f64> = (band..=head).map(|band| known(&self.bands, band)).sum();
        Some(bands? + known(&self.exits, head)?)
    }

    /// Going through one band and reading its exit.
    pub fn step(&self, band: usize) -> Option<f64> {
        self.through(band, band)
    }

    /// A draft token at a head when the exits before it are not read.
    pub fn direct(&self, head: usize) -> Option<f64> {
        self.through(0, head)
    }

    /// A step of the whole model with `rows` more rows.
    pub fn verify(&self, rows: usize) -> Option<f64> {
        let last = self.verify.last();
        self.verify.get(rows).or(last).copied()
    }

    /// A step of the whole model with one row. More rows never take less: where they seem to, that
    /// of one row is old.
    pub fn plain(&self) -> Option<f64> {
        let known = self.verify.iter().copied().filter(|&seconds| seconds > 0.0);
        known.min_by(f64::total_cmp)
    }

    /// What another row adds to a step, as a share of it: the median over all numbers of rows, as a
    /// single one may have been measured in a bad moment, and never again.
    pub fn another_row(&self) -> f64 {
        let Some(plain) = self.plain() else {
            return 0.0;
        };
        let rows = self.verify.iter().enumerate().skip(1);
        let mut slopes: Vec<f64> = rows
            .map(|(row, seconds)| (seconds / plain - 1.0) / row as f64)
            .collect();
        slopes.sort_by(f64::total_cmp);
        slopes.get(slopes.len() / 2).copied().unwrap_or(0.0)
    }

    /// A direct draft token of a head in steps of the whole model; a guess from its place among
    /// the heads where nothing was measured.
    pub fn relative(&self, head: usize) -> f64 {
        match (self.direct(head), self.verify(0)) {
            (Some(draft), Some(verify)) if verify > 0.0 => draft / verify,
            _ => (head + 1) as f64 / (self.bands.len() + 1) as f64,
        }
    }
}

fn known(costs: &[Option<f64>], index: usize) -> Option<f64> {
    costs.get(index).copied().flatten().or_else(|| {
        let measured: Vec<f64> = costs.iter().flatten().copied().collect();
        let mean = measured.iter().sum::<f64>() / measured.len() as f64;
        (!measured.is_empty()).then_some(mean)
    })
}

/// A running mean with its newest value.
pub(super) fn running(mean: Option<f64>, newest: f64) -> f64 {
    mean.map_or(newest, |mean| mean + NEWEST * (newest - mean))
}

/// A running mean that no single value moves far: a step that was interrupted says little.
fn steady(mean: Option<f64>, newest: f64) -> f64 {
    let within = |mean: f64| newest.clamp((1.0 - FAR) * mean, (1.0 + FAR) * mean);
    running(mean, mean.map_or(newest, within))
}

fn bin_of(entropy: f32) -> usize {
    ((entropy / BIN_NATS) as usize).min(BINS - 1)
}
