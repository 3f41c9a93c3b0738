//! Tokens per second that rounds brought, by where their drafts began: a bandit with few arms.

/// Rounds from every head before any choice is preferred. Plain rounds vary less: one tells.
const FIRST_TRIES: u32 = 3;
/// Rounds after which a choice that is nearly as good as the best is tried again.
const RETRY_NEAR: u32 = 32;
/// The same for one that is far behind.
const RETRY_FAR: u32 = 128;
/// Where near ends, as a share of the best rate.
const NEAR: f64 = 0.9;
/// How much a rate may turn out better than it was seen, over the root of the rounds seen: the
/// deviation of a round's tokens over their mean is about this.
const HOPE: f64 = 0.4;
/// Weight of what was, from round to round.
const MEMORY: f64 = 0.985;

/// How a round is drafted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Not at all.
    Plain,
    /// From this exit head on.
    From(usize),
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
    rounds_since: u32,
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
            record.tries < first_tries || record.rounds_since >= retry
        };
        // Heads first: whoever asks for a draft for the first time gets one.
        let heads_first = || self.records.iter().enumerate().skip(1);
        let all = || heads_first().chain(self.records.iter().enumerate().take(1));
        let index = all().find(due).map(|(index, _)| index).or_else(|| {
            all()
                .max_by(|(_, a), (_, b)| a.promise().total_cmp(&b.promise()))
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

    /// Takes note of a round.
    pub fn observe(&mut self, choice: Choice, tokens: usize, seconds: f64) {
        for record in &mut self.records {
            record.rounds_since = record.rounds_since.saturating_add(1);
        }
        let index = match choice {
            Choice::Plain => 0,
            Choice::From(head) => head + 1,
        };
        if let Some(record) = self.records.get_mut(index) {
            record.tokens = MEMORY * record.tokens + tokens as f64;
            record.seconds = MEMORY * record.seconds + seconds;
            record.rounds = MEMORY * record.rounds + 1.0;
            record.tries = record.tries.saturating_add(1);
            record.rounds_since = 0;
        }
    }
}
