//! Tokens per second that rounds brought, by where their drafts began: a bandit with few arms.

/// Rounds from every head before any choice is preferred. Plain rounds vary less: one tells.
pub(super) const FIRST_TRIES: u32 = 6;
/// Tokens after which a choice that is nearly as good as the best is tried again.
const RETRY_NEAR: u64 = 1024;
/// The same for one that is far behind.
const RETRY_FAR: u64 = 2048;
/// Where near ends, as a share of the best rate.
const NEAR: f64 = 0.9;
/// How much a rate may turn out better than it was seen, over the root of the rounds seen: less than
/// the deviation of a round's tokens over their mean, since what was missed is tried again, and
/// trying is dear.
const HOPE: f64 = 0.25;
/// How much faster than plain decoding drafts must be, to be worth what no round shows: messages,
/// the drafter's prefill, and processors that others want.
const MARGIN: f64 = 1.03;
/// Tokens after which half of what was seen is forgotten.
const HORIZON: f64 = 256.0;
/// What a record weighs at most, in rounds, once it is old: the world may have changed.
const OLD_ROUNDS: f64 = 6.0;

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
    tries: u32,
    /// Tokens that came since it was last tried.
    age: u64,
}

impl Record {
    fn rate(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }

    /// The rate with the benefit of the doubt (an upper confidence bound).
    fn promise(&self) -> f64 {
        let doubt = 1.0 + HOPE / self.rounds.sqrt();
        self.rate().map_or(f64::INFINITY, |rate| rate * doubt)
    }

    fn weigh(&mut self, keep: f64) {
        self.tokens *= keep;
        self.seconds *= keep;
        self.rounds *= keep;
    }
}

impl Rates {
    pub(super) fn new(heads: usize) -> Self {
        Self {
            records: vec![Record::default(); heads + 1],
        }
    }

    /// The choice for the next round: what was tried too little, what was not tried for long,
    /// else what promises most.
    pub fn choose(&self) -> Choice {
        let best = self.best().unwrap_or(0.0);
        let due = |&(index, record): &(usize, &Record)| {
            let first_tries = if index == 0 { 1 } else { FIRST_TRIES };
            let near = record.rate().is_none_or(|rate| rate >= NEAR * best);
            let retry = if near { RETRY_NEAR } else { RETRY_FAR };
            record.tries < first_tries || record.age >= retry
        };
        let promise = |index: usize, record: &Record| match index {
            // Every plain round brings one token: its rate has no chance in it.
            0 => record.rate().map_or(f64::INFINITY, |rate| rate * MARGIN),
            _ => record.promise(),
        };
        // Heads first: whoever asks for a draft for the first time gets one.
        let heads_first = || self.records.iter().enumerate().skip(1);
        let all = || heads_first().chain(self.records.iter().enumerate().take(1));
        let index = all().find(due).map(|(index, _)| index).or_else(|| {
            all()
                .max_by(|&(i, a), &(j, b)| promise(i, a).total_cmp(&promise(j, b)))
                .map(|(index, _)| index)
        });
        match index.unwrap_or(0) {
            0 => Choice::Plain,
            head => Choice::From(head - 1),
        }
    }

    /// The best rate so far, in tokens per second.
    pub fn best(&self) -> Option<f64> {
        let rates = self.records.iter().filter_map(Record::rate);
        rates.max_by(f64::total_cmp)
    }

    /// Takes note of a round, or of several plain ones in a row.
    pub fn observe(&mut self, choice: Choice, tokens: usize, seconds: f64) {
        self.grow_older(tokens);
        let Some(record) = self.records.get_mut(choice.index()) else {
            return;
        };
        if record.age >= RETRY_NEAR && record.rounds > OLD_ROUNDS {
            record.weigh(OLD_ROUNDS / record.rounds);
        }
        record.weigh(HORIZON / (HORIZON + tokens as f64));
        record.tokens += tokens as f64;
        record.seconds += seconds;
        record.rounds += 1.0;
        record.tries = record.tries.saturating_add(1);
        record.age = 0;
    }

    /// Takes note of tokens whose round says nothing of any choice's rate.
    pub fn grow_older(&mut self, tokens: usize) {
        for record in &mut self.records {
            record.age = record.age.saturating_add(tokens as u64);
        }
    }
}
