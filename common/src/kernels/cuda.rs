//! The CUDA kernels: one source, compiled at run time and launched on candle's own stream.
//!
//! NVRTC compiles it once for each process, for the oldest architecture that is supported; the
//! driver makes of that what its card runs. Contraction is off: arithmetic that must have the bits of
//! the CPU's is fused only where it says so.

use candle_core::{
    CudaDevice, Error, Result,
    cuda_backend::cudarc::{
        driver::CudaFunction,
        nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts},
    },
};
use std::sync::OnceLock;

/// In the order in which they need each other.
const SOURCE: &str = concat!(
    include_str!("../math/math.cuh"),
    include_str!("../entropy/logits.cuh"),
    include_str!("../entropy/entropy.cu"),
    include_str!("../sampling/pick.cu"),
);

/// Compute capability 8.0: every later card runs it, too.
const ARCHITECTURE: &str = "compute_80";

/// A kernel by its name.
///
/// # Errors
/// If NVRTC does not compile the source, or the driver does not take the result.
pub(crate) fn kernel(device: &CudaDevice, name: &str) -> Result<CudaFunction> {
    let found = device.get_or_load_custom_func(name, "dssd", ptx()?)?;
    Ok(found.into_cuda_function())
}

fn ptx() -> Result<&'static str> {
    static PTX: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compiled = PTX.get_or_init(|| {
        let options = CompileOptions {
            arch: Some(ARCHITECTURE),
            fmad: Some(false),
            ..CompileOptions::default()
        };
        let compiled = compile_ptx_with_opts(SOURCE, options);
        compiled
            .map(|ptx: Ptx| ptx.to_src())
            .map_err(|error| format!("the CUDA kernels do not compile: {error}"))
    });
    let compiled = compiled.as_deref();
    compiled.map_err(|error| Error::Msg(error.clone()))
}
