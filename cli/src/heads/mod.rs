//! `dssd heads`: exit heads of a checkpoint, from training to the report.

mod calibrate;
mod inspect;
mod report;
mod split;
mod train;
mod windows;

use anyhow::Result;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use std::thread;

/// The commands around exit heads.
#[derive(Subcommand)]
pub(crate) enum Heads {
    Train(train::TrainArgs),
    Calibrate(calibrate::CalibrateArgs),
    Report(report::ReportArgs),
    Split(split::SplitArgs),
    Inspect(inspect::InspectArgs),
}

/// Runs the command.
pub(crate) async fn run(heads: Heads) -> Result<bool> {
    match heads {
        Heads::Train(args) => train::run(args),
        Heads::Calibrate(args) => calibrate::run(args),
        Heads::Report(args) => report::run(args).await,
        Heads::Split(args) => split::run(args),
        Heads::Inspect(args) => inspect::run(args),
    }
}

/// A progress bar over `length` pieces of work.
fn progress(length: usize, message: &'static str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {percent:>3}%  {eta} left  {msg}")?;
    let bar = ProgressBar::new(length as u64).with_style(style);
    Ok(bar.with_message(message))
}

/// As many threads as the machine runs at once.
fn available_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
