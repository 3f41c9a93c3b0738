//! The one command a person types.

mod bench;

use clap::Parser;
use std::process::ExitCode;

/// Lossless self-speculative decoding: a demo, a client, checks and benches.
#[derive(Parser)]
#[command(name = "dssd", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Measures kernels, passes of the model, and the running pair.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Bench(bench) => bench::run(bench),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dssd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
