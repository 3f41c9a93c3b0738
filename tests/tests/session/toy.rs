//! A toy model: the next token is a hash of all tokens before it.

use dssd_proto::v1::{DrafterLoad, Open, SamplingSettings};

pub(crate) const VOCABULARY: u32 = 50;

/// FNV-1a over the tokens.
fn hash(tokens: &[u32], salt: u64) -> u64 {
    tokens
        .iter()
        .fold(0xcbf2_9ce4_8422_2325 ^ salt, |hash, &token| {
            let mixed = (hash ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3);
            mixed ^ (mixed >> 29)
        })
}

/// What the whole model says after `tokens`.
pub(crate) fn target(tokens: &[u32]) -> u32 {
    (hash(tokens, 1) % u64::from(VOCABULARY)) as u32
}

/// What the draft model says: right with probability `percent` / 100.
pub(crate) fn draft(tokens: &[u32], percent: u64) -> u32 {
    let wrong = hash(tokens, 2) % 100 >= percent;
    (target(tokens) + u32::from(wrong)) % VOCABULARY
}

pub(crate) fn open(prompt: &[u32]) -> Open {
    Open {
        request_id: "run".to_owned(),
        checkpoint_fingerprint: "aa".to_owned(),
        tokenizer_hash: "bb".to_owned(),
        vocabulary_size: VOCABULARY,
        token_ids: prompt.to_vec(),
        prompt_length: prompt.len() as u32,
        sampling: Some(SamplingSettings::default()),
        speculation: None,
        last_epoch: 0,
    }
}

pub(crate) fn load() -> DrafterLoad {
    DrafterLoad {
        sequences: 1,
        free_kv_blocks: 9,
        step_us: 50,
    }
}
