//! `dssd heads split`: the shallow layers of a checkpoint, for draft nodes.

use anyhow::{Context as _, Result};
use clap::Args;
use dssd_common::{
    exit::{DEFAULT_EXITS, ExitHeads, placement},
    serve::open_model,
};
use serde_json::json;
use std::path::PathBuf;

/// Write a checkpoint with only the layers that drafts need
///
/// The folder has the fingerprint of the whole checkpoint, and its heads where there are some.
/// draft-svc serves it; verify-svc needs the whole one.
///
/// Example: dssd heads split --model pythia-410m --out pythia-410m-draft
#[derive(Args)]
pub(crate) struct SplitArgs {
    /// Hugging Face folder; the demo model if unset
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Trained heads, copied along; default: inside the model folder, if there
    #[arg(long, value_name = "DIR")]
    heads: Option<PathBuf>,
    /// Layers to keep; default: up to the last exit
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: SplitArgs) -> Result<bool> {
    let (checkpoint, _) = open_model(args.model.as_deref())?;
    let dir = checkpoint.dir().context("the model is not a folder")?;
    let beside = ExitHeads::exist(dir).then(|| dir.to_owned());
    let heads = args
        .heads
        .or(beside)
        .map(|dir| ExitHeads::open(&dir, &checkpoint))
        .transpose()?;
    let total = checkpoint.config().layers;
    let exits: Vec<usize> = match &heads {
        Some(heads) => heads.heads.iter().map(|head| head.layer).collect(),
        None => placement(total, DEFAULT_EXITS),
    };
    let deepest = exits.last().copied().unwrap_or(1);
    let layers = args.layers.unwrap_or(deepest);
    anyhow::ensure!(
        heads.is_none() || layers >= deepest,
        "--layers {layers} leaves out the head after layer {deepest}"
    );
    checkpoint.save_split(&args.out, layers)?;
    if let Some(heads) = &heads {
        heads.save(&args.out)?;
    }
    let fingerprint = checkpoint.fingerprint()?;
    if args.json {
        say_line!(
            "{}",
            json!({"layers": layers, "layers_of_model": total, "exits": exits, "checkpoint_fingerprint": fingerprint})
        );
    } else {
        say_line!(
            "{} holds {layers} of {total} layers, for exits after {exits:?}",
            args.out.display()
        );
    }
    Ok(true)
}
