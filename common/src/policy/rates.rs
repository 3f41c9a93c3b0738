//! Tokens per second that rounds brought, by where their drafts began: a bandit with few arms.
//!
//! What an arm is worth is its mean over the rounds seen and over a few more that are taken to be
//! as [`Forecast`](super::Forecast) says: Σ tokens / Σ seconds. So an arm that the model has well
//! behind is not tried at all at first, one near the best is, and one that was tried often stands
//! for itself. Arms that lost are tried again when what that is expected to lose is a small share
//! of the time since.

use super::forecast::Round;

/// Rounds that a forecast counts for.
const FORECAST_ROUNDS: f64 = 20.0;
/// Rounds of a try, after a first one that catches up.
pub(super) const TRY_ROUNDS: u32 = 6;
/// Tokens after which a choice is tried again at the earliest.
const RETRY: u64 = 1024;
/// Share of all time that new tries of all arms together may lose.
const TRY_SHARE: f64 = 0.005;
/// How much a rate may turn out better than it was seen, over the root of the rounds seen: less than
/// the deviation of a round's tokens over their mean, since what was missed is tried again, and
/// trying is dear.
const HOPE: f64 = 0.15;
/// How much faster than plain decoding drafts must be, to be worth what no round shows: messages,
/// the drafter's prefill, and processors that others want.
const MARGIN: f64 = 1.03;
/// Tokens after which half of what was seen is forgotten.
const HORIZON: f64 = 128.0;
/// What a record weighs at most, in rounds, once it is old: the world may have changed.
const OLD_ROUNDS: f64 = 6.0;
/// Share by which plain rounds may differ from their forecast before the forecast is believed.
const CHANGED: f64 = 0.3;
/// What a record of plain rounds counts for then.
const OUTDATED: f64 = 0.1;

/// How a round is drafted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Not at all.
    Plain,
    /// From this exit head on.
    From(usize),
}

impl Choice {
    fn index(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::From(head) => head + 1,
        }
    }

    fn of(index: usize) -> Self {
        index.checked_sub(1).map_or(Self::Plain, Self::From)
    }
}

/// Running rates of every choice.
#[derive(Clone, Debug)]
pub struct Rates {
    /// Plain decoding, then each head.
    records: Vec<Record>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    tokens: f64,
    seconds: f64,
    rounds: f64,
    /// Tokens, and seconds, that came since it was last tried.
    age: u64,
    idle: f64,
}

/// A record and the rounds of a forecast.
#[derive(Clone, Copy, Debug)]
struct Worth {
    choice: Choice,
    mean: Round,
    rounds: f64,
}

impl Record {
    fn weigh(&mut self, keep: f64) {
        self.tokens *= keep;
        self.seconds *= keep;
        self.rounds *= keep;
    }

    /// How much of the record still counts: less with age, and little of plain rounds where the
    /// verifier's steps now take another time, as there is nothing else in them.
    fn freshness(&self, choice: Choice, forecast: Option<Round>) -> f64 {
        let aged = RETRY as f64 / RETRY.saturating_add(self.age) as f64;
        let changed = |forecast: Round| {
            let ratio = self.tokens / (self.seconds * forecast.rate());
            (ratio - 1.0).abs() > CHANGED
        };
        match choice {
            Choice::Plain if forecast.is_some_and(changed) => OUTDATED * aged,
            _ => aged,
        }
    }

    fn with(&self, choice: Choice, forecast: Option<Round>) -> Option<Worth> {
        let weight = forecast.map_or(0.0, |_| FORECAST_ROUNDS);
        let keep = self.freshness(choice, forecast);
        let forecast = forecast.unwrap_or_default();
        let rounds = keep * self.rounds + weight;
        (rounds > 0.0).then(|| Worth {
            choice,
            mean: Round {
                tokens: (keep * self.tokens + weight * forecast.tokens) / rounds,
                seconds: (keep * self.seconds + weight * forecast.seconds) / rounds,
            },
            rounds,
        })
    }
}

impl Worth {
    fn rate(&self) -> f64 {
        self.mean.rate()
    }

    /// The rate with the benefit of the doubt (an upper confidence bound).
    fn promise(&self) -> f64 {
        match self.choice {
            // Every plain round brings one token: its rate has no chance in it.
            Choice::Plain => self.rate() * MARGIN,
            Choice::From(_) => self.rate() * (1.0 + HOPE / self.rounds.sqrt()),
        }
    }

    /// Seconds that a try loses where the best brings `best` tokens per second.
    fn loss(&self, best: f64, catch_up: f64) -> f64 {
        let (rounds, catch_up) = match self.choice {
            Choice::Plain => (1.0, 0.0),
            Choice::From(_) => (f64::from(1 + TRY_ROUNDS), catch_up),
        };
        catch_up + rounds * (self.mean.seconds - self.mean.tokens / best).max(0.0)
    }
}

impl Rates {
    pub(super) fn new(heads: usize) -> Self {
        Self {
            records: vec![Record::default(); heads + 1],
        }
    }

    /// The choice for the next round: what was not tried for long, else what promises most.
    /// `forecasts` are of plain rounds, then of each head; `catch_up`, the seconds to begin to draft.
    pub(super) fn choose(&self, forecasts: &[Option<Round>], catch_up: f64) -> Choice {
        let drafts = self.records.len() > 1;
        let measured = forecasts.iter().skip(1).any(Option::is_some);
        let seen = self
            .records
            .iter()
            .skip(1)
            .any(|record| record.rounds > 0.0);
        if drafts && !measured && !seen {
            // Whoever asks for a draft for the first time gets one: it tells the costs.
            return Choice::From(0);
        }
        let best = self.best(forecasts).unwrap_or(0.0);
        let share = TRY_SHARE / self.records.len().saturating_sub(1).max(1) as f64;
        let is_due = |worth: &Worth| {
            let record = &self.records[worth.choice.index()];
            record.age >= RETRY && record.idle * share >= worth.loss(best, catch_up)
        };
        let chosen = self.worths(forecasts).find(is_due).or_else(|| {
            self.worths(forecasts)
                .max_by(|a, b| a.promise().total_cmp(&b.promise()))
        });
        chosen.map_or(Choice::Plain, |worth| worth.choice)
    }

    /// The best rate that is expected, in tokens per second.
    pub(super) fn best(&self, forecasts: &[Option<Round>]) -> Option<f64> {
        let rates = self.worths(forecasts).map(|worth| worth.rate());
        rates.max_by(f64::total_cmp)
    }

    fn worths(&self, forecasts: &[Option<Round>]) -> impl Iterator<Item = Worth> {
        let records = self.records.iter().enumerate();
        records.filter_map(|(index, record)| {
            record.with(Choice::of(index), forecasts.get(index).copied().flatten())
        })
    }

    /// Takes note of a round, or of several plain ones in a row.
    pub fn observe(&mut self, choice: Choice, tokens: usize, seconds: f64) {
        self.grow_older(tokens, seconds);
        let Some(record) = self.records.get_mut(choice.index()) else {
            return;
        };
        if record.age >= RETRY && record.rounds > OLD_ROUNDS {
            record.weigh(OLD_ROUNDS / record.rounds);
        }
        record.weigh(HORIZON / (HORIZON + tokens as f64));
        record.tokens += tokens as f64;
        record.seconds += seconds;
        record.rounds += 1.0;
        record.age = 0;
        record.idle = 0.0;
    }

    /// Takes note of tokens whose round says nothing of any choice's rate.
    pub fn grow_older(&mut self, tokens: usize, seconds: f64) {
        for record in &mut self.records {
            record.age = record.age.saturating_add(tokens as u64);
            record.idle += seconds;
        }
    }
}
