//! The program that runs the kernels on the CPU, and rows for it.

use dssd_common::entropy::{SUMMARY_COLUMNS, Summary};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::{
    env, fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
};

/// Sets the rounding of every step as on the GPU: nothing is fused but what says so.
const FLAGS: [&str; 5] = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Werror"];

/// A type of logits.
pub(crate) trait Logit: Copy {
    /// Its number in a request.
    const DTYPE: u64;
    fn of(x: f32) -> Self;
    fn bytes(self) -> Vec<u8>;
    fn widen(self) -> f32;
}

macro_rules! logit {
    ($type:ty, $dtype:literal, $of:expr, $widen:expr) => {
        impl Logit for $type {
            const DTYPE: u64 = $dtype;
            fn of(x: f32) -> Self {
                $of(x)
            }
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn widen(self) -> f32 {
                $widen(self)
            }
        }
    };
}
logit!(f32, 4, std::convert::identity, std::convert::identity);
logit!(f16, 2, f16::from_f32, f16::to_f32);
logit!(bf16, 3, bf16::from_f32, bf16::to_f32);

/// How the token of a row is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) seed: u64,
    pub(crate) index: u64,
    pub(crate) temperature: f32,
}

/// Rows of logits as they lie in memory, neighbours and gaps included.
#[derive(Clone)]
pub(crate) struct Rows<T> {
    pub(crate) rows: usize,
    pub(crate) vocabulary: usize,
    pub(crate) stride: usize,
    pub(crate) offset: usize,
    pub(crate) logits: Vec<T>,
}

impl<T: Logit> Rows<T> {
    /// Rows one behind the other.
    pub(crate) fn dense(rows: &[Vec<f32>]) -> Self {
        let vocabulary = rows.first().map_or(1, Vec::len);
        Self::strided(rows, vocabulary, 0)
    }

    /// Rows that begin `stride` logits apart behind `offset` others; what is between is large.
    pub(crate) fn strided(rows: &[Vec<f32>], stride: usize, offset: usize) -> Self {
        let vocabulary = rows.first().map_or(1, Vec::len);
        let mut logits = vec![T::of(60_000.0); offset + rows.len() * stride];
        for (index, row) in rows.iter().enumerate() {
            let first = offset + index * stride;
            for (place, &x) in logits[first..].iter_mut().zip(row) {
                *place = T::of(x);
            }
        }
        Self {
            rows: rows.len(),
            vocabulary,
            stride,
            offset,
            logits,
        }
    }

    /// A row as the kernel sees it.
    pub(crate) fn row(&self, index: usize) -> Vec<f32> {
        let first = self.offset + index * self.stride;
        let row = &self.logits[first..first + self.vocabulary];
        row.iter().map(|x| x.widen()).collect()
    }
}

/// What the kernels say of rows.
pub(crate) struct Answer {
    pub(crate) summaries: Vec<[f32; SUMMARY_COLUMNS]>,
    /// Empty if nothing was to be chosen; `u32::MAX` for a row that is no distribution.
    pub(crate) ids: Vec<u32>,
}

impl Answer {
    pub(crate) fn summary(&self, row: usize) -> Summary {
        let [
            argmax,
            max_probability,
            margin_probability,
            margin_logit,
            ..,
        ] = self.summaries[row];
        let [.., log_sum_exp, entropy, valid] = self.summaries[row];
        Summary {
            argmax: argmax as u32,
            max_probability,
            margin_probability,
            margin_logit,
            log_sum_exp,
            entropy,
            valid: valid == 1.0,
        }
    }

    /// For comparisons bit by bit.
    pub(crate) fn bits(&self) -> Vec<[u32; SUMMARY_COLUMNS]> {
        let bits = |row: &[f32; SUMMARY_COLUMNS]| row.map(f32::to_bits);
        self.summaries.iter().map(bits).collect()
    }
}

/// The kernels on the CPU.
pub(crate) struct Host {
    program: PathBuf,
}

impl Host {
    /// Compiled once for all tests; none where there is no compiler and none is required.
    pub(crate) fn get() -> Option<&'static Self> {
        static HOST: OnceLock<Option<Host>> = OnceLock::new();
        HOST.get_or_init(compile).as_ref()
    }

    pub(crate) fn run<T: Logit>(&self, rows: &Rows<T>, choices: &[Choice]) -> Answer {
        assert!(choices.is_empty() || choices.len() == rows.rows);
        let header = [
            T::DTYPE,
            rows.rows as u64,
            rows.vocabulary as u64,
            rows.stride as u64,
            rows.offset as u64,
            u64::from(!choices.is_empty()),
        ];
        let mut request: Vec<u8> = header.into_iter().flat_map(u64::to_le_bytes).collect();
        for choice in choices {
            request.extend(choice.seed.to_le_bytes());
            request.extend(choice.index.to_le_bytes());
            request.extend(f64::from(choice.temperature).to_le_bytes());
        }
        request.extend(rows.logits.iter().flat_map(|x| x.bytes()));
        let words = self.answer(request);
        let (summaries, ids) = words.split_at(rows.rows * SUMMARY_COLUMNS);
        Answer {
            summaries: summaries
                .chunks_exact(SUMMARY_COLUMNS)
                .map(|row| std::array::from_fn(|i| f32::from_bits(row[i])))
                .collect(),
            ids: ids.to_vec(),
        }
    }

    fn answer(&self, request: Vec<u8>) -> Vec<u32> {
        let mut child = Command::new(&self.program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // Closed behind the request.
        let writer = thread::spawn(move || input.write_all(&request));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success(), "{:?}", output.status);
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        output.stdout.chunks_exact(4).map(word).collect()
    }
}

fn compile() -> Option<Host> {
    let compiler = env::var("DSSD_CXX").unwrap_or_else(|_| "c++".to_owned());
    // It may be a command with arguments.
    let mut words = compiler.split_whitespace();
    let found = words.next().unwrap_or("c++");
    let mut command = Command::new(found);
    command.args(words);
    let there = command.arg("--version").output().is_ok();
    if !there {
        let required = env::var_os("DSSD_CUDA_SOURCE_REQUIRED").is_some();
        assert!(!required, "no C++ compiler: set DSSD_CXX to one");
        eprintln!(
            "not tested: the source of the CUDA kernels, for want of a C++ compiler (DSSD_CXX)"
        );
        return None;
    }
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/host.cpp");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join(format!("cuda-host-{}", std::process::id()));
    let mut command = Command::new(found);
    command.args(compiler.split_whitespace().skip(1));
    let output = command
        .args(FLAGS)
        .args(["-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas", "-o"])
        .args([&program, &source])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(Host { program })
}

/// Logits that look like those of a model, around `shift`.
pub(crate) fn row(rng: &mut ChaCha8Rng, vocabulary: usize, spread: f32, shift: f32) -> Vec<f32> {
    let mut draw = || (0..6).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>();
    (0..vocabulary).map(|_| spread * draw() + shift).collect()
}

pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}
