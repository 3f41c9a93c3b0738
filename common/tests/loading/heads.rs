//! Files of exit heads: written, read back, and refused beside another model.

use std::{fs, path::Path};

use dssd_common::{
    Result,
    bytes::SharedBytes,
    checkpoint::{Checkpoint, TensorData},
    exit::{
        AcceptanceTable, Calibration, ExitHead, ExitHeads, HeadCalibration, HeadKind, Realised,
        Threshold, placement,
    },
    kernels::WeightType,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::support::{copy, edit, read_json};

fn tensor(fill: u8, shape: &[usize]) -> TensorData {
    let bytes = vec![fill; 2 * shape.iter().product::<usize>()];
    TensorData::new(
        "made",
        WeightType::Bf16,
        shape.to_vec(),
        SharedBytes::from_vec(bytes),
    )
    .unwrap()
}

/// A linear head and an adapter for the small GPT-NeoX model, calibrated.
fn made(checkpoint: &Checkpoint) -> ExitHeads {
    let head = |layer, kind| ExitHead {
        layer,
        agreement: Some(0.5),
        norm_weight: tensor(1, &[64]),
        norm_bias: Some(tensor(2, &[64])),
        kind,
    };
    let linear = HeadKind::Linear {
        weight: tensor(3, &[512, 64]),
        bias: None,
    };
    let adapter = HeadKind::Adapter {
        down: tensor(4, &[8, 64]),
        up: tensor(5, &[64, 8]),
    };
    let mut heads = ExitHeads {
        checkpoint_fingerprint: checkpoint.fingerprint().unwrap(),
        tokenizer_hash: None,
        held_out_share: 50,
        heads: vec![head(1, linear), head(3, adapter)],
        calibration: None,
    };
    heads.calibration = Some(Calibration {
        format: 1,
        checkpoint_fingerprint: heads.checkpoint_fingerprint.clone(),
        tokenizer_hash: None,
        heads_hash: heads.hash(),
        text_hash: "00".into(),
        source: "a test".into(),
        rule: "paper".into(),
        temperatures: vec![0.0, 0.8],
        heads: [1, 3].map(calibrated).into(),
    });
    heads
}

fn calibrated(layer: usize) -> HeadCalibration {
    let table = |temperature| AcceptanceTable {
        temperature,
        entropies: vec![0.5, 2.0],
        probabilities: vec![0.9, 0.25],
    };
    HeadCalibration {
        layer,
        thresholds: vec![
            Threshold {
                epsilon: 0.6,
                nats: Some(1.5),
                realised: Some(Realised {
                    coverage: 0.5,
                    agreement: 0.625,
                    low: 0.5,
                    high: 0.75,
                }),
            },
            Threshold {
                epsilon: 0.99,
                nats: None,
                realised: None,
            },
        ],
        acceptance: vec![table(0.0), table(0.8)],
    }
}

/// A model folder with heads inside.
fn folder() -> (TempDir, Checkpoint) {
    let dir = copy("neox-pythia");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    made(&checkpoint).save(dir.path()).unwrap();
    (dir, checkpoint)
}

fn refusal(opened: Result<ExitHeads>) -> String {
    opened
        .expect_err("opened what it had to refuse")
        .to_string()
}

/// Writes a file as if it had been written so.
fn seal(path: &Path, mut value: serde_json::Value) {
    value.as_object_mut().unwrap().remove("sha256");
    let text = serde_json::to_string_pretty(&value).unwrap();
    let digest: String = Sha256::digest(&text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let sealed = text.replacen("{\n", &format!("{{\n  \"sha256\": \"{digest}\",\n"), 1);
    fs::write(path, sealed).unwrap();
}

fn change_sealed(path: &Path, changes: serde_json::Value) {
    edit(path, changes);
    seal(path, read_json(path));
}

#[test]
fn a_flipped_byte_is_refused_wherever_it_is() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for name in [
        "exit_heads.json",
        "exit_heads.safetensors",
        "calibration.json",
    ] {
        let (dir, checkpoint) = folder();
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        for _ in 0..40 {
            let mut flipped = whole.clone();
            let at = rng.random_range(0..whole.len());
            flipped[at] ^= 1 << rng.random_range(0..7);
            fs::write(&path, &flipped).unwrap();
            let error = refusal(ExitHeads::open(dir.path(), &checkpoint));
            assert!(
                ["exit_heads", "exit heads", "exits.", name]
                    .iter()
                    .any(|part| error.contains(part)),
                "{at}: {error}"
            );
        }
    }
}

#[test]
fn heads_are_read_as_written() {
    let (dir, checkpoint) = folder();
    assert!(ExitHeads::exist(dir.path()));
    let (before, after) = (
        made(&checkpoint),
        ExitHeads::open(dir.path(), &checkpoint).unwrap(),
    );
    assert_eq!(after.hash(), before.hash());
    assert_eq!(after.calibration, before.calibration);
    let layers: Vec<_> = after
        .heads
        .iter()
        .map(|head| (head.layer, head.agreement))
        .collect();
    assert_eq!(layers, [(1, Some(0.5)), (3, Some(0.5))]);
    let HeadKind::Linear { weight, bias: None } = &after.heads[0].kind else {
        panic!("{:?}", after.heads[0].kind)
    };
    assert_eq!(
        (weight.shape.as_slice(), weight.bytes.as_ref()[0]),
        (&[512, 64][..], 3)
    );
    let HeadKind::Adapter { down, up } = &after.heads[1].kind else {
        panic!("{:?}", after.heads[1].kind)
    };
    assert_eq!(
        (down.shape.as_slice(), up.bytes.as_ref()[0]),
        (&[8, 64][..], 5)
    );
}

#[test]
fn heads_of_another_model_are_refused_with_both_fingerprints() {
    let (dir, checkpoint) = folder();
    let elsewhere = copy("llama-gqa");
    let other = Checkpoint::open(elsewhere.path()).unwrap();
    let error = refusal(ExitHeads::open(dir.path(), &other));
    for checkpoint in [&checkpoint, &other] {
        assert!(
            error.contains(&checkpoint.fingerprint().unwrap()),
            "{error}"
        );
    }
}

#[test]
fn a_description_that_does_not_fit_is_refused() {
    let head = |layer: usize, kind: &str| json!({ "layer": layer, "kind": kind });
    let cases = [
        (json!({ "format": 2 }), "format 2"),
        (json!({ "colour": "red" }), "colour"),
        (json!({ "heads": [head(0, "linear")] }), "layer 0"),
        (json!({ "heads": [head(6, "linear")] }), "layer 6"),
        (
            json!({ "heads": [head(2, "linear")] }),
            "exits.2.linear.weight",
        ),
        (
            json!({ "heads": [head(1, "linear")] }),
            "belongs to no head",
        ),
        (
            json!({ "heads": [head(1, "linear"), head(1, "linear")] }),
            "from shallow to deep",
        ),
        (
            json!({ "heads": [head(1, "linear"), head(3, "adapter")] }),
            "rank",
        ),
        (json!({ "heads": [head(1, "square")] }), "square"),
    ];
    for (change, named) in cases {
        let (dir, checkpoint) = folder();
        change_sealed(&dir.path().join("exit_heads.json"), change);
        let error = refusal(ExitHeads::open(dir.path(), &checkpoint));
        assert!(error.contains(named), "`{named}` is not named in: {error}");
    }
}

#[test]
fn damaged_head_weights_are_refused() {
    let (dir, checkpoint) = folder();
    let path = dir.path().join("exit_heads.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = refusal(ExitHeads::open(dir.path(), &checkpoint));
    assert!(error.contains("exit_heads.safetensors"), "{error}");
    fs::write(&path, whole).unwrap();
    change_sealed(
        &dir.path().join("exit_heads.json"),
        json!({ "heads": [{ "layer": 1, "kind": "linear" }, { "layer": 3, "kind": "adapter", "rank": 9 }] }),
    );
    let error = refusal(ExitHeads::open(dir.path(), &checkpoint));
    assert!(
        error.contains("exits.3.down.weight") && error.contains("[9, 64]"),
        "{error}"
    );
}

#[test]
fn a_calibration_of_something_else_is_refused() {
    let with = |change: serde_json::Value| {
        let (dir, checkpoint) = folder();
        change_sealed(&dir.path().join("calibration.json"), change);
        refusal(ExitHeads::open(dir.path(), &checkpoint))
    };
    for field in ["checkpoint_fingerprint", "tokenizer_hash", "heads_hash"] {
        let error = with(json!({ field: "abc" }));
        assert!(
            error.contains("abc") && error.contains(&field.replace('_', " ")),
            "{error}"
        );
    }
    assert!(with(json!({ "temperatures": [0.8, 0.0] })).contains("`temperatures`"));
    assert!(with(json!({ "temperatures": [0.0] })).contains("`acceptance`"));
    assert!(with(json!({ "colour": 1 })).contains("colour"));
}

#[test]
fn tables_that_cannot_be_are_refused() {
    let with = |pointer: &str, value: serde_json::Value| {
        let (dir, checkpoint) = folder();
        let path = dir.path().join("calibration.json");
        let mut file = read_json(&path);
        *file.pointer_mut(pointer).unwrap() = value;
        seal(&path, file);
        refusal(ExitHeads::open(dir.path(), &checkpoint))
    };
    assert!(with("/heads/1/layer", json!(2)).contains("`heads`"));
    assert!(with("/heads/1/thresholds/0/nats", json!(-0.5)).contains("`nats`"));
    assert!(with("/heads/1/thresholds/0/epsilon", json!(1.0)).contains("`epsilon`"));
    assert!(with("/heads/0/acceptance/1/probabilities", json!([0.2, 0.3])).contains("never rise"));
    assert!(with("/heads/0/acceptance/1/probabilities", json!([1.2, 0.3])).contains("0 to 1"));
    assert!(with("/heads/0/acceptance/1/entropies", json!([1.0])).contains("equally many"));
}

#[test]
fn heads_may_live_outside_the_model() {
    let (_dir, checkpoint) = folder();
    let elsewhere = tempfile::tempdir().unwrap();
    let heads = ExitHeads {
        calibration: None,
        ..made(&checkpoint)
    };
    heads.save(elsewhere.path()).unwrap();
    let opened = ExitHeads::open(elsewhere.path(), &checkpoint).unwrap();
    assert!(opened.calibration.is_none());
    assert!(!ExitHeads::exist(Path::new("nowhere")));
}

#[test]
fn exits_are_placed_as_the_reference_scripts_place_them() {
    assert_eq!(placement(12, 4), [2, 4, 7, 9]);
    assert_eq!(placement(24, 4), [4, 9, 14, 19]);
    assert_eq!(placement(6, 4), [1, 2, 3, 4]);
    assert_eq!(placement(3, 4), [1, 2]);
    assert!(placement(1, 4).is_empty());
}
