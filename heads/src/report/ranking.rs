//! How well a score tells right from wrong.

use serde::Serialize;

/// Positions from the most confident to the least, each right or wrong. Statistics take how
/// often each document counts, as [`crate::interval::bootstrap`] draws them.
pub struct Ranking {
    ranked: Vec<Ranked>,
}

struct Ranked {
    document: u32,
    right: bool,
    /// Whether the next position's score is lower.
    last_of_equals: bool,
}

/// A point of a curve, both coordinates 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Along.
    pub x: f64,
    /// Up.
    pub y: f64,
}

/// Weighted positions.
#[derive(Clone, Copy, Default)]
struct Tally {
    right: u64,
    wrong: u64,
}

impl Tally {
    fn all(self) -> u64 {
        self.right + self.wrong
    }

    fn risk(self) -> f64 {
        self.wrong as f64 / self.all().max(1) as f64
    }
}

impl Ranking {
    /// A higher score is more confident. All three have one element for each position;
    /// `documents` counts from 0.
    pub fn new(scores: &[f32], right: &[bool], documents: &[u32]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let next_is_lower = |index: usize| match (order.get(index), order.get(index + 1)) {
            (Some(&this), Some(&next)) => scores[next] < scores[this],
            _ => true,
        };
        let ranked = order.iter().enumerate().map(|(index, &position)| Ranked {
            document: documents[position],
            right: right[position],
            last_of_equals: next_is_lower(index),
        });
        Self {
            ranked: ranked.collect(),
        }
    }

    /// Visits the groups of equal scores from the most confident on, each with the tally of all
    /// before it and its own.
    fn groups(&self, counts: &[u32], mut visit: impl FnMut(Tally, Tally)) -> Tally {
        let (mut before, mut group) = (Tally::default(), Tally::default());
        for position in &self.ranked {
            let count = u64::from(counts[position.document as usize]);
            if position.right {
                group.right += count;
            } else {
                group.wrong += count;
            }
            if position.last_of_equals {
                visit(before, group);
                before.right += group.right;
                before.wrong += group.wrong;
                group = Tally::default();
            }
        }
        before
    }

    /// Area under the ROC curve: the probability that a right position has a higher score than a
    /// wrong one, where equal scores count half (Hanley and McNeil 1982). None where there is
    /// nothing to tell apart.
    pub fn auroc(&self, counts: &[u32]) -> Option<f64> {
        let mut doubled = 0;
        let all = self.groups(counts, |before, group| {
            doubled += group.wrong * (2 * before.right + group.right);
        });
        let pairs = all.right * all.wrong;
        (pairs > 0).then(|| doubled as f64 / (2 * pairs) as f64)
    }

    /// Area under the risk–coverage curve (Geifman and El-Yaniv 2017): the mean, over positions,
    /// of the share of wrong ones among all that are at least as confident. Lower is better.
    pub fn aurc(&self, counts: &[u32]) -> Option<f64> {
        let mut area = 0.0;
        let all = self.groups(counts, |before, group| {
            let upto = Tally {
                right: before.right + group.right,
                wrong: before.wrong + group.wrong,
            };
            area += group.all() as f64 * upto.risk();
        });
        (all.all() > 0).then(|| area / all.all() as f64)
    }

    /// About `points` points of the ROC curve: false positives along, true positives up.
    pub fn roc(&self, counts: &[u32], points: usize) -> Vec<Point> {
        let upto = self.curve(counts, points);
        let all = upto.last().copied().unwrap_or_default();
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let point = |tally: &Tally| Point {
            x: share(tally.wrong, all.wrong),
            y: share(tally.right, all.right),
        };
        let origin = Point { x: 0.0, y: 0.0 };
        std::iter::once(origin)
            .chain(upto.iter().map(point))
            .collect()
    }

    /// About `points` points of the risk–coverage curve: coverage along, risk up.
    pub fn risk_coverage(&self, counts: &[u32], points: usize) -> Vec<Point> {
        let upto = self.curve(counts, points);
        let all = upto.last().copied().unwrap_or_default().all();
        let point = |tally: &Tally| Point {
            x: tally.all() as f64 / all.max(1) as f64,
            y: tally.risk(),
        };
        upto.iter().map(point).collect()
    }

    /// Tallies up to about `points` thresholds, evenly spaced in coverage; the last has all.
    fn curve(&self, counts: &[u32], points: usize) -> Vec<Tally> {
        let step = (self.ranked.len() / points.max(1)).max(1) as u64;
        let mut tallies = Vec::new();
        let mut due = step;
        let all = self.groups(counts, |before, group| {
            let upto = Tally {
                right: before.right + group.right,
                wrong: before.wrong + group.wrong,
            };
            if upto.all() >= due {
                tallies.push(upto);
                due = upto.all() + step;
            }
        });
        if tallies.last().is_none_or(|last| last.all() < all.all()) {
            tallies.push(all);
        }
        tallies
    }
}
