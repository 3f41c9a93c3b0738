//! What drafts taught: how often each head is right at an entropy, and what everything costs.

use super::{AheadRecord, HeadAgreement, Outcome, rates::Rates};
use crate::exit::{AcceptanceTable, Calibration};

/// Width of an entropy bin, nats.
const BIN_NATS: f32 = 0.5;
/// The last bin holds everything from 7.5 nats on.
const BINS: usize = 16;
/// Tokens that the calibration (or, without one, the guess) counts for in each bin.
const PRIOR_WEIGHT: f64 = 24.0;
/// Weight of what was, token by token: in a bin those of that bin.
pub(super) const MEMORY: f64 = 0.99;
/// Least promised acceptance.
const LEAST: f64 = 0.01;
/// Weight of the newest in running costs.
const NEWEST: f64 = 0.1;

/// Acceptance as drafts of all sequences saw it, and running costs.
#[derive(Clone, Debug)]
pub struct Experience {
    calibration: Option<Calibration>,
    heads: Vec<Head>,
    /// What steps cost.
    pub costs: Costs,
    /// What rounds brought, by how they were drafted.
    pub rates: Rates,
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
        let promised = self.promised(head, entropy, temperature);
        let Some(bin) = self.heads.get(head).map(|head| head.bins[bin_of(entropy)]) else {
            return promised;
        };
        // The curve inside a bin stays; its level moves.
        let level = (bin.accepted + PRIOR_WEIGHT * promised)
            / (bin.promised + PRIOR_WEIGHT * promised).max(f64::MIN_POSITIVE);
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

    /// What the calibration says, or a cautious guess: a head of entropy H names each of about
    /// e^H tokens as likely as another.
    fn promised(&self, head: usize, entropy: f32, temperature: f64) -> f64 {
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
            *mean = Some(running(*mean, pass));
        }
        if let (Some(mean), Some(exit)) = (self.exits.get_mut(band), exit) {
            *mean = Some(running(*mean, exit));
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

fn bin_of(entropy: f32) -> usize {
    ((entropy / BIN_NATS) as usize).min(BINS - 1)
}
