//! `dssd`: the one command a person types.

// Printing panics where whoever read it has left: `say_line!` does not.
#![warn(clippy::print_stdout)]

#[macro_use]
mod terminal;

mod bench;
mod chart;
mod check;
mod connect;
mod demo;
mod generate;
mod gpu_check;
mod heads;
mod oracle;
mod pair;
mod request;
mod summary;

use clap::{Parser, Subcommand};
use dssd::client;
use dssd_common::serve::{LogFormat, init_logging};
use std::process::ExitCode;

/// Lossless self-speculative decoding: a demo, a client, and the check that nothing is lost
///
/// Example: dssd demo
#[derive(Parser)]
#[command(name = "dssd", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Generate(generate::GenerateArgs),
    Check(check::CheckArgs),
    GpuCheck(gpu_check::Args),
    /// Train, calibrate and look at exit heads
    #[command(subcommand)]
    Heads(heads::Heads),
    /// Measure kernels, passes of the model, and the running pair
    #[command(subcommand)]
    Bench(bench::Bench),
}

#[tokio::main]
async fn main() -> ExitCode {
    // People get results and progress bars; whoever asks for log lines gets those too.
    if std::env::var_os("RUST_LOG").is_some() {
        init_logging(LogFormat::Text);
    }
    let outcome = match Arguments::parse().command {
        Command::Demo(args) => demo::run(args).await,
        Command::Generate(args) => generate::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::GpuCheck(args) => gpu_check::run(args).await,
        Command::Heads(command) => heads::run(command).await,
        Command::Bench(bench) => bench::run(bench).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(usage) => usage.exit(),
            Err(error) => {
                eprintln!("error: {}", in_words(&error));
                ExitCode::from(if is_usage(&error) { 2 } else { 1 })
            }
        },
    }
}

/// Whether a setting cannot work, as opposed to a failure.
fn is_usage(error: &anyhow::Error) -> bool {
    let device = |error: &dssd_common::Error| {
        matches!(
            error,
            dssd_common::Error::InvalidParameter {
                field: "--device",
                ..
            }
        )
    };
    let of_service = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<dssd_common::Error>()
            .is_some_and(device)
    };
    error.chain().any(of_service)
}

/// An error with its causes, but for those that the words before say already.
fn in_words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::in_words;
    use anyhow::{Context as _, anyhow};

    #[test]
    fn an_error_tells_each_cause_once() {
        let error = Err::<(), _>(anyhow!("gone"))
            .context("x: gone")
            .context("y");
        assert_eq!(in_words(&error.unwrap_err()), "y: x: gone");
    }
}
