//! The entropy operation on a CUDA device: the two launches of `entropy.cu`.

use super::{SUMMARY_COLUMNS, op::Rows};
use crate::kernels::cuda::kernel;
use candle_core::{
    CudaDevice, CudaStorage, Result,
    backend::BackendStorage as _,
    bail,
    cuda_backend::{
        CudaStorageSlice, WrapErr as _,
        cudarc::driver::{CudaSlice, DeviceRepr, LaunchConfig, PushKernelArg as _},
    },
};

/// Threads of a block, `PART_THREADS` of the source.
const THREADS: u32 = 256;
/// Rows of a block of the second launch: one for each warp.
const BLOCK_ROWS: usize = 8;
/// Logits of one part of a row, `PART_LOGITS` of the source.
const PART: usize = 8192;
/// Parts of a row at most: a warp joins them.
const MOST_PARTS: usize = 32;
/// 4-byte words of a `Partial` of the source.
const PARTIAL_WORDS: usize = 5;

/// The summaries `[rows, 7]` of rows of logits, on their device. Waits for nothing.
///
/// # Errors
/// If the vocabulary is above 262,144, there are too many rows, the logits are of another type, or
/// the device fails.
pub(super) fn summarize(logits: &CudaStorage, rows: Rows) -> Result<CudaStorage> {
    if rows.vocabulary > MOST_PARTS * PART {
        let most = MOST_PARTS * PART;
        bail!(
            "row-summary: vocabulary {} is above {most}",
            rows.vocabulary
        );
    }
    let device = logits.device();
    if rows.count == 0 {
        // Nothing to launch, and no allocation may be empty.
        return Ok(CudaStorage::wrap_cuda_slice(
            device.clone_htod(&[0f32])?,
            device.clone(),
        ));
    }
    let partials = match &logits.slice {
        CudaStorageSlice::F32(x) => parts(device, "summarize_parts_f32", x, rows)?,
        CudaStorageSlice::F16(x) => parts(device, "summarize_parts_f16", x, rows)?,
        CudaStorageSlice::BF16(x) => parts(device, "summarize_parts_bf16", x, rows)?,
        _ => bail!("row-summary: logits must be f32, f16 or bf16"),
    };
    let summaries = join(device, &partials, rows)?;
    Ok(CudaStorage::wrap_cuda_slice(summaries, device.clone()))
}

/// The partials of all parts, row by row.
fn parts<T: DeviceRepr>(
    device: &CudaDevice,
    name: &str,
    logits: &CudaSlice<T>,
    rows: Rows,
) -> Result<CudaSlice<u32>> {
    let end = rows.offset + (rows.count - 1) * rows.stride + rows.vocabulary;
    if end > logits.len() {
        bail!(
            "row-summary: the rows end at {end}, the storage at {}",
            logits.len()
        );
    }
    let parts = rows.vocabulary.div_ceil(PART);
    let blocks = blocks(rows.count * parts)?;
    // SAFETY: the kernel writes every partial before anybody reads one.
    let mut partials = unsafe { device.alloc::<u32>(rows.count * parts * PARTIAL_WORDS)? };
    let function = kernel(device, name)?;
    let logits = logits.slice(rows.offset..);
    let (stride, vocabulary, parts) = (rows.stride as u64, rows.vocabulary as u32, parts as u32);
    let stream = device.cuda_stream();
    let mut launch = stream.launch_builder(&function);
    launch.arg(&logits).arg(&stride).arg(&vocabulary);
    launch.arg(&parts).arg(&mut partials);
    // SAFETY: the arguments are those of `SUMMARIZE_PARTS`, in order. Block b reads `vocabulary`
    // logits from row b / parts on, which lie in the storage, as checked above, and writes the
    // words of partial b alone.
    unsafe { launch.launch(config(blocks)) }.w()?;
    Ok(partials)
}

/// The rows' summaries out of their partials.
fn join(device: &CudaDevice, partials: &CudaSlice<u32>, rows: Rows) -> Result<CudaSlice<f32>> {
    // SAFETY: the kernel writes every column of every row.
    let mut summaries = unsafe { device.alloc::<f32>(rows.count * SUMMARY_COLUMNS)? };
    let function = kernel(device, "summarize_rows")?;
    let blocks = blocks(rows.count.div_ceil(BLOCK_ROWS))?;
    let (parts, count) = (rows.vocabulary.div_ceil(PART) as u32, rows.count as u64);
    let stream = device.cuda_stream();
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(partials)
        .arg(&parts)
        .arg(&count)
        .arg(&mut summaries);
    // SAFETY: the arguments are those of `summarize_rows`, in order. Each warp reads the at most 32
    // partials of its row and writes its 7 columns; warps beyond the rows return at once.
    unsafe { launch.launch(config(blocks)) }.w()?;
    Ok(summaries)
}

fn blocks(count: usize) -> Result<u32> {
    match i32::try_from(count) {
        Ok(blocks) => Ok(blocks.unsigned_abs()),
        Err(_) => bail!("row-summary: too many rows for one launch"),
    }
}

fn config(blocks: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    }
}
