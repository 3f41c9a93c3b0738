//! Mutations of JSON that stay JSON, mostly.

use crate::bytes;
use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// A mutated document: one to four changes of its values, now and then also of its bytes.
pub(crate) fn mutated(random: &mut ChaCha8Rng, seed: &Value) -> Vec<u8> {
    let mut value = seed.clone();
    for _ in 0..random.random_range(1..=4) {
        change(random, &mut value);
    }
    let mut text = value.to_string();
    if random.random_bool(0.05) {
        text = repeated_key(&text);
    }
    if random.random_bool(0.05) {
        text = text.replacen("12345", "1e999", 1);
    }
    let mut text = text.into_bytes();
    if random.random_bool(0.1) {
        let other = text.clone();
        bytes::mutate(random, &mut text, &other);
    }
    text
}

/// Changes one value somewhere inside.
fn change(random: &mut ChaCha8Rng, value: &mut Value) {
    if random.random_bool(0.75) {
        let inner = match value {
            Value::Object(map) if !map.is_empty() => {
                let key = keys(map).choose(random).cloned();
                key.and_then(|key| map.get_mut(&key))
            }
            Value::Array(list) if !list.is_empty() => {
                let at = random.random_range(0..list.len());
                list.get_mut(at)
            }
            _ => None,
        };
        if let Some(inner) = inner {
            return change(random, inner);
        }
    }
    match value {
        Value::Object(map) if random.random_bool(0.8) => change_object(random, map),
        Value::Array(list) if random.random_bool(0.8) => change_list(random, list),
        Value::String(text) if random.random_bool(0.5) => {
            *text = bytes::mutated_text(random, text, "aA0_.:/");
        }
        Value::Number(number) if random.random_bool(0.5) => *value = near(random, number),
        _ => *value = odd(random),
    }
}

fn keys(map: &Map<String, Value>) -> Vec<String> {
    map.keys().cloned().collect()
}

fn change_object(random: &mut ChaCha8Rng, map: &mut Map<String, Value>) {
    let keys = keys(map);
    let Some(key) = keys.choose(random) else {
        map.insert("x".to_owned(), odd(random));
        return;
    };
    match random.random_range(0..5) {
        0 => drop(map.remove(key)),
        1 => {
            // Two values change places.
            let other = keys.choose(random).unwrap_or(key);
            let (a, b) = (map[key].clone(), map[other].clone());
            map.insert(key.clone(), b);
            map.insert(other.clone(), a);
        }
        2 => {
            let value = map[key].clone();
            map.insert(bytes::mutated_text(random, key, "_id_size"), value);
        }
        3 => drop(map.insert(key.clone(), Value::Null)),
        _ => drop(map.insert(key.clone(), odd(random))),
    }
}

fn change_list(random: &mut ChaCha8Rng, list: &mut Vec<Value>) {
    let at = random.random_range(0..=list.len());
    match (random.random_range(0..4), list.get(at).cloned()) {
        (0, Some(_)) => drop(list.remove(at)),
        (1, Some(value)) => {
            let times = random.random_range(1..100);
            list.splice(at..at, std::iter::repeat_n(value, times));
        }
        (2, Some(_)) => list.swap(0, at),
        _ => list.insert(at, odd(random)),
    }
}

fn near(random: &mut ChaCha8Rng, number: &serde_json::Number) -> Value {
    match (number.as_u64(), number.as_f64()) {
        (Some(whole), _) => match random.random_range(0..6) {
            0 => json!(whole.wrapping_add(1)),
            1 => json!(whole.wrapping_sub(1)),
            2 => json!(whole.wrapping_mul(2)),
            3 => json!(whole / 2),
            4 => json!(whole as f64 + 0.5),
            _ => json!(-(whole as i128) as i64),
        },
        (None, Some(real)) => json!(real * *[-1.0, 1e-300, 1e300, 1.0001].choose(random).unwrap()),
        _ => Value::Null,
    }
}

fn odd(random: &mut ChaCha8Rng) -> Value {
    match random.random_range(0..12) {
        0 => Value::Null,
        1 => json!(random.random_bool(0.5)),
        2 => json!(-1),
        3 => json!(i64::MIN),
        4 => json!(*[0.5, -0.0, 1e308, -1e308, 5e-324].choose(random).unwrap()),
        5 => json!(""),
        6 => json!("x".repeat(random.random_range(1..5000))),
        7 => json!([]),
        8 => json!({}),
        9 => nested(random.random_range(1..200)),
        10 => json!(12345),
        _ => json!(*bytes::EDGES.choose(random).unwrap()),
    }
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, level| match level % 2 {
        0 => json!([inner]),
        _ => json!({ "a": inner }),
    })
}

/// The first key of an object, once more at its end.
fn repeated_key(text: &str) -> String {
    match text.strip_prefix('{').and_then(|rest| rest.split_once(',')) {
        Some((first, _)) => format!("{},{first}}}", &text[..text.len() - 1]),
        None => text.to_owned(),
    }
}
