//! `dssd heads`: exit heads of a checkpoint, from training to the report.

mod inspect;
mod split;
mod train;

use anyhow::Result;
use clap::Subcommand;

/// The commands around exit heads.
#[derive(Subcommand)]
pub(crate) enum Heads {
    Train(train::TrainArgs),
    Split(split::SplitArgs),
    Inspect(inspect::InspectArgs),
}

/// Runs the command.
pub(crate) fn run(heads: Heads) -> Result<bool> {
    match heads {
        Heads::Train(args) => train::run(args),
        Heads::Split(args) => split::run(args),
        Heads::Inspect(args) => inspect::run(args),
    }
}
