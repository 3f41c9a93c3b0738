//! Text to tokens and back, whole and in pieces.

use std::{path::Path, sync::Arc};

use dssd_common::tokenizer::{TextStream, Tokenizer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{copy, demo, read_json};

fn tokenizer(dir: &Path) -> Arc<Tokenizer> {
    Arc::new(Tokenizer::open(dir).unwrap().unwrap())
}

/// The pieces of `ids`, and the rest.
fn pieces(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer.clone());
    let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.flush().unwrap());
    pieces
}

/// Random ids, with more of the first ones (special and byte tokens) than their share.
fn random_ids(random: &mut ChaCha8Rng, vocabulary: u32) -> Vec<u32> {
    let length = random.random_range(0..40);
    let beginning = vocabulary.min(270);
    let id = |random: &mut ChaCha8Rng| {
        let end = if random.random_bool(0.5) {
            beginning
        } else {
            vocabulary + 3
        };
        random.random_range(0..end)
    };
    (0..length).map(|_| id(random)).collect()
}

fn pieces_join_to_the_whole(dir: &Path) {
    let tokenizer = tokenizer(dir);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut held = 0;
    for _ in 0..3000 {
        let ids = random_ids(&mut random, tokenizer.vocabulary() as u32);
        let pieces = pieces(&tokenizer, &ids);
        assert_eq!(pieces.concat(), tokenizer.decode(&ids).unwrap(), "{ids:?}");
        held += usize::from(pieces.last().is_some_and(|rest| !rest.is_empty()));
    }
    assert!(held > 100, "only {held} texts ended inside a character");
}

/// Whatever the prompt, its text and the pieces that follow are the text of everything.
fn pieces_go_on_after_a_prompt(dir: &Path) {
    let tokenizer = tokenizer(dir);
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut continued = 0;
    for _ in 0..3000 {
        let prompt = random_ids(&mut random, tokenizer.vocabulary() as u32);
        let ids = random_ids(&mut random, tokenizer.vocabulary() as u32);
        let whole = tokenizer.decode(&[&prompt[..], &ids].concat()).unwrap();
        let said = tokenizer.decode(&prompt).unwrap();
        // A prompt that ends inside a character has no text of its own to go on from.
        let Some(rest) = whole
            .strip_prefix(&said)
            .filter(|_| !said.ends_with('\u{fffd}'))
        else {
            continue;
        };
        let mut stream = TextStream::after(tokenizer.clone(), &prompt).unwrap();
        let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        text.push_str(&stream.flush().unwrap());
        if !said.is_empty() {
            continued += 1;
            assert_eq!(text, rest, "{prompt:?} then {ids:?}");
        }
    }
    assert!(continued > 100, "only {continued} prompts were continued");
}

#[test]
fn pieces_of_the_demo_model_join_to_the_whole() {
    pieces_join_to_the_whole(&demo());
    pieces_go_on_after_a_prompt(&demo());
}

/// A tokenizer as Llama 2 has it: words begin with a space mark, characters that have no token
/// become byte tokens, and decoding drops the first space.
fn llama_like() -> TempDir {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "a", "b", "c", "!", "é", "▁a", "▁▁", "ab", "▁ab"].map(String::from));
    let vocabulary: serde_json::Map<_, _> = tokens
        .into_iter()
        .zip(0..)
        .map(|(token, id)| (token, json!(id)))
        .collect();
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false })
    };
    let file = json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocabulary,
            "merges": [["▁", "a"], ["▁", "▁"], ["a", "b"], ["▁", "ab"]],
        },
    });
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    dir
}

fn llama_text_survives(dir: &Path) {
    pieces_join_to_the_whole(dir);
    pieces_go_on_after_a_prompt(dir);
    let tokenizer = tokenizer(dir);
    for text in ["   a", " ", "a  b", "é ü 漢字 🙂!", ""] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(pieces(&tokenizer, &ids).concat(), text);
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

#[test]
fn text_of_a_byte_fallback_tokenizer_survives() {
    llama_text_survives(llama_like().path());
}

#[test]
fn text_of_a_real_byte_fallback_tokenizer_survives() {
    if let Some(dir) = stories() {
        llama_text_survives(&dir);
    }
}

#[test]
fn published_text_comes_out_of_published_tokens() {
    let Some(dir) = stories() else { return };
    let expected = read_json(&dir.join("expected_greedy.json"));
    let ids: Vec<u32> = serde_json::from_value(expected["token_ids"].clone()).unwrap();
    assert_eq!(
        pieces(&tokenizer(&dir), &ids).concat(),
        expected["text"].as_str().unwrap()
    );
}

#[test]
fn a_character_is_never_split() {
    let tokenizer = tokenizer(&demo());
    let text = "Once, 🙂 said „漢字“.";
    let ids = tokenizer.encode(text).unwrap();
    let pieces = pieces(&tokenizer, &ids);
    assert!(ids.len() > text.chars().count() / 2);
    assert_eq!(pieces.concat(), text);
    assert!(
        pieces
            .iter()
            .all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER))
    );
    // Text comes as soon as it is certain, not all at the end.
    assert_eq!(pieces.last().map(String::as_str), Some(""));
}

#[test]
fn special_tokens_and_strangers_have_no_text() {
    let tokenizer = tokenizer(&demo());
    let word = tokenizer.encode(" story").unwrap();
    let mixed = [vec![0], word.clone(), vec![0, 4_000_000], word].concat();
    assert_eq!(tokenizer.decode(&mixed).unwrap(), " story story");
    assert_eq!(pieces(&tokenizer, &mixed).concat(), " story story");
    assert_eq!(tokenizer.vocabulary(), 4096);
}

#[test]
fn a_folder_without_tokenizer_has_none_and_a_damaged_one_is_named() {
    let dir = copy("llama-gqa");
    assert!(Tokenizer::open(dir.path()).unwrap().is_none());
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let error = Tokenizer::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}

/// The library panics over this one.
#[test]
fn a_tokenizer_with_a_broken_decoder_is_named() {
    let dir = copy("llama-gqa");
    let broken = r#"{"version": "1.0", "decoder": {"type" "ByteLevel"}}"#;
    std::fs::write(dir.path().join("tokenizer.json"), broken).unwrap();
    let error = Tokenizer::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}

/// A Llama-style tokenizer that is not shipped.
fn stories() -> Option<std::path::PathBuf> {
    let data = std::env::var_os("DSSD_TEST_DATA");
    if data.is_none() {
        eprintln!("skipped: DSSD_TEST_DATA does not point at the test data");
    }
    data.map(|data| Path::new(&data).join("checkpoints/stories260k"))
}
