//! The process: settings, logs, signals; everything else is in the library.

use clap::{Arg, CommandFactory as _, Parser as _};
use draft_svc::{Config, Error};
use dssd_common::serve;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    serve::init_logging(config.log_format);
    serve::warn_unknown_variables(Config::command().get_arguments().filter_map(Arg::get_env));
    match start(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("draft-svc: {error}");
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

async fn start(config: Config) -> Result<(), Error> {
    let shutdown = serve::cancelled_on_signal()?;
    let listener = serve::listen(config.listen).await?;
    draft_svc::run(config, listener, shutdown).await
}
