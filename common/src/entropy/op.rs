//! The entropy operation as a candle operation.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, bail};

use super::{Summary, summarize_rows};
use crate::kernels::{Isa, pool::Pool, simd::Weight};

/// Columns of [`row_summary`], in the order of the fields of [`Summary`].
pub const SUMMARY_COLUMNS: usize = 7;

/// Summarises each row of `logits` `[rows, vocabulary]` (f32, f16 or bf16; elements of a row must
/// be adjacent, rows may have any stride) into `[rows, 7]` f32: the fields of [`Summary`] in order,
/// `valid` as 1 or 0. Ids are exact up to 2^24.
///
/// # Errors
/// If the type, rank, layout or device is another, or the vocabulary is empty or above 2^24.
pub fn row_summary(logits: &Tensor) -> candle_core::Result<Tensor> {
    logits.apply_op1_no_bwd(&RowSummary)
}

struct RowSummary;

impl CustomOp1 for RowSummary {
    fn name(&self) -> &'static str {
        "row-summary"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let rows = Rows::of(layout)?;
        let summaries = match storage {
            CpuStorage::F32(x) => summarize(x, rows),
            CpuStorage::F16(x) => summarize(x, rows),
            CpuStorage::BF16(x) => summarize(x, rows),
            _ => bail!("row-summary: logits must be f32, f16 or bf16"),
        };
        let values = summaries.iter().flat_map(columns).collect();
        Ok((CpuStorage::F32(values), rows.shape()))
    }
}

/// Where rows of logits lie in a storage, in logits.
#[derive(Clone, Copy, Debug)]
struct Rows {
    count: usize,
    vocabulary: usize,
    /// Of the first row.
    offset: usize,
    /// From one row's beginning to the next one's.
    stride: usize,
}

impl Rows {
    fn of(layout: &Layout) -> candle_core::Result<Self> {
        let (count, vocabulary) = layout.shape().dims2()?;
        if vocabulary == 0 || vocabulary > 1 << 24 {
            bail!("row-summary: vocabulary {vocabulary} is not in 1..=2^24");
        }
        let (stride, step) = (layout.stride()[0], layout.stride()[1]);
        if step != 1 && vocabulary > 1 {
            bail!("row-summary: the logits of a row must be adjacent, their stride is {step}");
        }
        Ok(Self {
            count,
            vocabulary,
            offset: layout.start_offset(),
            stride,
        })
    }

    fn shape(self) -> Shape {
        (self.count, SUMMARY_COLUMNS).into()
    }
}

fn summarize<W: Weight>(data: &[W], rows: Rows) -> Vec<Summary> {
    let row = |r| &data[rows.offset + r * rows.stride..][..rows.vocabulary];
    let rows: Vec<&[W]> = (0..rows.count).map(row).collect();
    summarize_rows(&rows, Isa::detect(), &Pool::new(1))
}

fn columns(summary: &Summary) -> [f32; SUMMARY_COLUMNS] {
    let Summary {
        argmax,
        max_probability,
        margin_probability,
        margin_logit,
        ..
    } = *summary;
    [
        argmax as f32,
        max_probability,
        margin_probability,
        margin_logit,
        summary.log_sum_exp,
        summary.entropy,
        f32::from(u8::from(summary.valid)),
    ]
}

impl Summary {
    /// Out of the columns of a row.
    pub(crate) fn of_columns(columns: &[f32; SUMMARY_COLUMNS]) -> Self {
        let [
            argmax,
            max_probability,
            margin_probability,
            margin_logit,
            log_sum_exp,
            entropy,
            valid,
        ] = *columns;
        Self {
            argmax: argmax as u32,
            max_probability,
            margin_probability,
            margin_logit,
            log_sum_exp,
            entropy,
            valid: valid == 1.0,
        }
    }
}
