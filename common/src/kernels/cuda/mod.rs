//! The same kernels on NVIDIA GPUs, of compute capability 8.0 and newer: the same sums in the same order, so
//! the same bits as on the CPU.
//!
//! Neither a toolkit nor a driver is needed to build this: both libraries that it uses, the driver's
//! `libcuda` and the compiler NVRTC, are looked for at run time. NVRTC makes PTX of the source for the oldest
//! card that is supported, and the driver makes of that what its card runs. Contraction is off: what is
//! fused says so.
//!
//! All work of a [`Gpu`] is on one stream, in order. Nothing waits for it but a download.

mod attention;
mod graph;
mod host;
mod logits;
mod matrix;
mod measure;
mod norm;
mod product;
mod rope;
mod source;
mod training;

pub(crate) use attention::Attention;
pub(crate) use graph::Graphs;
pub use logits::{GpuLogits, GpuSummaries, LogitRows};
pub(crate) use logits::{GpuReadout, check_vocabulary};
pub(crate) use matrix::GpuMatrix;
pub use measure::{Effort, READ_ONLY, Timing, entropy_name};
pub(crate) use norm::GpuNorm;
pub(crate) use product::Finish;
pub(crate) use rope::{Places, Projected};
pub(crate) use source::define;
pub use training::{AdamWStep, GpuParameter, GpuRows, Product, Store};

use crate::{Error, Result};
use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr as _, DeviceRepr, DriverError,
        LaunchArgs, LaunchConfig, sys,
    },
    nvrtc::{self, CompileError, CompileOptions},
};
use source::SOURCE;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Compute capability 8.0: every later card runs it, too.
const ARCHITECTURE: &str = "compute_80";
const OLDEST: (i32, i32) = (8, 0);
/// Blocks of a launch in one direction, the second one's.
pub(crate) const MOST_BLOCKS_Y: usize = 65_535;

/// Threads of a block where each has one element.
const ELEMENT_THREADS: u32 = 256;

/// Floats on the device.
pub(crate) type Floats = CudaSlice<f32>;
/// An address on the device, as kernels take it.
pub(crate) type Address = sys::CUdeviceptr;

/// Every kernel that is launched.
const KERNELS: [&str; 37] = [
    "read_only",
    "product_f32_1",
    "product_f32_2",
    "product_f32_4",
    "product_f32_8",
    "product_f32_16",
    "product_f16_1",
    "product_f16_2",
    "product_f16_4",
    "product_f16_8",
    "product_f16_16",
    "product_bf16_1",
    "product_bf16_2",
    "product_bf16_4",
    "product_bf16_8",
    "product_bf16_16",
    "norm_rows",
    "rotate_and_append",
    "attend",
    "summarize_parts_f32",
    "summarize_parts_f16",
    "summarize_parts_bf16",
    "summarize_rows",
    "pick_parts_f32",
    "pick_parts_f16",
    "pick_parts_bf16",
    "pick_rows",
    "tiled_product_nt",
    "tiled_product_nn",
    "tiled_product_tn",
    "scale_rows",
    "sum_columns",
    "silu",
    "silu_back",
    "cross_entropy",
    "sum_squares",
    "adamw",
];

/// One GPU, with the kernels on it and one stream.
pub struct Gpu {
    card: Card,
    stream: Arc<CudaStream>,
    moves: AtomicU64,
    records: AtomicBool,
}

/// What all that run on one GPU share, for as long as the process lives.
#[derive(Clone)]
struct Card {
    context: Arc<CudaContext>,
    kernels: Arc<HashMap<&'static str, CudaFunction>>,
    name: String,
    /// Held by whoever records launches, or waits for all streams: the driver refuses both at once.
    recording: Arc<Mutex<()>>,
}

impl Card {
    fn open(ordinal: usize) -> Result<Self> {
        static CARDS: Mutex<BTreeMap<usize, Card>> = Mutex::new(BTreeMap::new());
        let mut cards = CARDS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(card) = cards.get(&ordinal) {
            return Ok(card.clone());
        }
        let card = Self::new(ordinal)?;
        cards.insert(ordinal, card.clone());
        Ok(card)
    }

    fn new(ordinal: usize) -> Result<Self> {
        // SAFETY: both only try to load the libraries, whose initialisers are NVIDIA's own.
        let (driver, compiler) =
            unsafe { (sys::is_culib_present(), nvrtc::sys::is_culib_present()) };
        if !driver {
            return Err(unusable("there is no NVIDIA driver (libcuda) here"));
        }
        if !compiler {
            return Err(unusable(
                "there is no NVRTC here: libnvrtc, of CUDA 12 or newer, must be where the system or LD_LIBRARY_PATH finds it",
            ));
        }
        let refused = |error: DriverError| {
            unusable(format!("GPU {ordinal} cannot be used: {}", words(&error)))
        };
        let context = CudaContext::new(ordinal).map_err(refused)?;
        let capability = context.compute_capability().map_err(refused)?;
        let name = context.name().map_err(refused)?;
        if capability < OLDEST {
            let (major, minor) = capability;
            return Err(unusable(format!(
                "{name} has compute capability {major}.{minor}, 8.0 is needed"
            )));
        }
        // SAFETY: everything of one stream happens in its order, and nothing is shared between two.
        unsafe { context.disable_event_tracking() };
        let module = context.load_module(ptx()?.into()).map_err(|error| {
            unusable(format!(
                "the driver does not take what NVRTC makes, which may be newer: {}",
                words(&error)
            ))
        })?;
        let load = |name: &'static str| Ok((name, module.load_function(name).map_err(failed)?));
        let kernels: Result<_> = KERNELS.into_iter().map(load).collect();
        Ok(Self {
            context,
            kernels: Arc::new(kernels?),
            name,
            recording: Arc::default(),
        })
    }
}

impl Gpu {
    /// The GPU of this number, 0 for the first one, with all kernels compiled, and a stream of its own.
    ///
    /// # Errors
    /// If there is no driver, no such GPU, no NVRTC, or the GPU is too old.
    pub fn open(ordinal: usize) -> Result<Self> {
        let card = Card::open(ordinal)?;
        let stream = card.context.new_stream().map_err(failed)?;
        Ok(Self {
            card,
            stream,
            moves: AtomicU64::new(0),
            records: AtomicBool::new(true),
        })
    }

    /// What its maker calls it.
    pub fn name(&self) -> &str {
        &self.card.name
    }

    /// Bytes that are free on it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn free_bytes(&self) -> Result<u64> {
        let _nobody_records = self.recording();
        // What was freed on a stream is free once the stream has come so far.
        self.card.context.synchronize().map_err(failed)?;
        let (free, _) = self.card.context.mem_get_info().map_err(failed)?;
        Ok(free as u64)
    }

    /// The right to record launches, or to wait for all streams of the card.
    fn recording(&self) -> MutexGuard<'_, ()> {
        let recording = self.card.recording.lock();
        recording.unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for `len` values, which hold anything.
    pub(crate) fn room<T: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<T>> {
        // SAFETY: all that is read here was written before, by an upload or a kernel.
        unsafe { self.stream.alloc(len.max(1)) }.map_err(failed)
    }

    /// A buffer with these values, which need not live on.
    pub(crate) fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>> {
        let mut buffer = self.room(values.len())?;
        self.write(values, &mut buffer)?;
        self.stream.synchronize().map_err(failed)?;
        Ok(buffer)
    }

    /// Writes to the start of `buffer`, which is at least as long. The values must live, unchanged, until
    /// something is read: where the CPU's memory is the device's too, nobody copies them before.
    pub(crate) fn write<T: DeviceRepr>(
        &self,
        values: &[T],
        buffer: &mut CudaSlice<T>,
    ) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let mut place = buffer.slice_mut(..values.len());
        self.stream.memcpy_htod(values, &mut place).map_err(failed)
    }

    /// Reads the start of `buffer`, once all before it is done.
    pub(crate) fn read<T: DeviceRepr>(
        &self,
        buffer: &CudaSlice<T>,
        values: &mut [T],
    ) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let place = buffer.slice(..values.len());
        self.stream.memcpy_dtoh(&place, values).map_err(failed)?;
        self.stream.synchronize().map_err(failed)
    }

    /// Waits for all before.
    pub(crate) fn wait(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed)
    }

    /// Copies a part of `buffer`, which is there after [`Gpu::wait`].
    ///
    /// # Safety
    /// The values live, unread, until then.
    pub(crate) unsafe fn copy_part<T: DeviceRepr>(
        &self,
        buffer: &CudaSlice<T>,
        begin: usize,
        values: &mut [T],
    ) -> Result<()> {
        let place = buffer.slice(begin..begin + values.len());
        self.stream.memcpy_dtoh(&place, values).map_err(failed)
    }

    /// Grows a buffer, whose content is lost then, to at least `len` values.
    pub(crate) fn reserve<T: DeviceRepr>(
        &self,
        buffer: &mut CudaSlice<T>,
        len: usize,
    ) -> Result<()> {
        if buffer.len() < len {
            *buffer = self.room(len.next_power_of_two())?;
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether passes are recorded as graphs: false once one could not be.
    pub fn records(&self) -> bool {
        self.records.load(Ordering::Relaxed)
    }

    /// How often a buffer has moved.
    fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Where a buffer begins.
    pub(crate) fn address<T>(&self, buffer: &CudaSlice<T>) -> Address {
        let (address, _guard) = buffer.device_ptr(&self.stream);
        address
    }

    fn kernel(&self, name: &str) -> Result<&CudaFunction> {
        let found = self.card.kernels.get(name);
        found.ok_or_else(|| failed(format!("there is no kernel {name}")))
    }

    fn launch<'a>(&'a self, function: &'a CudaFunction) -> LaunchArgs<'a> {
        self.stream.launch_builder(function)
    }
}

/// Blocks where each thread has one of so many elements.
fn element_blocks(elements: usize) -> (usize, usize) {
    (elements.div_ceil(ELEMENT_THREADS as usize), 1)
}

/// Blocks in two directions, of so many threads.
fn grid(blocks: (usize, usize), threads: u32) -> Result<LaunchConfig> {
    let (x, y) = blocks;
    let fits = i32::try_from(x).is_ok() && y <= MOST_BLOCKS_Y;
    if !fits {
        return Err(failed(format!(
            "{x} x {y} blocks are too many for one launch"
        )));
    }
    Ok(LaunchConfig {
        grid_dim: (x as u32, y as u32, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: 0,
    })
}

/// Compiled once for each process.
fn ptx() -> Result<&'static str> {
    static PTX: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compiled = PTX.get_or_init(|| {
        let options = CompileOptions {
            arch: Some(ARCHITECTURE),
            fmad: Some(false),
            ..CompileOptions::default()
        };
        let compiled = nvrtc::compile_ptx_with_opts(SOURCE, options);
        compiled
            .map(|ptx| ptx.to_src())
            .map_err(|error| compile_error(&error))
    });
    compiled
        .as_deref()
        .map_err(|reason| failed(format!("NVRTC: {reason}")))
}

fn compile_error(error: &CompileError) -> String {
    match error {
        CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
        other => format!("{other:?}"),
    }
}

/// What the driver calls an error, and what it says of it.
fn words(error: &DriverError) -> String {
    let name = error.error_name().ok();
    let says = error.error_string().ok();
    let texts = [name, says].into_iter().flatten();
    let texts: Vec<_> = texts.map(|text| text.to_string_lossy()).collect();
    match texts.is_empty() {
        true => format!("{error:?}"),
        false => texts.join(", "),
    }
}

fn unusable(reason: impl Into<String>) -> Error {
    Error::InvalidParameter {
        field: "--device",
        reason: reason.into(),
    }
}

/// A failure of the device.
fn failed(error: impl Into<Failure>) -> Error {
    Error::Device(error.into().0)
}

struct Failure(String);

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        Self(words(&error))
    }
}
