//! Builds the stand-ins of NVIDIA's libraries.

use std::{env, path::Path, process::Command};

/// Builds them into `folder`; false where there is no C++ compiler (`DSSD_CXX`, or else `c++`) and none is required
/// by `DSSD_CUDA_SOURCE_REQUIRED`.
pub(crate) fn build(folder: &Path) -> bool {
    if !cfg!(target_os = "linux") || !has_compiler() {
        let required = env::var_os("DSSD_CUDA_SOURCE_REQUIRED").is_some();
        assert!(!required, "no C++ compiler: set DSSD_CXX to one");
        eprintln!("not tested: GPUs, for want of Linux with a C++ compiler (DSSD_CXX)");
        return false;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../common/tests/cuda/stand-in");
    let output = Command::new(script).arg(folder).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    true
}

fn has_compiler() -> bool {
    let compiler = env::var("DSSD_CXX").unwrap_or_else(|_| "c++".to_owned());
    // It may be a command with arguments.
    let mut words = compiler.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("c++"));
    command.args(words).arg("--version").output().is_ok()
}
