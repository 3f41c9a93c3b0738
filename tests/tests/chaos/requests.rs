//! Requests of every kind.

use dssd_proto::v1::{GenerateRequest, Speculation, SpeculationMode, generate_request::Prompt};
use rand::{Rng as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

const PROMPTS: [&str; 10] = [
    "Once upon a time there was a little girl who",
    "The old man sat by the river every morning",
    "Tom had a red ball, and he threw it so high",
    "One day a bear came down from the hill",
    "Lily and her brother Ben went to the park",
    "When the rain stopped, the children ran",
    "A small green frog lived under a leaf",
    "Mia was afraid of the dark, so her father",
    "In the middle of the lake there was an island, and on the island there was a tree with three \
     golden apples on it. Every night a bird with silver feathers came and",
    "The",
];
const STOPS: [&str; 4] = [".", "the", "happy", "day"];

/// So many requests, each with a seed of its own.
pub(crate) fn varied(count: u64, seed: u64) -> Vec<GenerateRequest> {
    (0..count).map(|number| request(number, seed)).collect()
}

fn request(number: u64, seed: u64) -> GenerateRequest {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(number);
    let prompt = PROMPTS.choose(&mut random).unwrap();
    let sampled = random.random_bool(0.6);
    let mut asked = GenerateRequest {
        prompt: Some(Prompt::Text((*prompt).to_owned())),
        max_new_tokens: Some(random.random_range(20..=200)),
        temperature: Some(if sampled {
            random.random_range(0.4..1.3)
        } else {
            0.0
        }),
        seed: Some(random.random()),
        ignore_eos: random.random_bool(0.7),
        ..GenerateRequest::default()
    };
    if sampled {
        asked.top_k = random.random_bool(0.3).then_some(40);
        asked.top_p = random.random_bool(0.5).then_some(0.9);
        asked.min_p = random.random_bool(0.2).then_some(0.05);
    }
    if random.random_bool(0.3) {
        asked.repetition_penalty = Some(1.2);
        asked.presence_penalty = Some(0.3);
        asked.frequency_penalty = Some(0.2);
        asked.logit_bias = [(17, 2.0), (42, -3.0)].into();
    }
    if random.random_bool(0.3) {
        asked.min_new_tokens = Some(10);
        asked.include_stop_strings = random.random();
        asked.stop_strings = STOPS
            .choose_multiple(&mut random, 2)
            .map(|&s| s.to_owned())
            .collect();
    }
    asked.logprobs = random.random_bool(0.3).then(|| random.random_range(0..=5));
    asked.speculation = Some(Speculation {
        trace: random.random_bool(0.3),
        ..Speculation::default()
    });
    asked
}

/// The same without drafts.
pub(crate) fn plain(request: &GenerateRequest) -> GenerateRequest {
    GenerateRequest {
        speculation: Some(Speculation {
            mode: SpeculationMode::Off.into(),
            ..Speculation::default()
        }),
        ..request.clone()
    }
}
