//! Exit heads and their calibration.

use crate::{checkpoint, folder, harness::Target, json};
use dssd_common::{
    bytes::SharedBytes,
    checkpoint::{Architecture, Checkpoint, TensorData, hex},
    entropy::Summary,
    exit::{
        AcceptanceTable, Calibration, ExitHead, ExitHeads, HeadCalibration, HeadKind, Threshold,
    },
    kernels::WeightType,
    model::Decoder,
    policy::{ExitView, Experience, PolicySpec, Setting},
};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const TARGET: Target = Target {
    name: "heads",
    share: 0.15,
};
const VOCABULARY: usize = 32;
const HIDDEN: usize = 16;
const SEAL: &str = "  \"sha256\": \"";

#[test]
fn exit_heads_and_calibration() {
    let checkpoint = folder::small(Architecture::GptNeoX, VOCABULARY);
    let saved = TempDir::new().unwrap();
    made(&checkpoint).save(saved.path()).unwrap();
    let seeds = folder::files(saved.path());
    let dir = TempDir::new().unwrap();
    let model = folder::settings(vec![1, 2]).load(&checkpoint).unwrap();
    let mut decoder = model.decoder;
    TARGET.run(|random| {
        let mut files = seeds.clone();
        let damaged = random.random_range(0..files.len());
        damage(random, &mut files[damaged]);
        folder::write(dir.path(), &files);
        match ExitHeads::open(dir.path(), &checkpoint) {
            Ok(heads) => {
                use_heads(&heads, &mut decoder);
                true
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                false
            }
        }
    });
}

fn damage(random: &mut ChaCha8Rng, (name, content): &mut (String, Vec<u8>)) {
    if name.ends_with(".safetensors") {
        *content = checkpoint::weights(random, content);
        return;
    }
    let value = serde_json::from_slice(&unsealed(content)).unwrap();
    let changed = json::mutated(random, &value);
    // Mostly with a seal that fits, so that what is inside gets read.
    *content = match random.random_bool(0.95) {
        true => sealed(&changed),
        false => changed,
    };
}

fn unsealed(content: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(content.to_vec()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with(SEAL));
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

/// The file with a line of its own hash.
fn sealed(content: &[u8]) -> Vec<u8> {
    let rest = content.strip_prefix(b"{").unwrap_or(content);
    let text = [b"{\n", rest].concat();
    let digest = hex(&Sha256::digest(&text));
    [b"{\n", format!("{SEAL}{digest}\",\n").as_bytes(), rest].concat()
}

/// Everything that a service does with heads and calibration.
fn use_heads(heads: &ExitHeads, decoder: &mut Decoder) {
    decoder.attach_heads(heads, None).unwrap();
    let mut logits = Vec::new();
    for head in &heads.heads {
        decoder
            .exit_logits(head.layer, &[0.5; HIDDEN], &mut logits)
            .unwrap();
        assert_eq!(logits.len(), VOCABULARY);
    }
    let Some(calibration) = &heads.calibration else {
        return;
    };
    assert_eq!(calibration.hash().len(), 64);
    let experience = Experience::new(heads.heads.len(), Some(calibration.clone()));
    let exits: Vec<usize> = heads.heads.iter().map(|head| head.layer).collect();
    for name in ["entropy@0.5", "entropy@0.9", "product:0:0.5", "auto", "del"] {
        let spec: PolicySpec = name.parse().unwrap();
        let setting = Setting {
            exits: &exits,
            max_draft_tokens: 4,
            calibration: Some(calibration),
            temperature: 0.8,
        };
        let Ok(Some(mut policy)) = spec.build(setting) else {
            continue;
        };
        policy.begin(&experience);
        for (head, entropy) in [(0, 0.0), (0, 1.0), (1, f32::MAX)] {
            let summary = Summary {
                entropy,
                ..summary()
            };
            policy.decide(ExitView {
                head: head.min(exits.len().saturating_sub(1)),
                deepest: head + 1 >= exits.len(),
                summary: &summary,
                drafted: 0,
                experience: &experience,
            });
        }
    }
}

fn summary() -> Summary {
    Summary {
        argmax: 1,
        max_probability: 0.5,
        margin_probability: 0.1,
        margin_logit: 1.0,
        log_sum_exp: 1.0,
        entropy: 1.0,
        valid: true,
    }
}

/// A linear head and an adapter, calibrated.
fn made(checkpoint: &Checkpoint) -> ExitHeads {
    let head = |layer, kind| ExitHead {
        layer,
        agreement: Some(0.5),
        norm_weight: tensor(&[HIDDEN]),
        norm_bias: Some(tensor(&[HIDDEN])),
        kind,
    };
    let linear = HeadKind::Linear {
        weight: tensor(&[VOCABULARY, HIDDEN]),
        bias: Some(tensor(&[VOCABULARY])),
    };
    let adapter = HeadKind::Adapter {
        down: tensor(&[4, HIDDEN]),
        up: tensor(&[HIDDEN, 4]),
    };
    let mut heads = ExitHeads {
        checkpoint_fingerprint: checkpoint.fingerprint().unwrap(),
        tokenizer_hash: None,
        held_out_share: 50,
        heads: vec![head(1, linear), head(2, adapter)],
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
        heads: [1, 2].map(calibrated).into(),
    });
    heads
}

fn tensor(shape: &[usize]) -> TensorData {
    let bytes = vec![0x3c; 2 * shape.iter().product::<usize>()];
    TensorData::new(
        "made",
        WeightType::Bf16,
        shape.to_vec(),
        SharedBytes::from_vec(bytes),
    )
    .unwrap()
}

fn calibrated(layer: usize) -> HeadCalibration {
    let threshold = |epsilon, nats| Threshold {
        epsilon,
        nats,
        realised: None,
    };
    let table = |temperature| AcceptanceTable {
        temperature,
        entropies: vec![0.5, 2.0, 3.0],
        probabilities: vec![0.9, 0.5, 0.25],
    };
    HeadCalibration {
        layer,
        thresholds: vec![threshold(0.6, Some(1.5)), threshold(0.99, None)],
        acceptance: vec![table(0.0), table(0.8)],
    }
}
