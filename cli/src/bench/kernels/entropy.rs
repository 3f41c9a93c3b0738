//! The fused entropy operation against the same numbers out of a chain of tensor operations.

use super::Setting;
use crate::bench::{
    WEIGHT_TYPES,
    timing::{interleaved, median},
    type_name,
};
use candle_core::{CpuStorage, D, DType, Device, Storage, Tensor};
use dssd_common::{entropy::row_summary, kernels::WeightType};
use serde::Serialize;
use std::fmt;

const ROWS: [usize; 2] = [1, 8];
/// Those of small, Pythia's and Llama 3's tokenizers.
const VOCABULARIES: [usize; 3] = [4096, 50_304, 128_256];

/// One size.
#[derive(Serialize)]
pub(super) struct EntropyReport {
    rows: usize,
    vocabulary: usize,
    dtype: &'static str,
    seconds: f64,
    bandwidth_share: f64,
    /// Arg-max, its probability, log-sum-exp and entropy (without the margins) by candle.
    op_chain_seconds: f64,
}

/// All sizes and types.
pub(super) fn measure(setting: &Setting<'_>) -> anyhow::Result<Vec<EntropyReport>> {
    let mut reports = Vec::new();
    for weight_type in WEIGHT_TYPES {
        for vocabulary in VOCABULARIES {
            let logits = logits(setting.working_set, vocabulary, weight_type)?;
            for rows in ROWS {
                let samples = sample(setting, &logits, rows)?;
                let bytes = rows * vocabulary * weight_type.bytes_per_weight();
                let seconds = median(&samples[0]);
                reports.push(EntropyReport {
                    rows,
                    vocabulary,
                    dtype: type_name(weight_type),
                    seconds,
                    bandwidth_share: bytes as f64 / seconds / setting.read_bandwidth,
                    op_chain_seconds: median(&samples[1]),
                });
            }
        }
    }
    Ok(reports)
}

/// As many rows as fill the working set: `[rows, vocabulary]`.
fn logits(
    working_set: usize,
    vocabulary: usize,
    weight_type: WeightType,
) -> anyhow::Result<Tensor> {
    let candle_type = match weight_type {
        WeightType::F32 => DType::F32,
        WeightType::Bf16 => DType::BF16,
        WeightType::F16 => DType::F16,
    };
    let rows = working_set.div_ceil(vocabulary * candle_type.size_in_bytes());
    let row: Vec<f32> = (0..vocabulary)
        .map(|i| (i * 7919 % 1000) as f32 / 100.0 - 5.0)
        .collect();
    let row = Tensor::from_vec(row, (1, vocabulary), &Device::Cpu)?.to_dtype(candle_type)?;
    Ok(row.repeat((rows, 1))?)
}

/// Samples of the fused operation and of the chain, each call on rows that no cache holds.
///
/// On f32 the operation runs on all threads, as the services call it; the 16-bit types have it
/// as a candle operation, which has one thread.
fn sample(setting: &Setting<'_>, logits: &Tensor, rows: usize) -> anyhow::Result<Vec<Vec<f64>>> {
    let (all_rows, vocabulary) = logits.dims2()?;
    let groups = all_rows / rows;
    // Strides, because memory that was just read prefetches what follows.
    let mut turn = (0..groups).cycle().step_by((groups / 3) | 1);
    let (storage, _) = logits.storage_and_layout();
    let values = match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Some(values.as_slice()),
        _ => None,
    };
    let mut summaries = Vec::new();
    interleaved(2, setting.rounds, |variant| {
        let first = turn.next().unwrap_or(0) * rows;
        let part = logits.narrow(0, first, rows)?;
        match (variant, values) {
            (0, Some(values)) => {
                let part = &values[first * vocabulary..][..rows * vocabulary];
                setting.kernels.summarize(part, vocabulary, &mut summaries);
            }
            (0, None) => drop(row_summary(&part)?),
            _ => op_chain(&part)?,
        }
        Ok(())
    })
}

fn op_chain(logits: &Tensor) -> candle_core::Result<()> {
    let x = logits.to_dtype(DType::F32)?;
    let maximum = x.max_keepdim(D::Minus1)?;
    let below = x.broadcast_sub(&maximum)?;
    let terms = below.exp()?;
    let sum = terms.sum_keepdim(D::Minus1)?;
    let weighted = (terms * below)?.sum_keepdim(D::Minus1)?;
    let log_sum = sum.log()?;
    (&log_sum - weighted.div(&sum)?)?;
    (log_sum + maximum)?;
    sum.recip()?;
    x.argmax(D::Minus1)?;
    Ok(())
}

impl fmt::Display for EntropyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "entropy    {:4} {:10} {:4} {:6.0} {:11.1} % {:23.0}",
            self.rows,
            self.vocabulary,
            self.dtype,
            1e6 * self.seconds,
            100.0 * self.bandwidth_share,
            1e6 * self.op_chain_seconds
        )
    }
}
