//! Rows of logits on the device.

use super::numbers::{bytes, rounded};
use anyhow::Result;
use dssd_common::{
    entropy::Summary,
    kernels::{Gpu, LogitRows, WeightType},
    sampling::Choice,
};

/// Rows as they lie in memory, neighbours and gaps included.
pub(super) struct Rows {
    dtype: WeightType,
    places: LogitRows,
    values: Vec<f32>,
}

impl Rows {
    /// Rows one behind the other.
    pub(super) fn dense(rows: &[Vec<f32>], dtype: WeightType) -> Self {
        let vocabulary = rows.first().map_or(1, Vec::len);
        Self::strided(rows, dtype, vocabulary, 0)
    }

    /// Rows that begin `stride` logits apart behind `offset` others; what is between is large.
    pub(super) fn strided(
        rows: &[Vec<f32>],
        dtype: WeightType,
        stride: usize,
        offset: usize,
    ) -> Self {
        let mut values = vec![60_000.0; offset + rows.len() * stride];
        for (index, row) in rows.iter().enumerate() {
            values[offset + index * stride..][..row.len()].copy_from_slice(row);
        }
        let places = LogitRows {
            count: rows.len(),
            vocabulary: rows.first().map_or(1, Vec::len),
            offset,
            stride,
        };
        Self {
            dtype,
            places,
            values,
        }
    }

    /// A row as the kernel sees it.
    pub(super) fn row(&self, index: usize) -> Vec<f32> {
        let LogitRows {
            offset,
            stride,
            vocabulary,
            ..
        } = self.places;
        let row = &self.values[offset + index * stride..][..vocabulary];
        row.iter().map(|&x| rounded(x, self.dtype)).collect()
    }

    /// What the kernels say of the rows, and which tokens the choices give, if there are any.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn run(
        &self,
        gpu: &Gpu,
        choices: &[Choice],
    ) -> Result<(Vec<Summary>, Vec<Option<u32>>)> {
        let logits = gpu.logits(&bytes(&self.values, self.dtype), self.dtype, self.places)?;
        let summaries = gpu.summarize(&logits)?;
        let ids = match choices {
            [] => Vec::new(),
            choices => gpu.pick(&logits, &summaries, choices)?,
        };
        Ok((gpu.read_summaries(&summaries)?, ids))
    }
}
