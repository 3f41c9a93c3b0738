use super::*;
use dssd_common::{checkpoint::Checkpoint, serve::open_model};
use std::{collections::BTreeSet, fs};
use tempfile::TempDir;

fn file(dir: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn all(corpus: &mut Corpus) -> Vec<Document> {
    let mut documents = Vec::new();
    while let Some(document) = corpus.next_document().unwrap() {
        documents.push(document);
    }
    documents
}

fn text(text: &str) -> Document {
    Document::Text(text.to_owned())
}

#[test]
fn documents_are_parted_and_blank_ones_left_out() {
    let dir = TempDir::new().unwrap();
    let path = file(
        &dir,
        "a.txt",
        "one<|endoftext|>\n<|endoftext|>two\nlines<|endoftext|>",
    );
    let documents = all(&mut Corpus::open(&[path]).unwrap());
    assert_eq!(documents, [text("one"), text("two\nlines")]);
}

#[test]
fn nothing_is_lost_where_a_long_text_is_cut_into_pieces() {
    let dir = TempDir::new().unwrap();
    // Separators at every offset relative to the reads, characters of two bytes, no line ends.
    let mut whole = String::new();
    for i in 0..200 {
        whole.push_str(&"wörd ".repeat(100 + 7 * i));
        whole.push_str("<|endoftext|>");
    }
    whole.push_str(&"ü".repeat(300_000));
    let path = file(&dir, "a.txt", &whole);
    let documents = all(&mut Corpus::open(&[path]).unwrap());
    let joined: String = documents
        .iter()
        .map(|document| match document {
            Document::Text(text) => text.as_str(),
            Document::Tokens(_) => panic!("tokens out of text"),
        })
        .collect();
    assert_eq!(joined, whole.replace("<|endoftext|>", ""));
    assert!(documents.len() > 204, "the long tail comes in pieces");
}

#[test]
fn json_lines_give_text_or_tokens_and_errors_name_the_place() {
    let dir = TempDir::new().unwrap();
    let good = file(
        &dir,
        "a.jsonl",
        "{\"text\": \"one\", \"url\": \"x\"}\n\n{\"token_ids\": [1, 2]}\n",
    );
    let documents = all(&mut Corpus::open(&[good]).unwrap());
    assert_eq!(documents, [text("one"), Document::Tokens(vec![1, 2])]);
    let bad = file(&dir, "b.jsonl", "{\"text\": \"one\"}\n{\"body\": 1}\n");
    let mut corpus = Corpus::open(&[bad]).unwrap();
    corpus.next_document().unwrap();
    let error = corpus.next_document().unwrap_err().to_string();
    assert!(
        error.contains("b.jsonl") && error.contains("byte 16"),
        "{error}"
    );
    assert!(error.contains("`text`"), "{error}");
}

#[test]
fn text_that_is_no_utf8_is_refused_with_its_place() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.txt");
    fs::write(&path, b"good\xff").unwrap();
    let error = Corpus::open(&[path]).unwrap().next_document().unwrap_err();
    assert!(error.to_string().contains("byte 4"), "{error}");
}

#[test]
fn files_are_mixed_in_proportion_to_their_sizes() {
    let dir = TempDir::new().unwrap();
    let long = file(&dir, "long.txt", &"long<|endoftext|>".repeat(900));
    let short = file(&dir, "short.txt", &"brief<|endoftext|>".repeat(100));
    let documents = all(&mut Corpus::open(&[long, short]).unwrap());
    for tenth in documents.chunks(100) {
        let brief = tenth.iter().filter(|&d| *d == text("brief")).count();
        assert!((8..=12).contains(&brief), "{brief} of 100");
    }
}

fn demo() -> (std::sync::Arc<Checkpoint>, Encoder) {
    let (checkpoint, tokenizer) = open_model(None).unwrap();
    let encoder = Encoder::new(&checkpoint, tokenizer);
    (checkpoint, encoder)
}

fn stories(count: usize) -> String {
    (0..count)
        .map(|i| format!("Story number {i} about a fox and {i} hens in a wood.<|endoftext|>"))
        .collect()
}

#[test]
fn a_document_begins_and_ends_as_the_model_learned_it() {
    let (_, encoder) = demo();
    let ids = encoder.encode(&text("A fox.")).unwrap();
    assert_eq!((ids.first(), ids.last()), (Some(&0), Some(&0)));
    assert!(ids[1..ids.len() - 1].iter().all(|&id| id != 0));
    let error = encoder.encode(&Document::Tokens(vec![4096])).unwrap_err();
    assert!(error.to_string().contains("4096"), "{error}");
}

#[test]
fn windows_go_on_where_they_were_left() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "a.txt", &stories(3000));
    let (_, encoder) = demo();
    let windows = || {
        let corpus = Corpus::open(std::slice::from_ref(&path)).unwrap();
        Windows::new(corpus, encoder.clone(), 16, 50, 7)
    };
    let mut unbroken = windows();
    let mut seen = BTreeSet::new();
    for _ in 0..4000 {
        seen.insert(unbroken.next_window().unwrap());
    }
    let state = unbroken.state();
    let mut resumed = windows();
    resumed.restore(state).unwrap();
    for _ in 0..4000 {
        assert_eq!(
            unbroken.next_window().unwrap(),
            resumed.next_window().unwrap()
        );
    }
    assert!(unbroken.passes() > 0, "the text was begun anew");
    let corpus = Corpus::open(std::slice::from_ref(&path)).unwrap();
    let kept = held_out(corpus, &encoder, 50, 16, 1000).unwrap();
    assert!(kept.len() > 20);
    assert!(
        kept.iter()
            .all(|(_, window)| window.len() < 16 || !seen.contains(window)),
        "what is measured on was never learned from"
    );
}

#[test]
fn text_without_a_document_to_measure_on_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "a.txt", "Once upon a time.");
    let (_, encoder) = demo();
    let corpus = Corpus::open(&[path]).unwrap();
    let error = held_out(corpus, &encoder, u64::MAX, 16, 100).unwrap_err();
    assert!(error.to_string().contains("--held-out"), "{error}");
}
