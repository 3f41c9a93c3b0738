//! `dssd heads inspect`: what is in a heads folder.

use anyhow::Result;
use clap::Args;
use dssd_common::{
    exit::{ExitHead, ExitHeads, HeadKind},
    serve::open_model,
};
use serde::Serialize;
use std::path::PathBuf;

/// Print what is in a heads folder
///
/// The heads must have been made for the model.
///
/// Example: dssd heads inspect models/demo
#[derive(Args)]
pub(crate) struct InspectArgs {
    /// Folder with trained heads
    #[arg(value_name = "DIR")]
    heads: PathBuf,
    /// Hugging Face folder that they belong to; default: the heads' folder if it holds a model, else the demo model
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspection {
    checkpoint_fingerprint: String,
    heads: Vec<HeadLine>,
    calibration: Option<CalibrationLine>,
}

#[derive(Serialize)]
struct HeadLine {
    layer: usize,
    kind: &'static str,
    parameters: usize,
    bytes: usize,
    agreement: Option<f64>,
}

#[derive(Serialize)]
struct CalibrationLine {
    epsilons: Vec<f64>,
    rule: String,
    source: String,
    fingerprint: String,
}

pub(super) fn run(args: InspectArgs) -> Result<bool> {
    let beside = args.heads.join("config.json").exists();
    let model = args.model.or(beside.then(|| args.heads.clone()));
    let (checkpoint, _) = open_model(model.as_deref())?;
    let heads = ExitHeads::open(&args.heads, &checkpoint)?;
    let inspection = Inspection {
        checkpoint_fingerprint: heads.checkpoint_fingerprint.clone(),
        heads: heads.heads.iter().map(line).collect(),
        calibration: heads
            .calibration
            .as_ref()
            .map(|calibration| CalibrationLine {
                epsilons: calibration.heads.first().map_or(Vec::new(), |head| {
                    let thresholds = head.thresholds.iter();
                    thresholds.map(|threshold| threshold.epsilon).collect()
                }),
                rule: calibration.rule.clone(),
                source: calibration.source.clone(),
                fingerprint: calibration.checkpoint_fingerprint.clone(),
            }),
    };
    if args.json {
        say_line!("{}", serde_json::to_string(&inspection)?);
    } else {
        print(&inspection);
    }
    Ok(true)
}

fn line(head: &ExitHead) -> HeadLine {
    let elements = |shape: &[usize]| shape.iter().product::<usize>();
    let (kind, tensors) = match &head.kind {
        HeadKind::Linear { weight, bias } => ("linear", [Some(weight), bias.as_ref()]),
        HeadKind::Adapter { down, up } => ("adapter", [Some(down), Some(up)]),
    };
    let norm = [Some(&head.norm_weight), head.norm_bias.as_ref()];
    let tensors = || tensors.into_iter().chain(norm).flatten();
    HeadLine {
        layer: head.layer,
        kind,
        parameters: tensors().map(|tensor| elements(&tensor.shape)).sum(),
        bytes: tensors().map(|tensor| tensor.byte_len()).sum(),
        agreement: head.agreement,
    }
}

fn print(inspection: &Inspection) {
    say_line!("checkpoint  {}", inspection.checkpoint_fingerprint);
    for head in &inspection.heads {
        let agreement = head
            .agreement
            .map_or("not measured".into(), |share| format!("{share:.3}"));
        say_line!(
            "layer {:>3}   {:<8} {:>12} parameters   agreement {agreement}",
            head.layer,
            head.kind,
            head.parameters
        );
    }
    match &inspection.calibration {
        Some(calibration) => say_line!(
            "calibrated  by the {} rule on {}, for {:?}",
            calibration.rule,
            calibration.source,
            calibration.epsilons
        ),
        None => say_line!("not calibrated: run `dssd heads calibrate`"),
    }
}
