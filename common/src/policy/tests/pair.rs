//! `auto` in simulated pairs: a service from its first request on, with noise in every time, against
//! the same service with every fixed draft and with none. All figures are means over many seeds.

use crate::entropy::Summary;
use crate::exit::{AcceptanceTable, Calibration, HeadCalibration};
use crate::policy::{
    Decision, Drafted, ExitView, Experience, Outcome, Policy, PolicySpec, Setting, StopCause,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Tokens of a request, and rows of its prompt.
const REQUEST: usize = 128;
const PROMPT: usize = 32;
/// Tokens that a verifier gathers before it tells them to a drafter that rests.
const GATHER: usize = 16;
const LONGEST: usize = 8;
/// Rests after declined drafts, in rounds.
const RESTS: (u32, u32) = (8, 64);
/// Weight of the newest in the verifier's running costs.
const NEWEST: f64 = 0.1;
/// Noise of every time: up to this share to both sides, and now and then a whole round of thrice
/// its time.
const NOISE: f64 = 0.15;
const ACCIDENTS: f64 = 0.01;

/// Acceptance at each of the demo model's heads, at entropies up to 1, 2, 3 … nats.
const DEMO: [[f64; 7]; 4] = [
    [0.97, 0.90, 0.65, 0.58, 0.51, 0.47, 0.30],
    [0.98, 0.90, 0.73, 0.66, 0.59, 0.56, 0.40],
    [0.98, 0.90, 0.80, 0.74, 0.69, 0.65, 0.50],
    [0.98, 0.92, 0.85, 0.82, 0.79, 0.76, 0.65],
];

/// What things cost, and how often heads are right.
#[derive(Clone)]
pub(super) struct Pair {
    /// Seconds of a step of the whole model, and what each more row adds, as a share.
    pub(super) plain: f64,
    pub(super) row: f64,
    /// Seconds of each band, and of reading an exit.
    pub(super) bands: Vec<f64>,
    pub(super) exit: f64,
    /// Seconds of the way there and back.
    pub(super) wire: f64,
    /// For each head, the promised probability at entropies up to 1, 2, 3 … nats.
    pub(super) promised: Vec<Vec<f64>>,
    /// Whether the policy is told of `promised`.
    pub(super) is_calibrated: bool,
    /// What is true of the promise, as a share.
    pub(super) truth: f64,
    pub(super) temperature: f64,
}

impl Pair {
    /// The demo model on a machine of two cores.
    pub(super) fn demo() -> Self {
        Self {
            plain: 0.75e-3,
            row: 0.09,
            bands: vec![0.13e-3, 0.18e-3, 0.22e-3, 0.20e-3],
            exit: 0.10e-3,
            wire: 0.2e-3,
            promised: DEMO.map(|curve| curve.to_vec()).to_vec(),
            is_calibrated: true,
            truth: 1.0,
            temperature: 0.0,
        }
    }

    /// The same where other work wants the processors: drafts suffer less.
    pub(super) fn busy() -> Self {
        Self {
            plain: 1.25e-3,
            wire: 0.25e-3,
            ..Self::demo()
        }
    }

    /// A verifier of 410 million parameters.
    pub(super) fn large() -> Self {
        let bands = [3.4e-3, 5.4e-3, 5.4e-3, 5.4e-3];
        Self {
            plain: 27e-3,
            row: 0.05,
            bands: bands.to_vec(),
            exit: 2e-3,
            wire: 0.3e-3,
            promised: vec![vec![0.85], vec![0.9], vec![0.93], vec![0.95]],
            ..Self::demo()
        }
    }

    /// The same where everything takes `factor` times as long.
    pub(super) fn slower(&self, factor: f64) -> Self {
        Self {
            plain: factor * self.plain,
            bands: self.bands.iter().map(|band| factor * band).collect(),
            exit: factor * self.exit,
            wire: factor * self.wire,
            ..self.clone()
        }
    }

    /// Tables for the temperature, and misleading ones for another.
    fn calibration(&self) -> Option<Calibration> {
        let table = |temperature: f64, curve: &[f64]| AcceptanceTable {
            temperature,
            entropies: (1..=curve.len()).map(|nats| nats as f64).collect(),
            probabilities: curve.to_vec(),
        };
        let heads = self.promised.iter().enumerate();
        let heads = heads.map(|(head, curve)| HeadCalibration {
            layer: head + 1,
            thresholds: Vec::new(),
            acceptance: vec![table(self.temperature, curve), table(9.0, &[0.99])],
        });
        let calibration = Calibration {
            temperatures: vec![self.temperature, 9.0],
            heads: heads.collect(),
            ..super::calibration()
        };
        self.is_calibrated.then_some(calibration)
    }

    fn promise(&self, head: usize, entropy: f32) -> f64 {
        let curve = &self.promised[head];
        curve[(entropy.ceil() as usize)
            .saturating_sub(1)
            .min(curve.len() - 1)]
    }
}

/// A service: what it learns lasts from request to request.
pub(super) struct Service {
    name: String,
    calibration: Option<Calibration>,
    experience: Experience,
    verify: Vec<Option<f64>>,
    random: ChaCha8Rng,
    /// 3 in a round with an accident, else 1.
    accident: f64,
}

/// A request in the making.
struct Request {
    policy: Option<Box<dyn Policy>>,
    /// Tokens, the prompt's included.
    length: usize,
    /// Rows that each band holds.
    held: Vec<usize>,
    rest: u32,
}

/// A position as the heads see it.
struct Position {
    entropies: Vec<f32>,
    /// Heads whose truth is above it are right.
    luck: f64,
}

impl Service {
    /// `name` of a policy; `off` for none.
    pub(super) fn new(name: &str, pair: &Pair, seed: u64) -> Self {
        let calibration = pair.calibration();
        Self {
            name: name.to_owned(),
            experience: Experience::new(pair.bands.len(), calibration.clone()),
            calibration,
            verify: vec![None; LONGEST + 1],
            random: ChaCha8Rng::seed_from_u64(seed),
            accident: 1.0,
        }
    }

    /// Tokens per second over at least `tokens` more tokens.
    pub(super) fn rate(&mut self, pair: &Pair, tokens: usize) -> f64 {
        let (mut came, mut seconds) = (0, 0.0);
        while came < tokens {
            let most = REQUEST.min(tokens - came);
            let (more, took) = self.request(pair, most);
            came += more;
            seconds += took;
        }
        came as f64 / seconds
    }

    fn request(&mut self, pair: &Pair, tokens: usize) -> (usize, f64) {
        let exits: Vec<usize> = (1..=pair.bands.len()).collect();
        let spec: PolicySpec = self.name.parse().unwrap();
        let setting = Setting {
            exits: &exits,
            max_draft_tokens: LONGEST,
            calibration: self.calibration.as_ref(),
            temperature: pair.temperature,
        };
        let mut request = Request {
            policy: spec.build(setting).unwrap(),
            length: PROMPT,
            held: vec![0; pair.bands.len()],
            rest: 0,
        };
        let mut seconds = 0.0;
        while request.length - PROMPT < tokens {
            seconds += self.round(pair, &mut request);
        }
        (request.length - PROMPT, seconds)
    }

    /// One round, or a rest with the round that declined before it: seconds.
    fn round(&mut self, pair: &Pair, request: &mut Request) -> f64 {
        self.begin_round();
        let Some(mut policy) = request.policy.take() else {
            request.length += 1;
            return self.pass(pair, 0);
        };
        let costs = (0..=LONGEST).map_while(|rows| self.expect(rows));
        self.experience.costs.verify = costs.collect();
        let mut drafted = Vec::new();
        let mut accepted = 0;
        let mut seconds = self.time(pair.wire);
        let declined = policy.begin(&self.experience).is_some();
        if !declined {
            let before = request.length;
            let draft;
            (drafted, accepted, draft) = self.draft(pair, request, policy.as_mut());
            seconds += draft;
            request.length = before + accepted + 1;
            request.rest /= 1 + u32::from(accepted > 0);
        } else {
            request.length += 1;
        }
        seconds += self.pass(pair, drafted.len());
        let mut committed = accepted + 1;
        if declined {
            request.rest = (2 * request.rest).clamp(RESTS.0, RESTS.1);
            for _ in 0..request.rest {
                self.begin_round();
                seconds += self.pass(pair, 0);
            }
            committed += request.rest as usize;
            request.length += request.rest as usize;
            request.held[0] = request.held[0].max(request.length - request.length % GATHER);
        }
        for held in &mut request.held {
            *held = (*held).min(request.length - 1);
        }
        let outcome = Outcome {
            drafted: &drafted,
            accepted,
            committed,
            seconds,
        };
        self.experience.learn(outcome, pair.temperature);
        policy.learn(outcome, &mut self.experience);
        request.policy = Some(policy);
        seconds
    }

    /// A draft, how many of its tokens are right, and its time.
    fn draft(
        &mut self,
        pair: &Pair,
        request: &mut Request,
        policy: &mut dyn Policy,
    ) -> (Vec<Drafted>, usize, f64) {
        let mut drafted = Vec::new();
        let (mut accepted, mut seconds) = (0, 0.0);
        while drafted.len() < policy.max_draft_tokens() {
            let position = self.position(pair);
            let end = request.length + drafted.len();
            let (head, decision, took) = self.ask(pair, request, policy, &position, end);
            seconds += took;
            if matches!(decision, Decision::Stop(_)) {
                break;
            }
            let entropy = position.entropies[head];
            let is_right = position.luck < pair.truth * pair.promise(head, entropy);
            accepted += usize::from(is_right && accepted == drafted.len());
            drafted.push(Drafted { head, entropy });
            if decision == Decision::EmitLast {
                break;
            }
        }
        (drafted, accepted, seconds)
    }

    /// What the policy says of the position behind `end` rows, at which head, and the time of that.
    fn ask(
        &mut self,
        pair: &Pair,
        request: &mut Request,
        policy: &mut dyn Policy,
        position: &Position,
        end: usize,
    ) -> (usize, Decision, f64) {
        let mut seconds = 0.0;
        for head in 0..pair.bands.len() {
            let rows = end.saturating_sub(request.held[head]).max(1);
            request.held[head] = end;
            let band = self.time(pair.bands[head] * (1.0 + pair.row * (rows - 1) as f64));
            let exit = policy.reads(head).then(|| self.time(pair.exit));
            if rows == 1 {
                self.experience.costs.observe_band(head, band, exit);
            }
            seconds += band + exit.unwrap_or(0.0);
            if exit.is_none() {
                continue;
            }
            let summary = Summary {
                entropy: position.entropies[head],
                valid: true,
                ..Summary::INVALID
            };
            let decision = policy.decide(ExitView {
                head,
                deepest: head + 1 == pair.bands.len(),
                summary: &summary,
                drafted: end - request.length,
                experience: &self.experience,
            });
            if decision != Decision::Deeper {
                return (head, decision, seconds);
            }
        }
        let last = pair.bands.len() - 1;
        (last, Decision::Stop(StopCause::Confidence), seconds)
    }

    /// Entropies as the demo model's first head has them; deeper heads are a little surer.
    fn position(&mut self, pair: &Pair) -> Position {
        const QUANTILES: [(f64, f64); 8] = [
            (0.0, 0.3),
            (0.02, 0.9),
            (0.07, 1.7),
            (0.125, 2.2),
            (0.23, 2.9),
            (0.4, 3.6),
            (0.78, 4.8),
            (1.0, 6.8),
        ];
        let u: f64 = self.random.random();
        let upper = QUANTILES.partition_point(|&(share, _)| share <= u).min(7);
        let ((a, from), (b, to)) = (QUANTILES[upper - 1], QUANTILES[upper]);
        let first = from + (to - from) * (u - a) / (b - a);
        let mut entropy = |head: usize| {
            let noise = self.random.random_range(0.9..1.1);
            (first * (1.0 - 0.05 * head as f64) * noise) as f32
        };
        let entropies = (0..pair.bands.len()).map(&mut entropy).collect();
        Position {
            entropies,
            luck: self.random.random(),
        }
    }

    /// A step of the whole model with `more` rows more: its time.
    fn pass(&mut self, pair: &Pair, more: usize) -> f64 {
        let seconds = self.time(pair.plain * (1.0 + pair.row * more as f64));
        let mean = self.verify[more].get_or_insert(seconds);
        *mean += NEWEST * (seconds - *mean);
        seconds
    }

    /// As the verifier tells: linear between what was measured, constant beyond it.
    fn expect(&self, rows: usize) -> Option<f64> {
        let at = |row: usize| self.verify[row].map(|seconds| (row, seconds));
        let below = (0..=rows).rev().find_map(at);
        let above = (rows..=LONGEST).find_map(at);
        match (below, above) {
            (Some((a, from)), Some((b, to))) if a < b => {
                Some(from + (to - from) * (rows - a) as f64 / (b - a) as f64)
            }
            (Some((_, seconds)), _) | (None, Some((_, seconds))) => Some(seconds),
            (None, None) => None,
        }
    }

    fn begin_round(&mut self) {
        let accident = self.random.random_bool(ACCIDENTS);
        self.accident = if accident { 3.0 } else { 1.0 };
    }

    fn time(&mut self, seconds: f64) -> f64 {
        self.accident * seconds * self.random.random_range(1.0 - NOISE..1.0 + NOISE)
    }
}
