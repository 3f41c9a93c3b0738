use super::*;
use crate::{Error, backbone::Machine};
use candle_core::{Device, Tensor, Var};
use dssd_common::{
    checkpoint::Checkpoint,
    entropy::summarize_exactly,
    exit::ExitHeads,
    kernels::{Kernels, WeightType},
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

fn checkpoint() -> Checkpoint {
    let golden = "../common/tests/golden/neox-pythia";
    Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(golden)).unwrap()
}

fn random_rows(rows: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..rows * width)
        .map(|_| random.random_range(-3.0..3.0))
        .collect()
}

/// Σ over rows of KL(teacher ‖ head) in f64, by the definition Σ p·ln(p/q).
fn divergence(teacher: &[f32], logits: &[f32], vocabulary: usize) -> f64 {
    let ln = |x: f64| dssd_common::math::ln(x);
    let normalised = |row: &[f32]| {
        let shift = f64::from(summarize_exactly(row).log_sum_exp);
        let exact: Vec<f64> = row
            .iter()
            .map(|&x| dssd_common::math::exp(f64::from(x) - shift))
            .collect();
        let sum: f64 = exact.iter().sum();
        exact
            .into_iter()
            .map(move |p| p / sum)
            .collect::<Vec<f64>>()
    };
    let rows = teacher.chunks(vocabulary).zip(logits.chunks(vocabulary));
    rows.map(|(teacher, logits)| {
        let (p, q) = (normalised(teacher), normalised(logits));
        p.iter().zip(&q).map(|(p, q)| p * ln(p / q)).sum::<f64>()
    })
    .sum()
}

/// What the kernels make of teacher logits and head logits: the summed KL, and its gradient.
fn kernel_loss(
    kernels: &Kernels,
    teacher: &[f32],
    logits: &[f32],
    vocabulary: usize,
) -> (f64, Vec<f32>) {
    let mut probabilities = teacher.to_vec();
    let (mut of_teacher, mut of_head) = (Vec::new(), Vec::new());
    kernels.summarize(teacher, vocabulary, &mut of_teacher);
    kernels.summarize(logits, vocabulary, &mut of_head);
    let lse = |rows: &[dssd_common::entropy::Summary]| -> Vec<f32> {
        rows.iter().map(|row| row.log_sum_exp).collect()
    };
    kernels.probabilities(&mut probabilities, &lse(&of_teacher));
    let mut gradient = logits.to_vec();
    let mut cross = vec![0.0; of_head.len()];
    kernels.cross_entropy(&probabilities, &mut gradient, &lse(&of_head), &mut cross);
    let both = cross.iter().zip(&of_teacher);
    let loss = both
        .map(|(cross, row)| f64::from(*cross) - f64::from(row.entropy))
        .sum();
    (loss, gradient)
}

#[test]
fn the_loss_is_the_divergence_and_its_gradient_is_the_closed_form() {
    let kernels = Kernels::new(2);
    for vocabulary in [2, 17, 4096] {
        let (teacher, logits) = (random_rows(5, vocabulary, 1), random_rows(5, vocabulary, 2));
        let (loss, gradient) = kernel_loss(&kernels, &teacher, &logits, vocabulary);
        let exact = divergence(&teacher, &logits, vocabulary);
        assert!((loss - exact).abs() < 1e-4 * exact, "{loss} {exact}");
        for row in 0..5 {
            let part = row * vocabulary..(row + 1) * vocabulary;
            let q = |row: &[f32], id: usize| {
                let shift = summarize_exactly(row).log_sum_exp;
                dssd_common::math::exp(f64::from(row[id]) - f64::from(shift))
            };
            for id in 0..vocabulary {
                let exact = q(&logits[part.clone()], id) - q(&teacher[part.clone()], id);
                let found = f64::from(gradient[part.start + id]);
                assert!((found - exact).abs() < 1e-6, "{found} {exact}");
            }
        }
    }
    let same = random_rows(3, 100, 3);
    let (loss, _) = kernel_loss(&kernels, &same, &same, 100);
    assert!(
        loss.abs() < 1e-5,
        "a head that says the same is not far: {loss}"
    );
}

#[test]
fn gradients_of_both_kinds_are_those_of_finite_differences() {
    let checkpoint = checkpoint();
    let kernels = Kernels::new(1);
    let origin = Origin::read(&checkpoint, &Device::Cpu).unwrap();
    let (hidden, vocabulary) = (checkpoint.config().hidden, checkpoint.config().vocabulary);
    let rows = 6;
    let states =
        Tensor::from_vec(random_rows(rows, hidden, 4), (rows, hidden), &Device::Cpu).unwrap();
    let teacher = random_rows(rows, vocabulary, 5);
    for kind in [Kind::Linear, Kind::Adapter { rank: 8 }] {
        let mut random = ChaCha8Rng::seed_from_u64(6);
        let head = TrainableHead::new(1, kind, Start::Model, &origin, &mut random).unwrap();
        if let Some((_, up)) = head
            .parameters()
            .iter()
            .find(|(name, _)| *name == "up.weight")
        {
            // At zero the map would have no gradient of its own.
            up.set(
                &Tensor::from_vec(random_rows(hidden, 8, 7), (hidden, 8), &Device::Cpu)
                    .unwrap()
                    .affine(0.05, 0.0)
                    .unwrap(),
            )
            .unwrap();
        }
        let loss = || {
            let logits = head.logits(&states).unwrap().flatten_all().unwrap();
            divergence(&teacher, &logits.to_vec1::<f32>().unwrap(), vocabulary)
        };
        let logits = head.logits(&states).unwrap();
        let flat = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (_, gradient) = kernel_loss(&kernels, &teacher, &flat, vocabulary);
        let gradient = Tensor::from_vec(gradient, (rows, vocabulary), &Device::Cpu).unwrap();
        let gradients = head.gradients(&logits, &gradient).unwrap();
        for ((name, var), gradient) in head.parameters().iter().zip(&gradients) {
            let gradient = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let largest = gradient.iter().fold(0f32, |most, x| most.max(x.abs()));
            for at in [0, gradient.len() / 3, gradient.len() - 1] {
                let slope = slope(var, at, &loss);
                let error = (slope - f64::from(gradient[at])).abs();
                assert!(
                    error < 0.01 * f64::from(largest) + 1e-4,
                    "{kind:?} {name}[{at}]: {} {slope}",
                    gradient[at]
                );
            }
        }
    }
}

/// The central difference of `loss` at one number of a parameter.
fn slope(var: &Var, at: usize, loss: &impl Fn() -> f64) -> f64 {
    const STEP: f32 = 1e-2;
    let values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let shifted = |by: f32| {
        let mut values = values.clone();
        values[at] += by;
        var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap())
            .unwrap();
        loss()
    };
    let (up, down) = (shifted(STEP), shifted(-STEP));
    shifted(0.0);
    (up - down) / (2.0 * f64::from(STEP))
}

#[test]
fn the_first_step_of_the_optimizer_is_its_closed_form() {
    // At the first step both corrected moments are the gradient's own: θ(1 − lr·wd) − lr·sign(g).
    let var = Var::from_vec(vec![1.0f32, -2.0, 0.5], 3, &Device::Cpu).unwrap();
    let parameters = [("x", var.clone())];
    let mut optimizer = AdamW::new(&parameters, 0.1).unwrap();
    let gradient = Tensor::from_vec(vec![0.3f32, -0.2, 0.0], 3, &Device::Cpu).unwrap();
    optimizer.step(&parameters, &[gradient], 0.01).unwrap();
    let moved = var.to_vec1::<f32>().unwrap();
    for (moved, expected) in moved.iter().zip([0.999 - 0.01, -1.998 + 0.01, 0.4995]) {
        assert!((moved - expected).abs() < 1e-5, "{moved} {expected}");
    }
}

#[test]
fn the_learning_rate_rises_and_falls_to_a_tenth() {
    assert!(scheduled(1.0, 0.0) < 0.05);
    assert!((scheduled(1.0, 0.02) - 1.0).abs() < 1e-9);
    assert!((scheduled(1.0, 0.51) - 0.55).abs() < 1e-9);
    assert!((scheduled(1.0, 1.0) - 0.1).abs() < 1e-9);
}

/// A folder with text of a tiny language: runs of counting, so that there is something to learn.
fn material(dir: &TempDir) -> Material {
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let mut text = String::new();
    for _ in 0..400 {
        let start = random.random_range(1..400u32);
        let ids: Vec<u32> = (start..start + 32).collect();
        writeln!(text, "{{\"token_ids\": {ids:?}}}").unwrap();
    }
    let path = dir.path().join("text.jsonl");
    fs::write(&path, text).unwrap();
    Material {
        checkpoint: Arc::new(checkpoint()),
        tokenizer: None,
        text: vec![path],
        held_out: None,
        out: dir.path().join("heads"),
        machine: Machine::cpu(2),
    }
}

fn settings(material: &Material) -> TrainSettings {
    let config = material.checkpoint.config();
    TrainSettings {
        window: 32,
        step_tokens: 256,
        tokens: 256 * 40,
        held_out_tokens: 256,
        patience: 1000,
        measure_seconds: 0.0,
        ..Recipe::Default.settings(vec![1, 2], config, WeightType::F32)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn training_brings_heads_nearer_and_a_killed_one_ends_where_an_unbroken_one_does() {
    let dir = TempDir::new().unwrap();
    let mut material = material(&dir);
    let settings = settings(&material);
    let killed: PathBuf = dir.path().join("killed");
    let mut measured = 0;
    let outcome = train(&material, &settings, false, &mut |event| {
        if let Event::Measured(_) = event {
            measured += 1;
            if measured == 17 {
                copy(&dir.path().join("heads"), &killed);
            }
        }
    })
    .unwrap();
    for (first, last) in outcome.first.iter().zip(&outcome.last) {
        assert!(last.kl < 0.8 * first.kl, "{first:?} {last:?}");
        assert!(last.agreement > first.agreement, "{first:?} {last:?}");
    }
    let unbroken = ExitHeads::open(&material.out, &material.checkpoint).unwrap();
    assert_eq!(unbroken.heads[0].agreement, Some(outcome.last[0].agreement));
    let files: Vec<_> = fs::read_dir(&material.out)
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(files.len(), 2, "no state is left behind: {files:?}");

    material.out = killed;
    train(&material, &settings, true, &mut |_| ()).unwrap();
    let resumed = ExitHeads::open(&material.out, &material.checkpoint).unwrap();
    assert_eq!(resumed.hash(), unbroken.hash());
}

#[test]
fn another_training_is_not_resumed_and_heads_are_not_overwritten() {
    let dir = TempDir::new().unwrap();
    let material = material(&dir);
    let settings = settings(&material);
    let refused = |settings: &TrainSettings, resume| {
        train(&material, settings, resume, &mut |_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&settings, true).contains("no interrupted training"));
    let other = TrainSettings {
        learning_rate: 5e-4,
        ..settings.clone()
    };
    let started = dir.path().join("started");
    train(&material, &settings, false, &mut |event| {
        if let Event::Began(_) = event {
            copy(&material.out, &started);
        }
    })
    .unwrap();
    assert!(refused(&settings, false).contains("holds trained heads already"));
    fs::remove_dir_all(&material.out).unwrap();
    copy(&started, &material.out);
    assert!(refused(&settings, false).contains("--resume"));
    let error = refused(&other, true);
    assert!(
        error.contains("learning_rate") && error.contains("0.0005"),
        "{error}"
    );
}

#[test]
fn settings_out_of_range_are_named() {
    let dir = TempDir::new().unwrap();
    let material = material(&dir);
    let good = settings(&material);
    let wrong = [
        (
            "layers",
            TrainSettings {
                layers: vec![2, 2],
                ..good.clone()
            },
        ),
        (
            "layers",
            TrainSettings {
                layers: vec![99],
                ..good.clone()
            },
        ),
        (
            "window",
            TrainSettings {
                window: 1,
                ..good.clone()
            },
        ),
        (
            "learning-rate",
            TrainSettings {
                learning_rate: f64::NAN,
                ..good.clone()
            },
        ),
        (
            "rank",
            TrainSettings {
                kind: Kind::Adapter { rank: 0 },
                ..good.clone()
            },
        ),
    ];
    for (name, settings) in wrong {
        let error = train(&material, &settings, false, &mut |_| ()).unwrap_err();
        assert!(
            matches!(error, Error::Common(dssd_common::Error::InvalidParameter { field, .. }) if field == name),
            "{name}: {error}"
        );
    }
}
