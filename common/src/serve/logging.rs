//! Log lines and what the environment says.

use super::LogFormat;
use std::{collections::HashSet, ffi::OsStr, io::IsTerminal as _};
use tracing_subscriber::EnvFilter;

/// Every setting of ours starts like this.
const PREFIX: &str = "DSSD_";

/// Sends log lines to stderr: `info` and above, or what `RUST_LOG` says. Does nothing if
/// somebody has done so before.
pub fn init_logging(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    _ = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}

/// Warns of `DSSD_…` variables that mean nothing. It is no error: Kubernetes sets variables of
/// its own for every service (`DSSD_VERIFY_SERVICE_HOST`).
pub fn warn_unknown_variables<'a>(known: impl Iterator<Item = &'a OsStr>) {
    let known: HashSet<&OsStr> = known.collect();
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX));
        if ours && !known.contains(name.as_os_str()) {
            tracing::warn!(variable = %name.display(), "unknown variable, ignored");
        }
    }
}
