//! Heads that learn on a GPU, against heads that learn on the CPU. It runs on the stand-in for the driver.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use dssd_common::{
    checkpoint::{Checkpoint, TensorData},
    exit::{ExitHead, ExitHeads, HeadKind},
    kernels::WeightType,
    model::Device,
};
use dssd_heads::{
    backbone::Machine,
    train::{Event, Kind, Material, Outcome, Quality, Recipe, Start, TrainSettings, train},
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tempfile::TempDir;

#[path = "../../common/tests/cuda/stand_in.rs"]
mod stand_in;

/// Layer norms with biases, and RMS norms without.
const MODELS: [&str; 2] = ["neox-pythia", "llama-gqa"];
const ADAPTER: Kind = Kind::Adapter { rank: 9 };

/// The GPU, for one test at a time: they look at its memory.
fn gpu() -> Option<(Machine, MutexGuard<'static, ()>)> {
    static TAKEN: Mutex<()> = Mutex::new(());
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let gpu = stand_in::gpu()?;
    Some((Machine::new(Device::Cuda(Arc::clone(gpu)), 2), taken))
}

/// Text of a tiny language: runs of counting, so that there is something to learn.
fn material(dir: &TempDir, model: &str, out: &str, machine: &Machine) -> Material {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../common/tests/golden");
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let mut text = String::new();
    for _ in 0..200 {
        let start = random.random_range(1..400u32);
        let ids: Vec<u32> = (start..start + 32).collect();
        writeln!(text, "{{\"token_ids\": {ids:?}}}").unwrap();
    }
    let path = dir.path().join("text.jsonl");
    fs::write(&path, text).unwrap();
    Material {
        checkpoint: Arc::new(Checkpoint::open(&golden.join(model)).unwrap()),
        tokenizer: None,
        text: vec![path],
        held_out: None,
        out: dir.path().join(out),
        machine: machine.clone(),
    }
}

/// Steps over three windows each, two heads; few, since the model's passes are slow on the stand-in.
fn settings(material: &Material, kind: Kind, start: Start, steps: u64) -> TrainSettings {
    let config = material.checkpoint.config();
    TrainSettings {
        kind,
        start,
        window: 16,
        step_tokens: 40,
        tokens: 48 * steps,
        held_out_tokens: 48,
        patience: 1000,
        measure_seconds: 1e9,
        ..Recipe::Default.settings(vec![1, 2], config, WeightType::F32)
    }
}

fn trained(material: &Material, settings: &TrainSettings, resume: bool) -> (Outcome, ExitHeads) {
    let outcome = train(material, settings, resume, &mut |_| ()).unwrap();
    let heads = ExitHeads::open(&material.out, &material.checkpoint).unwrap();
    (outcome, heads)
}

fn numbers(tensor: &TensorData) -> Vec<f32> {
    let (words, _) = tensor.bytes.as_ref().as_chunks();
    words.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

fn tensors(head: &ExitHead) -> Vec<&TensorData> {
    let mut all = vec![&head.norm_weight];
    all.extend(&head.norm_bias);
    match &head.kind {
        HeadKind::Linear { weight, .. } => all.push(weight),
        HeadKind::Adapter { down, up } => all.extend([down, up]),
    }
    all
}

/// How far each tensor of two trainings' heads is from the other's, by the length of the difference.
fn distances(a: &ExitHeads, b: &ExitHeads) -> Vec<f64> {
    let heads = a.heads.iter().zip(&b.heads);
    let both = heads.flat_map(|(a, b)| tensors(a).into_iter().zip(tensors(b)));
    both.map(|(a, b)| {
        assert_eq!(a.shape, b.shape);
        let both = numbers(a).into_iter().zip(numbers(b));
        let squares = both.map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    })
    .collect()
}

fn assert_like(here: &[Quality], there: &[Quality], what: &str) {
    for (here, there) in here.iter().zip(there) {
        let apart = (here.kl - there.kl).abs();
        assert!(apart <= 1e-5 * here.kl, "{what}: {here:?} {there:?}");
        // One of the 48 tokens may be a tie.
        let apart = (here.agreement - there.agreement).abs();
        assert!(apart < 0.03, "{what}: {here:?} {there:?}");
    }
}

#[test]
fn heads_learn_on_a_gpu_what_they_learn_on_the_cpu() {
    let Some((gpu, _taken)) = gpu() else { return };
    let ways = [
        (MODELS[0], Kind::Linear, Start::Model),
        (MODELS[0], ADAPTER, Start::Model),
        (MODELS[1], ADAPTER, Start::Model),
        (MODELS[1], Kind::Linear, Start::Random),
    ];
    for (model, kind, start) in ways {
        let what = format!("{model} {kind:?} {start:?}");
        let dir = TempDir::new().unwrap();
        let here = material(&dir, model, "here", &Machine::cpu(2));
        let there = material(&dir, model, "there", &gpu);
        let settings = settings(&here, kind, start, 4);
        let (on_cpu, cpu_heads) = trained(&here, &settings, false);
        let (on_gpu, gpu_heads) = trained(&there, &settings, false);
        assert_like(&on_cpu.first, &on_gpu.first, &what);
        assert_like(&on_cpu.last, &on_gpu.last, &what);
        for (first, last) in on_gpu.first.iter().zip(&on_gpu.last) {
            assert!(last.kl < first.kl, "{what}: {first:?} {last:?}");
        }
        let standing = TrainSettings {
            learning_rate: 1e-30,
            tokens: 1,
            ..settings.clone()
        };
        let start = material(&dir, model, "start", &Machine::cpu(2));
        let (_, start) = trained(&start, &standing, false);
        let ways = distances(&start, &cpu_heads);
        let moves = ways.iter().filter(|&&way| way > 1e-3).count();
        let stay = if settings.start == Start::Random {
            2
        } else {
            0
        };
        assert_eq!(moves, ways.len() - stay, "{what}: {ways:?}");
        for (way, apart) in ways.iter().zip(distances(&cpu_heads, &gpu_heads)) {
            assert!(apart <= 1e-4 * way, "{what}: {apart} apart after {way}");
        }
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
fn a_killed_training_goes_on_on_either_device() {
    let Some((gpu, _taken)) = gpu() else { return };
    for kind in [Kind::Linear, ADAPTER] {
        let dir = TempDir::new().unwrap();
        let unbroken = material(&dir, MODELS[0], "unbroken", &gpu);
        let settings = TrainSettings {
            measure_seconds: 0.0,
            ..settings(&unbroken, kind, Start::Model, 3)
        };
        let (again, elsewhere) = (dir.path().join("again"), dir.path().join("elsewhere"));
        let mut measured = 0;
        let outcome = train(&unbroken, &settings, false, &mut |event| {
            if let Event::Measured(_) = event {
                measured += 1;
                if measured == 2 {
                    copy(&unbroken.out, &again);
                    copy(&unbroken.out, &elsewhere);
                }
            }
        })
        .unwrap();
        let heads = ExitHeads::open(&unbroken.out, &unbroken.checkpoint).unwrap();
        let on_gpu = material(&dir, MODELS[0], "again", &gpu);
        let (_, resumed) = trained(&on_gpu, &settings, true);
        assert_eq!(resumed.hash(), heads.hash(), "{kind:?}");
        let on_cpu = material(&dir, MODELS[0], "elsewhere", &Machine::cpu(2));
        let (last, _) = trained(&on_cpu, &settings, true);
        assert_like(&outcome.last, &last.last, "went on on the CPU");
    }
}

#[test]
fn a_training_takes_no_more_of_a_gpu_than_it_says() {
    let Some((gpu, _taken)) = gpu() else { return };
    let Device::Cuda(device) = &gpu.device else {
        panic!("no GPU")
    };
    for kind in [Kind::Linear, ADAPTER] {
        let dir = TempDir::new().unwrap();
        let material = material(&dir, MODELS[1], "heads", &gpu);
        let settings = settings(&material, kind, Start::Model, 1);
        let before = device.free_bytes().unwrap();
        let (mut said, mut taken) = (None, 0);
        train(&material, &settings, false, &mut |event| {
            if let Event::Sized(size) = event {
                said = Some(size);
            }
            taken = taken.max(before - device.free_bytes().unwrap());
        })
        .unwrap();
        let said = said.unwrap();
        // Value, gradient and two moments of all that moves.
        let least = 4 * 4 * said.parameters as u64;
        assert!(
            (least..=said.gpu_bytes as u64).contains(&taken),
            "{taken} {said:?}"
        );
        assert_eq!(
            device.free_bytes().unwrap(),
            before,
            "all of it is free again"
        );
    }
}

#[test]
fn a_gpu_without_room_is_told_before_anything_is_loaded() {
    let Some((gpu, _taken)) = gpu() else { return };
    let dir = TempDir::new().unwrap();
    let material = material(&dir, MODELS[0], "heads", &gpu);
    // Of 4 GiB, an adapter's two matrices of half a GiB each take five times that.
    let large = Kind::Adapter { rank: 2 << 20 };
    let settings = settings(&material, large, Start::Model, 1);
    let mut needed = 0;
    let error = train(&material, &settings, false, &mut |event| match event {
        Event::Sized(size) => needed = size.gpu_bytes,
        _ => panic!("it began"),
    });
    let told = error.unwrap_err().to_string();
    assert!(needed > 4 << 30, "{needed}");
    assert!(
        told.contains("`device`") && told.contains("MiB are free"),
        "{told}"
    );
}
