//! What the rows of a step need to know of the KV cache, on the device.

use crate::{
    Result,
    kernels::{Gpu, cuda::Places},
    kv::{BLOCK_POSITIONS, Step},
    model::attention::RowPlaces,
};
use cudarc::driver::CudaSlice;
use std::ops::Range;

/// The inputs of a step, uploaded at once for all of its layers.
pub(super) struct StepPlaces {
    /// Positions of the rows, their sequences, then tables `[layers, sequences, most_blocks]`.
    words: CudaSlice<u32>,
    /// The same on the host, until they are there.
    staged: Vec<u32>,
    /// Entries of one layer.
    layer_entries: usize,
    most_blocks: usize,
    rows: usize,
}

/// The rows in one layer.
pub(super) struct LayerPlaces {
    pub(super) places: Places,
    pub(super) rows: usize,
    /// Keys of the row that has most, up to whole blocks.
    pub(super) most_keys: usize,
}

impl StepPlaces {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        Ok(Self {
            words: gpu.room(0)?,
            staged: Vec::new(),
            layer_entries: 0,
            most_blocks: 0,
            rows: 0,
        })
    }

    /// Takes the places of `rows` in `layers`.
    pub(super) fn upload(
        &mut self,
        gpu: &Gpu,
        rows: &RowPlaces,
        step: &Step<'_>,
        layers: Range<usize>,
    ) -> Result<()> {
        // The rows of a sequence are neighbours.
        let mut ids = rows.sequences.clone();
        ids.dedup();
        let place = |id| ids.iter().position(|other| other == id).unwrap_or(0) as u32;
        let last = rows.positions.iter().max().copied().unwrap_or(0);
        // Powers of two, so that few recordings serve a growing text.
        self.most_blocks = (last / BLOCK_POSITIONS + 1).next_power_of_two();
        self.layer_entries = ids.len().next_power_of_two() * self.most_blocks;
        self.rows = rows.positions.len();
        let words = &mut self.staged;
        words.clear();
        words.extend(rows.positions.iter().map(|&p| p as u32));
        words.extend(rows.sequences.iter().map(place));
        for (index, layer) in layers.enumerate() {
            for (place, &id) in ids.iter().enumerate() {
                let begin = index * self.layer_entries + place * self.most_blocks;
                words.resize(2 * self.rows + begin, 0);
                words.extend(step.table(id, layer).iter().take(self.most_blocks));
            }
        }
        gpu.reserve(&mut self.words, words.len())?;
        gpu.write(words, &mut self.words)
    }

    /// What the launches of the step's layers depend on, beside the layers themselves: rows, and the entries
    /// and blocks of a layer's tables.
    pub(super) fn shape(&self) -> [usize; 3] {
        [self.rows, self.layer_entries, self.most_blocks]
    }

    /// Those of the layer with this place among the layers of the step.
    pub(super) fn layer(&self, gpu: &Gpu, index: usize) -> LayerPlaces {
        let base = gpu.address(&self.words);
        let word = |index: usize| base + (index * size_of::<u32>()) as u64;
        LayerPlaces {
            places: Places {
                positions: base,
                sequences: word(self.rows),
                tables: word(2 * self.rows + index * self.layer_entries),
                most_blocks: self.most_blocks as u32,
            },
            rows: self.rows,
            most_keys: self.most_blocks * BLOCK_POSITIONS,
        }
    }
}
