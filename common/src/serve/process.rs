//! A service as a process: settings, logs, signals, exit status.

use super::{Listeners, ServeArgs, cancelled_on_signal, init_logging, warn_unknown_variables};
use crate::Error;
use clap::{Arg, Parser};
use std::{fmt, process::ExitCode};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// What a service's `main` needs to know of its error type.
pub trait ServiceError: From<Error> + fmt::Display {
    /// Whether the one who started the process gave settings that cannot work.
    fn is_usage(&self) -> bool;
}

/// Reads the command line, and runs the service until SIGTERM or ctrl-c. The exit status is 2
/// for settings that cannot work, and 1 for any other failure.
pub async fn run_process<C, E, F>(
    service: impl FnOnce(C, Listeners, CancellationToken) -> F,
) -> ExitCode
where
    C: Parser + AsRef<ServeArgs>,
    E: ServiceError,
    F: Future<Output = Result<(), E>>,
{
    let config = C::parse();
    let command = C::command();
    init_logging(config.as_ref().log_format);
    warn_unknown_variables(command.get_arguments().filter_map(Arg::get_env));
    let outcome = async {
        let shutdown = cancelled_on_signal()?;
        let listeners = Listeners::bind(config.as_ref()).await?;
        service(config, listeners, shutdown).await
    };
    match outcome.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", command.get_name());
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

/// Loads a model away from the threads that carry messages.
///
/// # Errors
/// Those of `load`; and if it panics.
pub async fn load_blocking<T, E>(
    load: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    spawn_blocking(load).await.map_err(|error| Error::Service {
        what: "loading the model",
        reason: error.to_string(),
    })?
}
