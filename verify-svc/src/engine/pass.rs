//! One step of the model: rows of many sequences go through its bands, and some leave on the way.

use crate::{Error, Result};
use dssd_common::{
    entropy::Summary,
    exit::ExitRule,
    kv::{KvCache, SequenceId},
    model::{Decoder, Reading, Readout, Reads, Span},
    sampling::Choice,
};
use std::ops::Range;

/// The rows of one sequence in a step.
pub(super) struct Passenger<'a> {
    pub(super) sequence: SequenceId,
    /// Tokens of the rows that are new to the first band.
    pub(super) tokens: &'a [u32],
    /// The bands to go through.
    pub(super) bands: Range<usize>,
    /// The position after the last row.
    pub(super) end: usize,
    /// How many of the last rows are read.
    pub(super) reads: usize,
    /// Of each of these, where its token needs no logits.
    pub(super) choices: Vec<Option<Choice>>,
    /// Where they may be read before the end of the model.
    pub(super) rule: Option<&'a ExitRule>,
    /// Whether the rows leave the step once all are read; else they go on, for their keys and values.
    pub(super) leaves: bool,
}

/// The head at which a row was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exit {
    pub(super) head: usize,
    /// Of that head, in nats.
    pub(super) entropy: f32,
}

/// A row that was read.
pub(super) struct ReadRow<'a> {
    pub(super) reading: Reading<'a>,
    /// None: read at the end of the model.
    pub(super) exit: Option<Exit>,
}

/// What became of a passenger.
#[derive(Default)]
pub(super) struct Passage {
    rows: Vec<Option<Place>>,
    /// Whether it waits before a band, because its late rows found no room in this step.
    pub(super) stopped: bool,
    left: bool,
}

/// Where the logits of a row are kept.
#[derive(Clone, Copy)]
enum Place {
    Exit(Exit, usize),
    End(usize),
}

/// The buffers of a step.
#[derive(Default)]
pub(super) struct Pass {
    hidden: Vec<f32>,
    /// What was read at the end of the model.
    readout: Readout,
    /// Logits of rows that were read before, `[rows, vocabulary]`.
    exit_logits: Vec<f32>,
    head_logits: Vec<f32>,
    /// Whether every row of the last step went through the whole model, and no other row did.
    complete: bool,
    summaries: Vec<Summary>,
}

impl Pass {
    /// Takes all passengers through their bands. Rows that were left behind earlier and enter a
    /// band late count, with all others, towards `most_rows` in that band.
    ///
    /// # Errors
    /// If the model refuses a row.
    pub(super) fn run(
        &mut self,
        decoder: &mut Decoder,
        kv: &mut KvCache,
        passengers: &[Passenger<'_>],
        most_rows: usize,
    ) -> Result<Vec<Passage>> {
        let mut passages: Vec<Passage> = passengers.iter().map(Passage::of).collect();
        self.exit_logits.clear();
        self.readout.clear();
        self.complete = true;
        let tokens: usize = passengers
            .iter()
            .map(|passenger| passenger.tokens.len())
            .sum();
        let bands = decoder.band_ends().len();
        for band in 0..bands {
            let aboard = board(kv, band, passengers, &mut passages, most_rows);
            let rows: usize = aboard.iter().map(|(_, rows)| rows).sum();
            self.complete &= aboard.len() == passengers.len() && rows == tokens;
            if rows == 0 {
                continue;
            }
            let spans: Vec<Span<'_>> = aboard.iter().map(|(i, _)| passengers[*i].span()).collect();
            let last = band + 1 == bands;
            let readers = readers(&aboard, passengers, &passages, (!last).then_some(band));
            let rows: Vec<u32> = readers.iter().map(|reader| reader.at).collect();
            if last {
                let choice = |reader: &Reader| passengers[reader.passenger].choices[reader.row];
                let choices: Vec<_> = readers.iter().map(choice).collect();
                let reads = Reads {
                    exit: None,
                    rows: &rows,
                    choices: &choices,
                    summaries: false,
                };
                decoder.step(kv, band, &spans, reads, &mut self.readout)?;
                for (at, reader) in readers.into_iter().enumerate() {
                    passages[reader.passenger].rows[reader.row] = Some(Place::End(at));
                }
                continue;
            }
            let width = decoder.config().hidden;
            let states = decoder.advance(kv, band, &spans)?;
            self.hidden.clear();
            for row in rows {
                let state = &states[row as usize * width..][..width];
                self.hidden.extend_from_slice(state);
            }
            if !readers.is_empty() {
                self.read_exit(decoder, band, passengers, &readers, &mut passages)?;
            }
        }
        Ok(passages)
    }

    /// Reads the head after `band` for `readers`, whose states are in `hidden`.
    fn read_exit(
        &mut self,
        decoder: &mut Decoder,
        band: usize,
        passengers: &[Passenger<'_>],
        readers: &[Reader],
        passages: &mut [Passage],
    ) -> Result<()> {
        let vocabulary = decoder.vocabulary();
        let layer = decoder.band_ends()[band];
        decoder.exit_logits(layer, &self.hidden, &mut self.head_logits)?;
        let kernels = decoder.kernels();
        kernels.summarize(&self.head_logits, vocabulary, &mut self.summaries);
        let rows = self.head_logits.chunks_exact(vocabulary);
        for ((reader, logits), summary) in readers.iter().zip(rows).zip(&self.summaries) {
            if passengers[reader.passenger]
                .rule
                .is_some_and(|rule| rule.leaves(band, summary))
            {
                let exit = Exit {
                    head: band,
                    entropy: summary.entropy,
                };
                let at = self.exit_logits.len() / vocabulary;
                self.exit_logits.extend_from_slice(logits);
                passages[reader.passenger].rows[reader.row] = Some(Place::Exit(exit, at));
            }
        }
        for (passenger, passage) in passengers.iter().zip(passages) {
            passage.left = passenger.leaves && passage.unread().next().is_none();
        }
        Ok(())
    }

    /// Whether the last step was one of the whole model for all of its rows, so that its time says
    /// what such a step costs.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The rows of a passage that were read, in order of position.
    pub(super) fn rows(&self, passage: &Passage, vocabulary: usize) -> Vec<ReadRow<'_>> {
        let at_exit = |at: usize| &self.exit_logits[at * vocabulary..(at + 1) * vocabulary];
        let rows = passage.rows.iter().flatten();
        rows.map(|&place| match place {
            Place::Exit(exit, at) => ReadRow {
                reading: Reading::Logits(at_exit(at)),
                exit: Some(exit),
            },
            Place::End(at) => ReadRow {
                reading: self.readout.row(at),
                exit: None,
            },
        })
        .collect()
    }
}

impl<'a> ReadRow<'a> {
    /// `[vocabulary]`.
    ///
    /// # Errors
    /// If only a token was asked for.
    pub(super) fn logits(&self) -> Result<&'a [f32]> {
        match self.reading {
            Reading::Logits(logits) => Ok(logits),
            Reading::Token(_) => Err(Error::internal("reading logits", "they were not kept")),
        }
    }
}

impl<'a> Passenger<'a> {
    fn span(&self) -> Span<'a> {
        Span {
            sequence: self.sequence,
            end: self.end,
            tokens: self.tokens,
        }
    }
}

impl Passage {
    fn of(passenger: &Passenger<'_>) -> Self {
        Self {
            rows: vec![None; passenger.reads],
            ..Self::default()
        }
    }

    /// Rows that are still to be read.
    fn unread(&self) -> impl Iterator<Item = usize> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, place)| place.is_none())
            .map(|(row, _)| row)
    }
}

/// A row that a head reads after a band.
struct Reader {
    passenger: usize,
    /// Among the rows that are read of this passenger.
    row: usize,
    /// Among the rows of the step.
    at: u32,
}

/// The unread rows of those aboard, each with its number of rows in the step: of all, or of those who may be read
/// after the band `exit`.
fn readers(
    aboard: &[(usize, usize)],
    passengers: &[Passenger<'_>],
    passages: &[Passage],
    exit: Option<usize>,
) -> Vec<Reader> {
    let mut readers = Vec::new();
    let mut end = 0;
    for &(passenger, rows) in aboard {
        end += rows;
        let Passenger { rule, reads, .. } = &passengers[passenger];
        let reading = exit.is_none_or(|band| rule.is_some_and(|rule| rule.reads(band)));
        let unread = passages[passenger].unread().filter(|_| reading);
        readers.extend(unread.map(|row| Reader {
            passenger,
            row,
            at: (end - reads + row) as u32,
        }));
    }
    readers
}

/// The passengers that enter a band, with the number of their rows there. Those that bring rows
/// from earlier steps come last: they get the room that the others leave.
fn board(
    kv: &KvCache,
    band: usize,
    passengers: &[Passenger<'_>],
    passages: &mut [Passage],
    most_rows: usize,
) -> Vec<(usize, usize)> {
    let mut total = 0;
    let mut aboard = Vec::with_capacity(passengers.len());
    for late in [false, true] {
        for (i, passenger) in passengers.iter().enumerate() {
            let passage = &mut passages[i];
            let gone = passage.left || passage.stopped;
            let bound = passenger.leaves && band > passenger.bands.start;
            if gone || bound != late || !passenger.bands.contains(&band) {
                continue;
            }
            let rows = passenger.end - kv.len(passenger.sequence, band);
            if late && total + rows > most_rows {
                passage.stopped = true;
                continue;
            }
            total += rows;
            aboard.push((i, rows));
        }
    }
    aboard
}
