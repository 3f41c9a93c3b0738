//! Launches that are recorded once and replayed as one: a pass is hundreds of them, and each by itself costs
//! the CPU more than a small model's weights take to stream.

use super::{Gpu, failed};
use crate::Result;
use cudarc::driver::{CudaGraph, sys};
use std::{collections::HashMap, hash::Hash, sync::atomic::Ordering};

/// Recordings that are kept; with more, all are made anew. Of four bands and their heads, those of all rows.
const MOST: usize = 256;
const MODE: sys::CUstreamCaptureMode =
    sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

/// Recorded launches by what decides every one of them and its arguments, but for the buffers' places.
pub(crate) struct Graphs<K> {
    known: HashMap<K, Known>,
    /// [`Gpu::moves`] when the first of them was seen: addresses are part of a recording.
    moves: u64,
}

enum Known {
    /// Launched once; its buffers are long enough now.
    Seen,
    Recorded(Recording),
}

pub(super) struct Recording(CudaGraph);

// SAFETY: a graph may be used from any thread, by one at a time. It is launched through `&mut Graphs` only.
unsafe impl Send for Recording {}

impl Recording {
    pub(super) fn replay(&self) -> Result<()> {
        self.0.launch().map_err(failed)
    }
}

impl<K: Eq + Hash> Graphs<K> {
    pub(crate) fn new() -> Self {
        Self {
            known: HashMap::new(),
            moves: 0,
        }
    }

    /// Forgets what is recorded: the launches of some key have changed.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }

    /// Runs what `launches` launches, which must be the same for each call with this `key`: the first time
    /// directly, the second time while it is recorded, and from then on as a recording.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn run(
        &mut self,
        gpu: &Gpu,
        key: K,
        mut launches: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.moves != gpu.moves() || self.known.len() > MOST {
            self.known.clear();
            self.moves = gpu.moves();
        }
        match self.known.get(&key) {
            Some(Known::Recorded(recording)) => recording.replay(),
            Some(Known::Seen) if gpu.records() => match record(gpu, &mut launches) {
                Ok(recording) => {
                    recording.replay()?;
                    self.known.insert(key, Known::Recorded(recording));
                    Ok(())
                }
                Err(error) => {
                    tracing::warn!(%error, "launches cannot be recorded as a graph: each will be launched by itself");
                    gpu.records.store(false, Ordering::Relaxed);
                    launches()
                }
            },
            Some(Known::Seen) => launches(),
            None => {
                launches()?;
                self.known.insert(key, Known::Seen);
                Ok(())
            }
        }
    }
}

/// Records what `launches` launches, which allocates nothing.
pub(super) fn record(gpu: &Gpu, launches: impl FnOnce() -> Result<()>) -> Result<Recording> {
    let _alone = gpu.recording();
    gpu.stream.begin_capture(MODE).map_err(failed)?;
    // The capture must end whatever came of it, or nothing runs on the stream any more.
    let launched = launches();
    let graph = gpu.stream.end_capture(FLAGS).map_err(failed);
    launched?;
    let graph = graph?.ok_or_else(|| failed("nothing was recorded".to_owned()))?;
    Ok(Recording(graph))
}
