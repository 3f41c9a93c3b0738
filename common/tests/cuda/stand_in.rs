//! A GPU that is none: the driver's calls are taken by a library that runs the kernels' source on the CPU.

#[path = "build.rs"]
mod build;

use dssd_common::kernels::Gpu;
use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

/// The stand-in, built once for all tests; none where it cannot be built.
pub(crate) fn gpu() -> Option<&'static Arc<Gpu>> {
    static GPU: OnceLock<Option<Arc<Gpu>>> = OnceLock::new();
    GPU.get_or_init(open).as_ref()
}

fn open() -> Option<Arc<Gpu>> {
    let name = format!("stand-in-{}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !build::build(&folder) {
        return None;
    }
    for name in ["libcuda.so", "libnvrtc.so"] {
        // SAFETY: our own libraries, whose initialisers only fill tables. Once loaded, they are found by their
        // names, and are never unloaded.
        let library = unsafe { libloading::Library::new(folder.join(name)) }.unwrap();
        std::mem::forget(library);
    }
    std::fs::remove_dir_all(folder).unwrap();
    Some(Arc::new(Gpu::open(0).unwrap()))
}
