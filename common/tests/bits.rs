//! The contract: the logits, keys and values of a position have the same bits however it was
//! computed – alone, in a draft, beside other sequences, in chunks, late, after a roll-back, on
//! any number of threads and on any instruction set.
#![expect(
    clippy::unwrap_used,
    reason = "a failed assumption of a test is a failed test"
)]

use dssd_common::{
    checkpoint::{
        Architecture, Checkpoint, ModelConfig, Norm, NormKind, Rotary, RotaryScaling,
        random_checkpoint,
    },
    kernels::{Activation, Isa, Kernels, WeightType},
    kv::{BLOCK_POSITIONS, KvCache, SequenceId},
    model::{ARITHMETIC_VERSION, Decoder, DecoderOptions, Device, Span},
};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

#[path = "cuda/stand_in.rs"]
mod stand_in;

const LAYERS: usize = 4;
const CONTEXT: usize = 96;
/// Random models; a slow machine sets fewer in `DSSD_BITS_MODELS`.
const MODELS: u64 = 60;
/// Those of them that a stand-in for a GPU computes, too.
const GPU_MODELS: u64 = 8;

fn random_config(rng: &mut ChaCha8Rng) -> ModelConfig {
    let neox = rng.random_bool(0.5);
    let head_dim = *[8, 10, 16, 24, 40, 64, 96, 128].choose(rng).unwrap();
    let kv_heads = rng.random_range(1..=3);
    let heads = if neox {
        kv_heads
    } else {
        kv_heads * rng.random_range(1..=3)
    };
    let hidden = if neox {
        heads * head_dim
    } else {
        rng.random_range(9..80)
    };
    ModelConfig {
        architecture: if neox {
            Architecture::GptNeoX
        } else {
            Architecture::Llama
        },
        vocabulary: rng.random_range(30..150),
        hidden,
        layers: LAYERS,
        heads,
        kv_heads,
        head_dim,
        intermediate: rng.random_range(10..120),
        norm: Norm {
            kind: if neox {
                NormKind::LayerNorm
            } else {
                NormKind::RmsNorm
            },
            eps: 1e-5,
        },
        activation: *[Activation::Gelu, Activation::GeluTanh, Activation::Silu]
            .choose(rng)
            .unwrap(),
        gated_mlp: !neox,
        rotary: Rotary {
            dims: if neox {
                (head_dim / 4).next_multiple_of(2)
            } else {
                head_dim
            },
            theta: 10_000.0,
            scaling: RotaryScaling::None,
        },
        max_positions: CONTEXT,
        parallel_residual: neox && rng.random_bool(0.7),
        qkv_bias: neox,
        attention_output_bias: neox,
        mlp_bias: neox,
        tied_embeddings: rng.random_bool(0.3),
        bos_token_id: None,
        eos_token_ids: vec![0],
    }
}

/// A decoder with its cache, and the logits of every position that it computed.
struct Machine {
    decoder: Decoder,
    kv: KvCache,
}

impl Machine {
    fn new(checkpoint: &Checkpoint, kernels: Kernels, band_ends: Vec<usize>) -> Self {
        Self::on(&Device::Cpu, checkpoint, kernels, band_ends)
    }

    fn on(
        device: &Device,
        checkpoint: &Checkpoint,
        kernels: Kernels,
        band_ends: Vec<usize>,
    ) -> Self {
        let options = DecoderOptions {
            band_ends,
            compute: None,
            max_context: CONTEXT,
        };
        let mut decoder = Decoder::load_on(device, checkpoint, Arc::new(kernels), options).unwrap();
        let kv = decoder.kv_cache(16 << 20).unwrap();
        Self { decoder, kv }
    }

    /// Runs one band; returns the states of all rows, span after span.
    fn advance(
        &mut self,
        band: usize,
        spans: &[(SequenceId, usize)],
        texts: &[&[u32]],
    ) -> Vec<f32> {
        let spans: Vec<Span<'_>> = spans
            .iter()
            .zip(texts)
            .map(|(&(sequence, end), text)| Span {
                sequence,
                end,
                tokens: &text[self.kv.len(sequence, band).min(end)..end],
            })
            .collect();
        self.decoder
            .advance(&mut self.kv, band, &spans)
            .unwrap()
            .to_vec()
    }

    fn logits(&mut self, states: &[f32]) -> Vec<u32> {
        let mut logits = Vec::new();
        self.decoder.logits(states, &mut logits).unwrap();
        logits.iter().map(|x| x.to_bits()).collect()
    }

    /// Bits of all keys and values of a sequence up to `len`, layer after layer.
    fn cache_bits(&mut self, sequence: SequenceId, len: usize) -> Vec<u32> {
        let layout = self.kv.layout().clone();
        let step = self.kv.begin();
        let mut bits = Vec::new();
        for layer in 0..layout.layers() {
            for position in 0..len {
                let block = step.table(sequence, layer)[position / BLOCK_POSITIONS] as usize;
                let block = &step.storage()
                    [block * layout.block_floats()..(block + 1) * layout.block_floats()];
                for half in block.chunks_exact(layout.block_floats() / 2) {
                    for head in half.chunks_exact(BLOCK_POSITIONS * layout.head_dim) {
                        let at = (position % BLOCK_POSITIONS) * layout.head_dim;
                        bits.extend(head[at..at + layout.head_dim].iter().map(|x| x.to_bits()));
                    }
                }
            }
        }
        bits
    }
}

/// One position after another, alone, in one band, on one thread, by the portable path.
fn reference(checkpoint: &Checkpoint, text: &[u32]) -> (Vec<Vec<u32>>, Vec<u32>) {
    let kernels = Kernels::with_isa(Isa::Portable, 1).unwrap();
    let mut machine = Machine::new(checkpoint, kernels, vec![LAYERS]);
    let sequence = machine.kv.open(CONTEXT).unwrap();
    let rows = (1..=text.len()).map(|end| {
        let states = machine.advance(0, &[(sequence, end)], &[text]);
        machine.logits(&states)
    });
    let rows = rows.collect();
    let bits = machine.cache_bits(sequence, text.len());
    (rows, bits)
}

/// Several sequences in one machine, each advanced by random amounts, with roll-backs and wrong
/// drafts in between; every logit that comes out is compared. Returns how many rows were.
fn wander(
    machine: &mut Machine,
    texts: &[Vec<u32>],
    expected: &[Vec<Vec<u32>>],
    rng: &mut ChaCha8Rng,
) -> usize {
    let mut compared = 0;
    let ids: Vec<SequenceId> = texts
        .iter()
        .map(|_| machine.kv.open(CONTEXT).unwrap())
        .collect();
    let bands = machine.decoder.band_ends().len();
    let width = machine.decoder.config().hidden;
    let vocabulary = machine.decoder.vocabulary();
    for _ in 0..40 {
        let band = rng.random_range(0..bands);
        let mut spans = Vec::new();
        let mut chosen: Vec<usize> = (0..texts.len()).filter(|_| rng.random_bool(0.7)).collect();
        let drafts: Vec<Vec<u32>> = texts.iter().map(|text| wrong_tail(text, rng)).collect();
        chosen.retain(|&i| {
            let held = machine.kv.len(ids[i], band);
            let limit = if band == 0 {
                texts[i].len()
            } else {
                machine.kv.len(ids[i], band - 1)
            };
            let end = (held + rng.random_range(0..=9)).min(limit);
            spans.push((ids[i], end));
            end > held || {
                spans.pop();
                false
            }
        });
        if chosen.is_empty() {
            continue;
        }
        let wrong = band == 0 && rng.random_bool(0.2);
        let fed: Vec<&[u32]> = chosen
            .iter()
            .map(|&i| if wrong { &drafts[i][..] } else { &texts[i][..] })
            .collect();
        let starts: Vec<usize> = spans
            .iter()
            .map(|&(id, _)| machine.kv.len(id, band))
            .collect();
        let states = machine.advance(band, &spans, &fed);
        if band + 1 == bands && !wrong {
            let mut row = 0;
            for ((&i, &(_, end)), &start) in chosen.iter().zip(&spans).zip(&starts) {
                for (wanted, position) in expected[i][start..end].iter().zip(start..) {
                    let logits = machine.logits(&states[row * width..(row + 1) * width]);
                    assert_eq!(logits.len(), vocabulary);
                    assert_eq!(&logits, wanted, "sequence {i}, position {position}");
                    row += 1;
                    compared += 1;
                }
            }
        }
        for (&i, &start) in chosen.iter().zip(&starts) {
            if wrong {
                machine.kv.truncate(ids[i], start);
            } else if rng.random_bool(0.15) {
                let len = rng.random_range(0..=machine.kv.len(ids[i], 0));
                machine.kv.truncate(ids[i], len);
            }
        }
    }
    for (&id, text) in ids.iter().zip(texts) {
        for band in 0..bands {
            machine.advance(band, &[(id, text.len())], &[text]);
        }
    }
    compared
}

fn wrong_tail(text: &[u32], rng: &mut ChaCha8Rng) -> Vec<u32> {
    let from = rng.random_range(0..text.len());
    text.iter()
        .enumerate()
        .map(|(i, &token)| if i < from { token } else { (token + 1) % 30 })
        .collect()
}

/// A random model, texts, and what the portable path says of them.
struct Case {
    rng: ChaCha8Rng,
    checkpoint: Checkpoint,
    texts: Vec<Vec<u32>>,
    expected: Vec<Vec<Vec<u32>>>,
    caches: Vec<Vec<u32>>,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let config = random_config(&mut rng);
        let dtype = *[WeightType::F32, WeightType::Bf16, WeightType::F16]
            .choose(&mut rng)
            .unwrap();
        let checkpoint = random_checkpoint(config, dtype, seed).unwrap();
        let texts: Vec<Vec<u32>> = (0..3)
            .map(|_| {
                (0..rng.random_range(1..60))
                    .map(|_| rng.random_range(0..30))
                    .collect()
            })
            .collect();
        let (expected, caches) = texts
            .iter()
            .map(|text| reference(&checkpoint, text))
            .unzip();
        Self {
            rng,
            checkpoint,
            texts,
            expected,
            caches,
        }
    }

    /// Returns how many rows of logits were compared.
    fn wander_on(&mut self, device: &Device, kernels: Kernels) -> usize {
        let bands = [vec![LAYERS], vec![1, LAYERS], vec![1, 2, 3, LAYERS]]
            .choose(&mut self.rng)
            .unwrap()
            .clone();
        let mut machine = Machine::on(device, &self.checkpoint, kernels, bands);
        wander(&mut machine, &self.texts, &self.expected, &mut self.rng)
    }

    /// One text in steps of one row, which a GPU launches as a recording from the third one on.
    fn token_by_token(&self, machine: &mut Machine) -> usize {
        let (text, expected) = (&self.texts[0], &self.expected[0]);
        let id = machine.kv.open(CONTEXT).unwrap();
        for (end, row) in (1..).zip(expected) {
            let states = machine.advance(0, &[(id, end)], &[text]);
            assert_eq!(&machine.logits(&states), row);
        }
        expected.len()
    }

    /// Everything in one go, as a prefill of all sequences together.
    fn prefill(&self, machine: &mut Machine) -> Vec<(SequenceId, usize)> {
        let spans: Vec<_> = self
            .texts
            .iter()
            .map(|text| (machine.kv.open(CONTEXT).unwrap(), text.len()))
            .collect();
        let fed: Vec<&[u32]> = self.texts.iter().map(Vec::as_slice).collect();
        let states = machine.advance(0, &spans, &fed);
        assert_eq!(machine.logits(&states), self.expected.concat().concat());
        spans
    }
}

/// Returns how many rows of logits were compared beside the prefill.
fn check(seed: u64) -> usize {
    let mut case = Case::new(seed);
    let mut compared = 0;
    for isa in Isa::available() {
        let kernels = Kernels::with_isa(isa, case.rng.random_range(1..=4)).unwrap();
        compared += case.wander_on(&Device::Cpu, kernels);
    }
    let mut machine = Machine::new(&case.checkpoint, Kernels::new(2), vec![LAYERS]);
    let spans = case.prefill(&mut machine);
    for ((&(id, len), cache), i) in spans.iter().zip(&case.caches).zip(0..) {
        assert_eq!(
            &machine.cache_bits(id, len),
            cache,
            "keys and values of sequence {i}"
        );
    }
    compared
}

#[test]
fn a_gpu_gives_the_same_bits() {
    let Some(gpu) = stand_in::gpu() else { return };
    let device = Device::Cuda(Arc::clone(gpu));
    let mut compared = 0;
    for seed in 0..GPU_MODELS {
        let mut case = Case::new(seed);
        compared += case.wander_on(&device, Kernels::new(1));
        let mut machine = Machine::on(&device, &case.checkpoint, Kernels::new(1), vec![LAYERS]);
        case.prefill(&mut machine);
        compared += case.token_by_token(&mut machine);
    }
    assert!(
        compared > 50 * GPU_MODELS as usize,
        "only {compared} rows were compared"
    );
}

#[test]
fn a_position_has_the_same_bits_however_it_was_computed() {
    let models = std::env::var("DSSD_BITS_MODELS").map_or(MODELS, |text| text.parse().unwrap());
    let compared: usize = (0..models).map(check).sum();
    let enough = 50 * models as usize * Isa::available().len();
    assert!(compared > enough, "only {compared} rows were compared");
}

#[test]
fn keys_and_values_filled_late_have_the_bits_of_those_filled_at_once() {
    let mut rng = ChaCha8Rng::seed_from_u64(99);
    for seed in 0..20 {
        let checkpoint =
            random_checkpoint(random_config(&mut rng), WeightType::Bf16, seed).unwrap();
        let text: Vec<u32> = (0..50).map(|_| rng.random_range(0..30)).collect();
        let (_, expected) = reference(&checkpoint, &text);
        let mut machine = Machine::new(&checkpoint, Kernels::new(3), vec![1, 2, LAYERS]);
        let id = machine.kv.open(CONTEXT).unwrap();
        // Most positions stop at the first or second exit; the deepest band is filled in jumps.
        for end in 1..=text.len() {
            machine.advance(0, &[(id, end)], &[&text]);
            if rng.random_bool(0.4) {
                machine.advance(1, &[(id, end)], &[&text]);
                if rng.random_bool(0.3) {
                    machine.advance(2, &[(id, end)], &[&text]);
                }
            }
        }
        machine.advance(1, &[(id, text.len())], &[&text]);
        machine.advance(2, &[(id, text.len())], &[&text]);
        assert_eq!(machine.cache_bits(id, text.len()), expected);
    }
}

#[test]
fn the_bits_are_those_of_this_version_of_the_arithmetic() {
    let kernels = Kernels::new(1);
    let mut digest = Fnv::default();
    for seed in 0..6 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let config = random_config(&mut rng);
        let vocabulary = config.vocabulary;
        let dtype = [WeightType::F32, WeightType::Bf16, WeightType::F16][seed as usize % 3];
        let checkpoint = random_checkpoint(config, dtype, seed).unwrap();
        let text: Vec<u32> = (0..40).map(|_| rng.random_range(0..30)).collect();
        let (logits, cache) = reference(&checkpoint, &text);
        let logits = logits.concat();
        digest.add(logits.iter().chain(&cache));
        let logits: Vec<f32> = logits.into_iter().map(f32::from_bits).collect();
        let mut summaries = Vec::new();
        kernels.summarize(&logits, vocabulary, &mut summaries);
        for row in summaries {
            digest.add(&[row.log_sum_exp.to_bits(), row.entropy.to_bits()]);
        }
    }
    // The same on every kind of CPU. Whoever means to change the digest changes the version too.
    assert_eq!((ARITHMETIC_VERSION, digest.0), (1, 0xbf45_f5c3_935b_b07f));
}

/// The 64-bit FNV-1a hash, over words in place of bytes.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add<'a>(&mut self, words: impl IntoIterator<Item = &'a u32>) {
        for &word in words {
            self.0 = (self.0 ^ u64::from(word)).wrapping_mul(0x100_0000_01b3);
        }
    }
}
