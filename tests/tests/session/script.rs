//! Scenario files: `> event` lines, each followed by the `< effect` lines it must have.
//! Other lines are for the reader.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

/// One event: a verb and `name=value` fields. Lists have commas between their values.
pub(crate) struct Event<'a> {
    pub(crate) verb: &'a str,
    fields: BTreeMap<&'a str, &'a str>,
}

impl<'a> Event<'a> {
    pub(crate) fn parse(line: &'a str) -> Self {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap();
        let fields = words.map(|word| word.split_once('=').unwrap()).collect();
        Self { verb, fields }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.fields.get(name).copied()
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name).map(|value| value.parse().unwrap())
    }

    /// A number that may be left out.
    pub(crate) fn number_or(&self, name: &str, default: u32) -> u32 {
        self.number(name)
            .map_or(default, |value| value.try_into().unwrap())
    }

    pub(crate) fn list(&self, name: &str) -> Vec<u32> {
        let values = self.text(name).unwrap_or_default().split(',');
        values
            .filter(|value| !value.is_empty())
            .map(|value| value.parse().unwrap())
            .collect()
    }

    /// The time `at`, in microseconds; 0 if left out.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_micros(self.number("at").unwrap_or(0))
    }
}

/// `1,2,3`, as in a file.
pub(crate) fn joined(tokens: impl IntoIterator<Item = u32>) -> String {
    tokens
        .into_iter()
        .map(|token| token.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

/// Plays every scenario of a folder, each with a fresh player, and compares the transcripts.
pub(crate) fn play_folder<P>(
    folder: &str,
    new: fn() -> P,
    play: fn(&mut P, &Event) -> Vec<String>,
) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let mut played = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let script = fs::read_to_string(&path).unwrap();
        let mut player = new();
        let mut transcript = String::new();
        for line in script.lines().filter(|line| !line.starts_with('<')) {
            transcript += &format!("{line}\n");
            let Some(event) = line.strip_prefix('>') else {
                continue;
            };
            for effect in play(&mut player, &Event::parse(event)) {
                transcript += &format!("< {effect}\n");
            }
        }
        assert_eq!(
            transcript,
            script,
            "{} (left: what happened)",
            path.display()
        );
        played += 1;
    }
    assert!(
        played >= 6,
        "only {played} scenarios in {}",
        folder.display()
    );
}
