//! What the rows of a step need to know of the KV cache, on the device.

use crate::{
    Result,
    kernels::{Gpu, cuda::Places},
    kv::{BLOCK_POSITIONS, Step},
    model::attention::RowPlaces,
};
use cudarc::driver::CudaSlice;
use std::ops::Range;

/// The inputs of a step, uploaded once for all of its layers.
pub(super) struct StepPlaces {
    positions: CudaSlice<u32>,
    sequences: CudaSlice<u32>,
    /// `[layers, sequences, most_blocks]`.
    tables: CudaSlice<u32>,
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
            positions: gpu.room(0)?,
            sequences: gpu.room(0)?,
            tables: gpu.room(0)?,
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
        let positions: Vec<u32> = rows.positions.iter().map(|&p| p as u32).collect();
        // The rows of a sequence are neighbours.
        let mut ids = rows.sequences.clone();
        ids.dedup();
        let place = |id| ids.iter().position(|other| other == id).unwrap_or(0) as u32;
        let sequences: Vec<u32> = rows.sequences.iter().map(place).collect();
        let last = rows.positions.iter().max().copied().unwrap_or(0);
        self.most_blocks = last / BLOCK_POSITIONS + 1;
        self.layer_entries = ids.len() * self.most_blocks;
        self.rows = positions.len();
        let mut tables = Vec::with_capacity(layers.len() * self.layer_entries);
        for layer in layers {
            for &id in &ids {
                let end = tables.len() + self.most_blocks;
                tables.extend(step.table(id, layer).iter().take(self.most_blocks));
                tables.resize(end, 0);
            }
        }
        for (values, buffer) in [
            (&positions, &mut self.positions),
            (&sequences, &mut self.sequences),
            (&tables, &mut self.tables),
        ] {
            gpu.reserve(buffer, values.len())?;
            gpu.write(values, buffer)?;
        }
        Ok(())
    }

    /// Those of the layer with this place among the layers of the step.
    pub(super) fn layer(&self, gpu: &Gpu, index: usize) -> LayerPlaces {
        let entries = (index * self.layer_entries * size_of::<u32>()) as u64;
        LayerPlaces {
            places: Places {
                positions: gpu.address(&self.positions),
                sequences: gpu.address(&self.sequences),
                tables: gpu.address(&self.tables) + entries,
                most_blocks: self.most_blocks as u32,
            },
            rows: self.rows,
            most_keys: self.most_blocks * BLOCK_POSITIONS,
        }
    }
}
