//! A GPU that is none: the driver's calls are taken by a library that runs the kernels' source on the CPU.

use dssd_common::kernels::Gpu;
use std::{
    env,
    path::PathBuf,
    process::Command,
    sync::{Arc, OnceLock},
};

/// The stand-in; none where there is no C++ compiler and none is required.
pub(crate) fn gpu() -> Option<&'static Arc<Gpu>> {
    static GPU: OnceLock<Option<Arc<Gpu>>> = OnceLock::new();
    GPU.get_or_init(open).as_ref()
}

fn open() -> Option<Arc<Gpu>> {
    let required = env::var_os("DSSD_CUDA_SOURCE_REQUIRED").is_some();
    if !cfg!(target_os = "linux") || !has_compiler() {
        assert!(!required, "no C++ compiler: set DSSD_CXX to one");
        eprintln!(
            "not tested: the source of the CUDA kernels, for want of Linux with a C++ compiler (DSSD_CXX)"
        );
        return None;
    }
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/stand-in");
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("stand-in-{}", std::process::id()));
    let output = Command::new(script).arg(&folder).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    for name in ["libcuda.so", "libnvrtc.so"] {
        // SAFETY: our own libraries, whose initialisers only fill tables. Once loaded, they are found by their
        // names, and are never unloaded.
        let library = unsafe { libloading::Library::new(folder.join(name)) }.unwrap();
        std::mem::forget(library);
    }
    std::fs::remove_dir_all(folder).unwrap();
    Some(Arc::new(Gpu::open(0).unwrap()))
}

fn has_compiler() -> bool {
    let compiler = env::var("DSSD_CXX").unwrap_or_else(|_| "c++".to_owned());
    // It may be a command with arguments.
    let mut words = compiler.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("c++"));
    command.args(words).arg("--version").output().is_ok()
}
