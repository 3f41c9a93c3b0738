//! A service as a process: settings, logs, signals, exit status.

use super::{
    Drain, Listeners, ServeArgs, Traces, cancelled_on_signal, init_logging, warn_unknown_variables,
};
use crate::Error;
use clap::{Arg, Parser};
use std::{fmt, process::ExitCode, sync::mpsc, thread, time::Duration};
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
        let args = config.as_ref();
        let shutdown = cancelled_on_signal()?;
        exit_in_the_end(&shutdown, args.drain())?;
        let traces = Traces::start(command.get_name())?;
        let listeners = Listeners::bind(args).await?;
        let served = service(config, listeners, shutdown).await;
        if let Some(traces) = traces {
            traces.end().await;
        }
        served
    };
    match outcome.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", command.get_name());
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

/// What an orderly end may take beyond its stated times.
const HARD_STOP_SLACK: Duration = Duration::from_secs(10);

/// Ends the process, with status 1, if it is still there when an orderly end must be over. That
/// needs a thread: the runtime may be what hangs.
fn exit_in_the_end(shutdown: &CancellationToken, drain: Drain) -> Result<(), Error> {
    let (ending, told) = mpsc::channel();
    let watch = move || {
        if told.recv().is_err() {
            return;
        }
        let limit = drain.delay.saturating_add(drain.timeout);
        let limit = limit.saturating_add(HARD_STOP_SLACK);
        // Nothing is ever sent here: this is a sleep.
        let (_sender, nothing) = mpsc::channel::<()>();
        _ = nothing.recv_timeout(limit);
        tracing::error!(?limit, "the process does not end by itself: it is stopped");
        std::process::exit(1);
    };
    let thread = thread::Builder::new().name("hard-stop".to_owned());
    thread.spawn(watch).map_err(|error| Error::Service {
        what: "the thread of the hard stop",
        reason: error.to_string(),
    })?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        _ = ending.send(());
    });
    Ok(())
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
