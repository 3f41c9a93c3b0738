//! How long kernels take on the device, beside what only reading the same bytes takes.

use super::{
    Finish, Floats, Gpu, GpuLogits, GpuMatrix, GpuReadout, LogitRows, failed, graph::record, grid,
};
use crate::{
    Result,
    bytes::SharedBytes,
    kernels::{Matrix, WeightType},
    sampling::Choice,
};
use cudarc::driver::{CudaSlice, PushKernelArg as _};
use std::time::Instant;

/// Inputs and outputs of the products that are measured, those of Pythia 2.8b.
const PRODUCTS: [(usize, usize); 4] = [(2560, 7680), (2560, 2560), (2560, 10_240), (10_240, 2560)];
/// Rows of the products.
const ROWS: [usize; 4] = [1, 4, 8, 32];
/// Vocabulary of the rows of logits.
const VOCABULARY: usize = 50_304;
/// Loads read each of several buffers in turn, which together are larger than any cache.
const BUFFERS: usize = 4;
/// Bytes that the copies of a matrix have together, with all of [`Effort::rows`]: more than any cache holds.
const WORKING_SET: usize = 256 << 20;
const THREADS: u32 = 256;
const BLOCKS: usize = 132 * 16;

/// The launch that others are measured by: it reads, and does nothing with it.
pub const READ_ONLY: &str = "read only";

/// The timing of the entropy operation on so many rows of 50,304 bf16 logits.
pub fn entropy_name(rows: usize) -> String {
    let plural = if rows == 1 { "" } else { "s" };
    format!("entropy, {rows} row{plural}")
}

/// What one launch took.
#[derive(Clone, Debug)]
pub struct Timing {
    /// What was launched.
    pub name: String,
    /// Bytes that it must read.
    pub bytes: usize,
    /// Mean over the launches.
    pub seconds: f64,
}

impl Timing {
    /// Bytes per second.
    pub fn rate(&self) -> f64 {
        // Of a clock that did not move.
        self.bytes as f64 / self.seconds.max(1e-12)
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Launches of each kernel.
    pub launches: usize,
    /// Rows of the many rows of logits; the matrices are this part of 1,024 of their size.
    pub rows: usize,
}

impl Effort {
    /// What a figure needs.
    pub const FULL: Self = Self {
        launches: 200,
        rows: 1024,
    };
    /// Enough to see that it runs.
    pub const TOKEN: Self = Self {
        launches: 2,
        rows: 1,
    };
}

impl Gpu {
    /// Times reading, copying, the entropy operation, the pick and products, the first of them [`READ_ONLY`].
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn measure(&self, effort: Effort) -> Result<Vec<Timing>> {
        let mut timings = Vec::from(self.measure_memory(effort)?);
        timings.extend(self.measure_logits(effort)?);
        for (k, n) in PRODUCTS {
            timings.extend(self.measure_products(effort, k, (n * effort.rows).div_ceil(1024))?);
        }
        Ok(timings)
    }

    /// Times reading and copying as many bytes as the many rows of logits have, of buffers that together are larger
    /// than any cache: [`READ_ONLY`], then the copy.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn measure_memory(&self, effort: Effort) -> Result<[Timing; 2]> {
        let bytes = effort.rows * VOCABULARY * WeightType::Bf16.bytes_per_weight();
        let values = arbitrary(bytes);
        let buffers: Vec<CudaSlice<u8>> = (0..BUFFERS)
            .map(|_| self.upload(&values))
            .collect::<Result<_>>()?;
        let mut copy = self.room::<u8>(bytes)?;
        let mut sink = self.room(1)?;
        Ok([
            self.timing(READ_ONLY.to_owned(), bytes, effort, |i| {
                self.read_only(&buffers[i % BUFFERS], &mut sink)
            })?,
            self.timing(
                "copy (bytes read; as many are written)".to_owned(),
                bytes,
                effort,
                |i| {
                    let from = &buffers[i % BUFFERS];
                    self.stream.memcpy_dtod(from, &mut copy).map_err(failed)
                },
            )?,
        ])
    }

    fn measure_logits(&self, effort: Effort) -> Result<Vec<Timing>> {
        let places = LogitRows {
            count: effort.rows,
            vocabulary: VOCABULARY,
            offset: 0,
            stride: VOCABULARY,
        };
        let dtype = WeightType::Bf16;
        let bytes = effort.rows * VOCABULARY * dtype.bytes_per_weight();
        let values = arbitrary(bytes);
        let all: Vec<GpuLogits> = (0..BUFFERS)
            .map(|_| self.logits(&values, dtype, places))
            .collect::<Result<_>>()?;
        let one: Vec<GpuLogits> = (0..BUFFERS)
            .map(|_| self.logits(&values, dtype, LogitRows { count: 1, ..places }))
            .collect::<Result<_>>()?;
        let mut readout = GpuReadout::new(self)?;
        let choice = Choice {
            seed: 1,
            index: 1,
            temperature: 1.0,
        };
        readout.take(self, &[Some(choice)])?;
        let row = VOCABULARY * dtype.bytes_per_weight();
        Ok(vec![
            self.timing(entropy_name(effort.rows), bytes, effort, |i| {
                readout.launch_summaries(self, &all[i % BUFFERS].view(self))
            })?,
            self.timing(entropy_name(1), row, effort, |i| {
                readout.launch_summaries(self, &one[i % BUFFERS].view(self))
            })?,
            self.timing("pick, 1 row".to_owned(), row, effort, |i| {
                readout.launch_picks(self, &one[i % BUFFERS].view(self))
            })?,
        ])
    }

    fn measure_products(&self, effort: Effort, k: usize, n: usize) -> Result<Vec<Timing>> {
        let dtype = WeightType::Bf16;
        let bytes = n * k * dtype.bytes_per_weight();
        let matrix = Matrix::new(SharedBytes::from_vec(arbitrary(bytes)), dtype, n, k)?;
        let copies = (WORKING_SET / 1024 * effort.rows).div_ceil(bytes);
        let weights: Vec<GpuMatrix> = (0..copies)
            .map(|_| GpuMatrix::upload(self, &matrix))
            .collect::<Result<_>>()?;
        let most = ROWS[ROWS.len() - 1];
        let x: Floats = self.upload(&vec![0.5; most * k])?;
        let mut out: Floats = self.room(most * n)?;
        let timing = |rows: usize| {
            let name = format!("product {k} to {n}, rows {rows}");
            self.timing(name, bytes, effort, |i| {
                self.product(&x, &weights[i % copies], Finish::default(), &mut out, rows)
            })
        };
        ROWS.into_iter().map(timing).collect()
    }

    /// The mean time of `launch`, which gets the number of each launch, in a recording of all of them: so
    /// almost without what launching costs the CPU.
    fn timing(
        &self,
        name: String,
        bytes: usize,
        effort: Effort,
        mut launch: impl FnMut(usize) -> Result<()>,
    ) -> Result<Timing> {
        // Directly first: buffers grow, and may not while they are recorded.
        (0..effort.launches.div_ceil(10)).try_for_each(&mut launch)?;
        let recording = record(self, || (0..effort.launches).try_for_each(&mut launch))?;
        // The first one finds cold caches and a clock that has not risen.
        recording.replay()?;
        self.wait()?;
        let begun = Instant::now();
        recording.replay()?;
        self.wait()?;
        Ok(Timing {
            name,
            bytes,
            seconds: begun.elapsed().as_secs_f64() / effort.launches as f64,
        })
    }

    fn read_only(&self, bytes: &CudaSlice<u8>, sink: &mut CudaSlice<u32>) -> Result<()> {
        let function = self.kernel("read_only")?;
        let (address, count) = (self.address(bytes), (bytes.len() / 16) as u64);
        let sink = self.address(sink);
        let mut launch = self.launch(function);
        launch.arg(&address).arg(&count).arg(&sink);
        // SAFETY: the arguments are those of `read_only`, in order; it reads `count` times 16 bytes.
        unsafe { launch.launch(grid((BLOCKS, 1), THREADS)?) }.map_err(failed)?;
        Ok(())
    }
}

/// Bytes that are finite numbers in any type.
fn arbitrary(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 37 % 61) as u8).collect()
}
