//! The launches of `entropy.cu` and `pick.cu`.

use super::{Address, Floats, Gpu, define, failed, grid};
use crate::{
    Error, Result,
    entropy::{SUMMARY_COLUMNS, Summary},
    kernels::WeightType,
    sampling::Choice,
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

/// Where rows of logits are.
pub(super) struct View {
    /// Of the first row.
    first: Address,
    dtype: WeightType,
    rows: LogitRows,
}

impl View {
    fn parts_of_row(&self) -> usize {
        self.rows.vocabulary.div_ceil(PART)
    }

    /// Of all rows.
    fn parts(&self) -> usize {
        self.rows.count * self.parts_of_row()
    }

    fn partial_words(&self) -> usize {
        self.parts() * PARTIAL_WORDS
    }
}

impl GpuLogits {
    pub(super) fn view(&self, gpu: &Gpu) -> View {
        let skipped = self.rows.offset * self.dtype.bytes_per_weight();
        View {
            first: gpu.address(&self.bytes) + skipped as u64,
            dtype: self.dtype,
            rows: self.rows,
        }
    }
}

/// Summaries of rows on the device.
pub struct GpuSummaries {
    columns: Floats,
    count: usize,
}

impl GpuSummaries {
    /// `[rows, SUMMARY_COLUMNS]`.
    pub(super) fn columns(&self) -> &Floats {
        &self.columns
    }
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

/// Where picks are made: one of each for a row, and a candidate for each of its parts.
struct Picks {
    columns: Address,
    choices: Address,
    candidates: Address,
    ids: Address,
}

/// Summaries and tokens of rows of logits, with the buffers for them.
pub(crate) struct GpuReadout {
    choices: CudaSlice<Choice>,
    /// The same on the host, until they are there.
    staged: Vec<Choice>,
    partials: CudaSlice<u32>,
    candidates: CudaSlice<Candidate>,
    /// Columns of all rows, then their ids: what the host gets in one copy.
    results: CudaSlice<u32>,
    found: Vec<u32>,
}

impl GpuReadout {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self> {
        Ok(Self {
            choices: gpu.room(0)?,
            staged: Vec::new(),
            partials: gpu.room(0)?,
            candidates: gpu.room(0)?,
            results: gpu.room(0)?,
            found: Vec::new(),
        })
    }

    /// Takes the choices of the next rows; a row without one gets any token.
    pub(crate) fn take(&mut self, gpu: &Gpu, choices: &[Option<Choice>]) -> Result<()> {
        self.staged.clear();
        let any = |choice: &Option<Choice>| choice.unwrap_or(Choice::GREEDY);
        self.staged.extend(choices.iter().map(any));
        gpu.reserve(&mut self.choices, choices.len())?;
        gpu.write(&self.staged, &mut self.choices)
    }

    /// Summaries and tokens of `[rows, vocabulary]` logits, one row for each choice taken. Waits for nothing.
    pub(crate) fn launch(&mut self, gpu: &Gpu, logits: &Floats, vocabulary: usize) -> Result<()> {
        let view = self.view(gpu, logits, vocabulary);
        self.launch_summaries(gpu, &view)?;
        self.launch_picks(gpu, &view)
    }

    fn view(&self, gpu: &Gpu, logits: &Floats, vocabulary: usize) -> View {
        let count = self.staged.len();
        assert!(logits.len() >= count * vocabulary, "short logits");
        View {
            first: gpu.address(logits),
            dtype: WeightType::F32,
            rows: LogitRows {
                count,
                vocabulary,
                offset: 0,
                stride: vocabulary,
            },
        }
    }

    pub(super) fn launch_summaries(&mut self, gpu: &Gpu, view: &View) -> Result<()> {
        gpu.reserve(&mut self.partials, view.partial_words())?;
        gpu.reserve(&mut self.results, view.rows.count * (SUMMARY_COLUMNS + 1))?;
        let columns = gpu.address(&self.results);
        gpu.launch_summaries(view, gpu.address(&self.partials), columns)
    }

    /// After the summaries of the same rows.
    pub(super) fn launch_picks(&mut self, gpu: &Gpu, view: &View) -> Result<()> {
        let count = view.rows.count;
        gpu.reserve(&mut self.candidates, view.parts())?;
        let columns = gpu.address(&self.results);
        let places = Picks {
            columns,
            choices: gpu.address(&self.choices),
            candidates: gpu.address(&self.candidates),
            ids: columns + (count * SUMMARY_COLUMNS * size_of::<f32>()) as u64,
        };
        gpu.launch_picks(view, &places)
    }

    /// What was found; a row that is no distribution has no token.
    pub(crate) fn read<'a>(
        &'a mut self,
        gpu: &Gpu,
        summaries: &mut Vec<Summary>,
    ) -> Result<impl Iterator<Item = Option<u32>> + use<'a>> {
        let count = self.staged.len();
        self.found.resize(count * (SUMMARY_COLUMNS + 1), 0);
        gpu.read(&self.results, &mut self.found)?;
        let (columns, ids) = self.found.split_at(count * SUMMARY_COLUMNS);
        let (rows, _) = columns.as_chunks();
        let summary = |row: &[u32; SUMMARY_COLUMNS]| Summary::of_columns(&row.map(f32::from_bits));
        summaries.extend(rows.iter().map(summary));
        Ok(ids.iter().copied().map(token))
    }
}

/// The token of an id on the device.
fn token(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

/// # Errors
/// If no row of logits may be so long.
pub(crate) fn check_vocabulary(vocabulary: usize) -> Result<()> {
    if (1..=MOST_VOCABULARY).contains(&vocabulary) {
        return Ok(());
    }
    let reason = format!("is {vocabulary}, must be 1 to {MOST_VOCABULARY} on a GPU");
    Err(Error::InvalidParameter {
        field: "vocabulary",
        reason,
    })
}

impl Gpu {
    /// Uploads logits, `bytes` of `dtype`, of which `rows` tells the rows.
    ///
    /// # Errors
    /// If the vocabulary is empty or above 262,144, the rows are not within the bytes, or the device fails.
    pub fn logits(&self, bytes: &[u8], dtype: WeightType, rows: LogitRows) -> Result<GpuLogits> {
        check_vocabulary(rows.vocabulary)?;
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
        self.summarize_view(&logits.view(self))
    }

    fn summarize_view(&self, view: &View) -> Result<GpuSummaries> {
        let count = view.rows.count;
        let partials = self.room::<u32>(view.partial_words())?;
        let columns = self.room(count * SUMMARY_COLUMNS)?;
        self.launch_summaries(view, self.address(&partials), self.address(&columns))?;
        Ok(GpuSummaries { columns, count })
    }

    /// The same on rows that are there already.
    pub(super) fn summarize_floats(
        &self,
        logits: &Floats,
        rows: LogitRows,
    ) -> Result<GpuSummaries> {
        check_vocabulary(rows.vocabulary)?;
        self.summarize_view(&View {
            first: self.address(logits),
            dtype: WeightType::F32,
            rows,
        })
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
        let view = logits.view(self);
        let count = view.rows.count;
        assert_eq!(
            (count, count),
            (summaries.count, choices.len()),
            "a choice for each row"
        );
        let choices = self.upload(choices)?;
        let candidates = self.room::<Candidate>(view.parts())?;
        let ids = self.room(count)?;
        let places = Picks {
            columns: self.address(&summaries.columns),
            choices: self.address(&choices),
            candidates: self.address(&candidates),
            ids: self.address(&ids),
        };
        self.launch_picks(&view, &places)?;
        let mut found = vec![0; count];
        self.read(&ids, &mut found)?;
        Ok(found.into_iter().map(token).collect())
    }

    /// `columns`: `[rows, SUMMARY_COLUMNS]`.
    fn launch_summaries(&self, view: &View, partials: Address, columns: Address) -> Result<()> {
        if view.rows.count == 0 {
            return Ok(());
        }
        self.launch_parts("summarize_parts", view, &[partials])?;
        self.launch_rows("summarize_rows", view, partials, columns)
    }

    fn launch_picks(&self, view: &View, places: &Picks) -> Result<()> {
        if view.rows.count == 0 {
            return Ok(());
        }
        let parts = [places.columns, places.choices, places.candidates];
        self.launch_parts("pick_parts", view, &parts)?;
        self.launch_rows("pick_rows", view, places.candidates, places.ids)
    }

    /// A block for each part of each row. `rest`: the arguments behind those that tell the rows.
    fn launch_parts(&self, name: &str, view: &View, rest: &[Address]) -> Result<()> {
        let LogitRows {
            vocabulary, stride, ..
        } = view.rows;
        let function = self.kernel(&format!("{name}_{}", view.dtype.name()))?;
        let (stride, vocabulary) = (stride as u64, vocabulary as u32);
        let parts_of_row = view.parts_of_row() as u32;
        let mut launch = self.launch(function);
        launch.arg(&view.first).arg(&stride).arg(&vocabulary);
        launch.arg(&parts_of_row);
        for address in rest {
            launch.arg(address);
        }
        // SAFETY: the arguments are those of `SUMMARIZE_PARTS` and `PICK_PARTS`, in order. Block b reads
        // `vocabulary` logits of row b / parts, which lie in the buffer, as checked when the view was made, and
        // writes element b of a buffer that has one for each block.
        unsafe { launch.launch(grid((view.parts(), 1), THREADS)?) }.map_err(failed)?;
        Ok(())
    }

    /// A warp for each row, which joins its parts `from` into `to`.
    fn launch_rows(&self, name: &str, view: &View, from: Address, to: Address) -> Result<()> {
        let function = self.kernel(name)?;
        let (parts, count) = (view.parts_of_row() as u32, view.rows.count as u64);
        let blocks = view.rows.count.div_ceil(BLOCK_ROWS);
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
