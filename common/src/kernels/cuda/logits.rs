//! The launches of `entropy.cu` and `pick.cu`.

use super::{Address, Floats, Gpu, define, failed, grid};
use crate::{
    Error, Result,
    entropy::{SUMMARY_COLUMNS, Summary},
    kernels::WeightType,
};
use cudarc::driver::{CudaSlice, DeviceRepr, PushKernelArg as _};

const THREADS: u32 = define("PART_THREADS");
/// Logits of one part of a row.
const PART: usize = (THREADS * define("THREAD_LOGITS")) as usize;
/// Rows of a block of the second launches: one for each warp.
const BLOCK_ROWS: usize = (THREADS / WARP) as usize;
const WARP: u32 = define("WARP");
/// A warp joins the parts of a row, so many at most.
const MOST_VOCABULARY: usize = WARP as usize * PART;
/// 4-byte words of a `Partial` of the source.
const PARTIAL_WORDS: usize = 5;

/// Where rows of logits lie in a buffer, in logits.
#[derive(Clone, Copy, Debug)]
pub struct LogitRows {
    /// How many.
    pub count: usize,
    /// Logits of each.
    pub vocabulary: usize,
    /// Before the first row.
    pub offset: usize,
    /// From one row's beginning to the next one's.
    pub stride: usize,
}

/// Rows of logits on the device.
pub struct GpuLogits {
    bytes: CudaSlice<u8>,
    dtype: WeightType,
    rows: LogitRows,
}

impl GpuLogits {
    pub(super) fn bytes(&self) -> &CudaSlice<u8> {
        &self.bytes
    }
}

/// Summaries of rows on the device.
pub struct GpuSummaries {
    columns: Floats,
    count: usize,
}

/// How the token of a row is chosen: `Choice` of the source.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Key of the noise.
    pub seed: u64,
    /// Absolute index of the token in its sequence.
    pub index: u64,
    /// 0 is greedy.
    pub temperature: f64,
}

// SAFETY: a `repr(C)` struct of plain numbers, as the source has it.
unsafe impl DeviceRepr for Choice {}

/// The best of one part of a row: `Candidate` of the source.
#[repr(C)]
#[derive(Clone, Copy)]
struct Candidate {
    score: f64,
    id: u32,
}

// SAFETY: as above.
unsafe impl DeviceRepr for Candidate {}

impl Gpu {
    /// Uploads logits, `bytes` of `dtype`, of which `rows` tells the rows.
    ///
    /// # Errors
    /// If the vocabulary is empty or above 262,144, the rows are not within the bytes, or the device fails.
    pub fn logits(&self, bytes: &[u8], dtype: WeightType, rows: LogitRows) -> Result<GpuLogits> {
        if !(1..=MOST_VOCABULARY).contains(&rows.vocabulary) {
            let reason = format!("is {}, must be 1 to {MOST_VOCABULARY}", rows.vocabulary);
            return Err(Error::InvalidParameter {
                field: "vocabulary",
                reason,
            });
        }
        let before = rows.count.saturating_sub(1) * rows.stride + rows.offset;
        let end = (before + rows.vocabulary) * dtype.bytes_per_weight();
        if rows.count > 0 && end > bytes.len() {
            let reason = format!("end at byte {end} of {}", bytes.len());
            return Err(Error::InvalidParameter {
                field: "rows",
                reason,
            });
        }
        Ok(GpuLogits {
            bytes: self.upload(bytes)?,
            dtype,
            rows,
        })
    }

    /// The entropy operation on each row; see [`crate::entropy`]. Waits for nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub fn summarize(&self, logits: &GpuLogits) -> Result<GpuSummaries> {
        let LogitRows {
            count, vocabulary, ..
        } = logits.rows;
        let parts = vocabulary.div_ceil(PART);
        let partials = self.room::<u32>(count * parts * PARTIAL_WORDS)?;
        let columns = self.room(count * SUMMARY_COLUMNS)?;
        let (partials, target) = (self.address(&partials), self.address(&columns));
        if count > 0 {
            self.launch_parts("summarize_parts", logits, &[partials])?;
            self.launch_rows("summarize_rows", logits, partials, target)?;
        }
        Ok(GpuSummaries { columns, count })
    }

    /// The token that each row's choice gives, as [`crate::sampling`] defines it without penalties and
    /// filters; `None` for a row that is no distribution. `summaries` are those of the same logits.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If there is not one summary and one choice for each row.
    pub fn pick(
        &self,
        logits: &GpuLogits,
        summaries: &GpuSummaries,
        choices: &[Choice],
    ) -> Result<Vec<Option<u32>>> {
        let LogitRows {
            count, vocabulary, ..
        } = logits.rows;
        assert_eq!(
            (count, count),
            (summaries.count, choices.len()),
            "a choice for each row"
        );
        let choices = self.upload(choices)?;
        let candidates = self.room::<Candidate>(count * vocabulary.div_ceil(PART))?;
        let ids = self.room::<u32>(count)?;
        if count > 0 {
            let (choices, candidates) = (self.address(&choices), self.address(&candidates));
            let summaries = self.address(&summaries.columns);
            self.launch_parts("pick_parts", logits, &[summaries, choices, candidates])?;
            self.launch_rows("pick_rows", logits, candidates, self.address(&ids))?;
        }
        let mut found = vec![0; count];
        self.read(&ids, &mut found)?;
        let none = u32::MAX;
        Ok(found
            .into_iter()
            .map(|id| (id != none).then_some(id))
            .collect())
    }

    /// A block for each part of each row. `rest`: the arguments behind those that tell the rows.
    fn launch_parts(&self, name: &str, logits: &GpuLogits, rest: &[Address]) -> Result<()> {
        let LogitRows {
            count,
            vocabulary,
            offset,
            stride,
        } = logits.rows;
        let (kind, width) = (logits.dtype.name(), logits.dtype.bytes_per_weight());
        let function = self.kernel(&format!("{name}_{kind}"))?;
        let parts = vocabulary.div_ceil(PART);
        let first = self.address(&logits.bytes) + (offset * width) as u64;
        let (stride, vocabulary, parts_of_row) = (stride as u64, vocabulary as u32, parts as u32);
        let mut launch = self.launch(function);
        launch.arg(&first).arg(&stride).arg(&vocabulary);
        launch.arg(&parts_of_row);
        for address in rest {
            launch.arg(address);
        }
        // SAFETY: the arguments are those of `SUMMARIZE_PARTS` and `PICK_PARTS`, in order. Block b reads
        // `vocabulary` logits of row b / parts, which lie in the buffer, as checked when it was made, and
        // writes element b of a buffer that has one for each block.
        unsafe { launch.launch(grid((count * parts, 1), THREADS)?) }.map_err(failed)?;
        Ok(())
    }

    /// A warp for each row, which joins its parts `from` into `to`.
    fn launch_rows(
        &self,
        name: &str,
        logits: &GpuLogits,
        from: Address,
        to: Address,
    ) -> Result<()> {
        let function = self.kernel(name)?;
        let parts = logits.rows.vocabulary.div_ceil(PART) as u32;
        let count = logits.rows.count as u64;
        let blocks = logits.rows.count.div_ceil(BLOCK_ROWS);
        let mut launch = self.launch(function);
        launch.arg(&from).arg(&parts).arg(&count).arg(&to);
        // SAFETY: the arguments are those of `summarize_rows` and `pick_rows`, in order. Each warp reads the
        // parts of its row, 32 at most, and writes what is its row's; warps beyond the rows return at once.
        unsafe { launch.launch(grid((blocks, 1), THREADS)?) }.map_err(failed)?;
        Ok(())
    }

    /// Brings summaries to the host.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read_summaries(&self, summaries: &GpuSummaries) -> Result<Vec<Summary>> {
        let mut columns = vec![0.0; summaries.count * SUMMARY_COLUMNS];
        self.read(&summaries.columns, &mut columns)?;
        let (rows, _) = columns.as_chunks();
        Ok(rows.iter().map(Summary::of_columns).collect())
    }
}
