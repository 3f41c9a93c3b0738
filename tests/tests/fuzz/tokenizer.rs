//! Tokenizer files, text to tokenize, ids to turn into text, stop strings.

use crate::{bytes, harness::Target, json};
use dssd_common::{
    checkpoint::demo,
    sampling::StopMatcher,
    tokenizer::{TextStream, Tokenizer},
};
use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::{fs, path::Path, sync::Arc};
use tempfile::TempDir;

const FILES: Target = Target {
    name: "tokenizer files",
    share: 0.1,
};
const TEXT: Target = Target {
    name: "text and ids",
    share: 0.1,
};
const WORDS: [&str; 8] = [
    "Once upon a time",
    " there was",
    " ",
    "don't",
    "1234",
    "aaaa",
    "\u{301}",
    "é",
];

#[test]
fn files() {
    let seeds = seeds();
    let dir = TempDir::new().unwrap();
    FILES.run(|random| {
        let seed = seeds.choose(random).unwrap();
        let file = json::mutated(random, seed);
        fs::write(dir.path().join("tokenizer.json"), file).unwrap();
        match Tokenizer::open(dir.path()) {
            Ok(tokenizer) => {
                let tokenizer = Arc::new(tokenizer.unwrap());
                for _ in 0..3 {
                    there_and_back(random, &tokenizer);
                }
                true
            }
            Err(error) => {
                assert!(error.to_string().contains("tokenizer.json"), "{error}");
                false
            }
        }
    });
}

#[test]
fn text_and_ids() {
    let tokenizer = Arc::new(Tokenizer::open(&demo::folder().unwrap()).unwrap().unwrap());
    TEXT.run(|random| {
        there_and_back(random, &tokenizer);
        stop_strings(random, &tokenizer)
    });
}

/// Tokenizes a text, and turns its tokens and any others into text, at once and piece by piece.
fn there_and_back(random: &mut ChaCha8Rng, tokenizer: &Arc<Tokenizer>) {
    let text = bytes::text(random, &WORDS, 12);
    let mut ids = tokenizer.encode(&text).unwrap_or_default();
    ids.truncate(500);
    let most = tokenizer.vocabulary() as u32 + 2;
    for _ in 0..random.random_range(0..20) {
        let id = match random.random_range(0..8) {
            0 => u32::MAX,
            _ => random.random_range(0..most),
        };
        ids.insert(random.random_range(0..=ids.len()), id);
    }
    _ = tokenizer.decode(&ids);
    let at = random.random_range(0..=ids.len());
    let Ok(mut stream) = TextStream::after(Arc::clone(tokenizer), &ids[..at]) else {
        return;
    };
    for &id in &ids[at..] {
        _ = stream.push(id);
    }
    _ = stream.flush();
}

/// Watches a text for stop strings; whether it takes them.
fn stop_strings(random: &mut ChaCha8Rng, tokenizer: &Tokenizer) -> bool {
    let count = match random.random_range(0..20) {
        0 => 17,
        _ => random.random_range(0..4),
    };
    let stops: Vec<String> = (0..count).map(|_| bytes::text(random, &WORDS, 3)).collect();
    let Ok(mut matcher) = StopMatcher::new(&stops, random.random_bool(0.5)) else {
        return false;
    };
    let text = bytes::text(random, &WORDS, 10) + stops.first().map_or("", String::as_str);
    let (mut out, mut hit) = (String::new(), None);
    for id in tokenizer.encode(&text).unwrap_or_default() {
        let (piece, found) = matcher.push(&tokenizer.decode(&[id]).unwrap_or_default());
        out += &piece;
        hit = hit.or(found);
    }
    out += &matcher.flush();
    assert!(hit.is_none_or(|hit| hit.index < stops.len()));
    assert!(out.len() <= 4 * text.len() + 16);
    true
}

/// The demo model's file, and one small file of each other kind of model.
fn seeds() -> Vec<Value> {
    let text = fs::read(demo::folder().unwrap().join("tokenizer.json")).unwrap();
    let demo: Value = serde_json::from_slice(&text).unwrap();
    let mut small = demo.clone();
    small["model"]["vocab"] =
        json!({ "<|endoftext|>": 0, "a": 1, "b": 2, "Ġ": 3, "ab": 4, "e": 5, "n": 6, "Ġab": 7 });
    small["model"]["merges"] = json!([["a", "b"], "Ġ ab"]);
    let with = |model: Value, decoder: Value, normalizer: Value, pre: Value| {
        let mut file = small.clone();
        file["model"] = model;
        file["decoder"] = decoder;
        file["normalizer"] = normalizer;
        file["pre_tokenizer"] = pre;
        file
    };
    let mut llama = with(
        json!({ "type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": { "<|endoftext|>": 0, "<unk>": 1, "<0x0A>": 2, "<0xE2>": 3, "▁": 4, "a": 5, "b": 6, "▁a": 7 }, "merges": ["▁ a"] }),
        json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] }),
        json!({ "type": "Sequence", "normalizers": [ { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] }),
        Value::Null,
    );
    llama["post_processor"] = json!({ "type": "TemplateProcessing",
        "single": [ { "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } } ],
        "pair": [ { "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } } ],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<|endoftext|>"] } } });
    let unigram = with(
        json!({ "type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": [["<unk>", 0.0], ["a", -1.0], ["ab", -2.5], ["▁", -2.0], ["<0x0A>", -3.0]] }),
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }),
        json!({ "type": "NFKC" }),
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }),
    );
    let pieces = with(
        json!({ "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                "vocab": { "<|endoftext|>": 0, "[UNK]": 1, "a": 2, "##b": 3, "time": 4 } }),
        json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
        json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true }),
        json!({ "type": "BertPreTokenizer" }),
    );
    let words = with(
        json!({ "type": "WordLevel", "unk_token": "?", "vocab": { "<|endoftext|>": 0, "?": 1, "a": 2 } }),
        json!({ "type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true }),
        json!({ "type": "Lowercase" }),
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": "(?i:'s|'t)|\\s+(?!\\S)|\\p{N}{1,3}" }, "behavior": "Isolated", "invert": false },
            { "type": "Digits", "individual_digits": true }, { "type": "Punctuation", "behavior": "Isolated" } ] }),
    );
    let mut padded = small.clone();
    padded["padding"] = json!({ "strategy": { "Fixed": 12345 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "x" });
    padded["truncation"] =
        json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 1 });
    let small = [small, llama, unigram, pieces, words, padded];
    // The real one is large, so it comes seldom.
    let times = 8 * small.len();
    small
        .into_iter()
        .cycle()
        .take(times)
        .chain([demo])
        .collect()
}

/// A text as long as a message may be is refused or tokenized within the bound.
#[test]
fn the_longest_texts_end() {
    let tokenizer = Tokenizer::open(Path::new(&demo::folder().unwrap()))
        .unwrap()
        .unwrap();
    for unit in [
        "a",
        " ",
        "\n",
        "é",
        "1",
        "Once upon a time ",
        "<|endoftext|>",
        "\u{301}",
    ] {
        let begun = std::time::Instant::now();
        let outcome = tokenizer.encode(&unit.repeat((2 << 20) / unit.len()));
        let (ok, seconds) = (outcome.is_ok(), begun.elapsed().as_secs_f64());
        println!("{unit:?}: {ok}, {seconds:.2} s");
        assert!(seconds < 30.0, "{unit:?}");
    }
}
