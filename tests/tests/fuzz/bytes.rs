//! Mutations of bytes and of text.

use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

/// Numbers at whose edges programs stumble.
pub(crate) const EDGES: [u64; 20] = [
    0,
    1,
    2,
    3,
    15,
    16,
    255,
    256,
    (1 << 16) - 1,
    1 << 20,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    1 << 53,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Pieces of text that mean something to somebody.
const PIECES: [&str; 30] = [
    "<|endoftext|>",
    "\0",
    "\u{feff}",
    "\u{202e}",
    "\u{fffd}",
    "\u{1f469}\u{200d}\u{1f4bb}",
    "e\u{301}",
    "\r\n",
    "\n\n",
    "                ",
    "\t",
    "%s%n",
    "../",
    "<0x0A>",
    "\u{2581}",
    "Ġ",
    "日本語",
    "\u{10ffff}",
    "\u{7f}\u{80}",
    "{",
    "\"",
    "[[[[[[[[",
    "1e999",
    "NaN",
    "-",
    ":",
    "@",
    "inf",
    "18446744073709551616",
    "0x",
];

/// Changes a few bytes, anywhere, in ways that parsers dislike. `other` is material to splice in.
pub(crate) fn mutate(random: &mut ChaCha8Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..random.random_range(1..=4) {
        once(random, bytes, other);
    }
}

fn once(random: &mut ChaCha8Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.random_range(0..=bytes.len());
    let end = random.random_range(at..=bytes.len().min(at + 64));
    match random.random_range(0..9) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        3 => {
            let from = random.random_range(0..=other.len());
            let to = random.random_range(from..=other.len().min(from + 256));
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        4 => drop(bytes.splice(at..end, varint(random))),
        5 => {
            let edge = *EDGES.choose(random).unwrap();
            let width = *[1, 2, 4, 8].choose(random).unwrap();
            let number = edge.to_le_bytes();
            let replaced = bytes.len().min(at + width);
            bytes.splice(at..replaced, number[..width].iter().copied());
        }
        6 => drop(bytes.splice(at..at, piece(random).bytes())),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
    }
}

/// A number as protobuf writes it, also longer than need be, also without end.
fn varint(random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut number = *EDGES.choose(random).unwrap();
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    if random.random_bool(0.2) {
        let last = bytes.len() - 1;
        bytes[last] |= 0x80;
        bytes.extend(std::iter::repeat_n(0x80, random.random_range(0..12)));
        bytes.push(0);
    }
    bytes
}

fn piece(random: &mut ChaCha8Rng) -> &'static str {
    PIECES.choose(random).unwrap()
}

/// Text made of words of `seeds`, odd pieces and any characters.
pub(crate) fn text(random: &mut ChaCha8Rng, seeds: &[&str], most_pieces: usize) -> String {
    let mut text = String::new();
    for _ in 0..random.random_range(0..=most_pieces) {
        let some = match random.random_range(0..4) {
            0 => piece(random).to_owned(),
            1 => random.random::<char>().to_string(),
            _ => seeds.choose(random).copied().unwrap_or(" ").to_owned(),
        };
        let times = match random.random_range(0..50) {
            0 => random.random_range(2..2000),
            1..5 => 3,
            _ => 1,
        };
        text.push_str(&some.repeat(times));
    }
    text
}

/// Text as [`mutate`] leaves it.
pub(crate) fn mutated_text(random: &mut ChaCha8Rng, seed: &str, other: &str) -> String {
    let mut bytes = seed.as_bytes().to_vec();
    mutate(random, &mut bytes, other.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}
