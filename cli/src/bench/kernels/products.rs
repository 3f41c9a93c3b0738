//! The skinny product at one size, for several numbers of rows.

use super::Setting;
use crate::bench::{
    WEIGHT_TYPES,
    timing::{interleaved, median, median_ratio},
    type_name,
};
use candle_core::{DType, Device, Tensor};
use dssd_common::{
    bytes::SharedBytes,
    kernels::{Matrix, WeightType},
};
use serde::Serialize;
use std::fmt;

/// Outputs.
const N: usize = 8192;
/// Inputs.
const K: usize = 2048;
const ROWS: [usize; 5] = [1, 2, 4, 6, 8];
/// Candle widens 16-bit weights anew at each product, which takes long.
const CANDLE_ROUNDS_OF_16_BITS: usize = 1;

/// One product.
#[derive(Serialize)]
pub(super) struct ProductReport {
    /// The instruction set.
    kernel: String,
    dtype: &'static str,
    rows: usize,
    n: usize,
    k: usize,
    seconds: f64,
    ratio_to_one_row: f64,
    bandwidth_share: f64,
    /// Candle's own product of the same sizes and types, on as many threads as it likes.
    candle_seconds: f64,
}

/// All types and numbers of rows.
pub(super) fn measure(setting: &Setting<'_>) -> anyhow::Result<Vec<ProductReport>> {
    let mut reports = Vec::new();
    for weight_type in WEIGHT_TYPES {
        let skinny = skinny_seconds(setting, weight_type)?;
        let candle = candle_seconds(setting, weight_type)?;
        let bytes = (N * K * weight_type.bytes_per_weight()) as f64;
        for (i, rows) in ROWS.into_iter().enumerate() {
            let seconds = median(&skinny[i]);
            reports.push(ProductReport {
                kernel: format!("skinny-{}", setting.kernels.isa().name()),
                dtype: type_name(weight_type),
                rows,
                n: N,
                k: K,
                seconds,
                ratio_to_one_row: median_ratio(&skinny[i], &skinny[0]),
                bandwidth_share: bytes / seconds / setting.read_bandwidth,
                candle_seconds: median(&candle[i]),
            });
        }
    }
    Ok(reports)
}

/// Samples for each of [`ROWS`].
fn skinny_seconds(setting: &Setting<'_>, weight_type: WeightType) -> anyhow::Result<Vec<Vec<f64>>> {
    let bytes = N * K * weight_type.bytes_per_weight();
    let copies = (0..setting.working_set.div_ceil(bytes)).map(|_| weights(weight_type));
    let copies = copies.collect::<anyhow::Result<Vec<Matrix>>>()?;
    let mut turn = copies.iter().cycle();
    let x = inputs();
    let mut out = vec![0.0; N * ROWS[ROWS.len() - 1]];
    interleaved(ROWS.len(), setting.rounds, |i| {
        if let Some(weights) = turn.next() {
            let rows = ROWS[i];
            setting
                .kernels
                .matmul(&x[..rows * K], weights, None, &mut out[..rows * N]);
        }
        Ok(())
    })
}

fn candle_seconds(setting: &Setting<'_>, weight_type: WeightType) -> anyhow::Result<Vec<Vec<f64>>> {
    let (candle_type, rounds) = match weight_type {
        WeightType::F32 => (DType::F32, setting.rounds),
        WeightType::Bf16 => (DType::BF16, CANDLE_ROUNDS_OF_16_BITS),
        WeightType::F16 => (DType::F16, CANDLE_ROUNDS_OF_16_BITS),
    };
    let bytes = N * K * candle_type.size_in_bytes();
    let one = Tensor::from_vec(sawtooth(N * K), (N, K), &Device::Cpu)?.to_dtype(candle_type)?;
    let copies = (0..setting.working_set.div_ceil(bytes)).map(|_| one.copy());
    let copies = copies.collect::<candle_core::Result<Vec<Tensor>>>()?;
    let mut turn = copies.iter().cycle();
    let x = Tensor::from_vec(inputs(), (ROWS[ROWS.len() - 1], K), &Device::Cpu)?;
    let x = x.to_dtype(candle_type)?;
    interleaved(ROWS.len(), rounds, |i| {
        if let Some(weights) = turn.next() {
            x.narrow(0, 0, ROWS[i])?.matmul(&weights.t()?)?;
        }
        Ok(())
    })
}

/// A copy of the weights of its own, in cache lines as those of a converted checkpoint are.
fn weights(weight_type: WeightType) -> anyhow::Result<Matrix> {
    let values = sawtooth(N * K)
        .into_iter()
        .flat_map(f32::to_ne_bytes)
        .collect();
    let f32 = Matrix::new(SharedBytes::from_vec(values), WeightType::F32, N, K)?;
    Ok(f32.convert(weight_type)?)
}

fn inputs() -> Vec<f32> {
    sawtooth(K * ROWS[ROWS.len() - 1])
}

/// Values between −1 and 1 that every type holds: time does not depend on them.
fn sawtooth(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (i * 37 % 255) as f32 / 128.0 - 1.0)
        .collect()
}

impl fmt::Display for ProductReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:16} {:4} {:4} {:6.2} {:11.2} {:11.1} % {:10.2}",
            self.kernel,
            self.dtype,
            self.rows,
            1e3 * self.seconds,
            self.ratio_to_one_row,
            100.0 * self.bandwidth_share,
            1e3 * self.candle_seconds
        )
    }
}
