//! What the check continues.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::Path;

/// Openings of stories, one a line; each is cut after several numbers of words.
const OPENINGS: &str = include_str!("openings.txt");
/// Every opening has more words than the last of these.
const CUTS: [usize; 6] = [2, 4, 7, 10, 14, 18];

#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    /// Spec-Bench's form: the first turn is used.
    #[serde(default)]
    turns: Vec<String>,
}

/// The built-in prompts: at least 300, all different.
pub(super) fn built_in() -> Vec<String> {
    let cut = |words: usize| {
        OPENINGS.lines().map(move |line| {
            let words: Vec<&str> = line.split(' ').take(words).collect();
            words.join(" ")
        })
    };
    let mut prompts: Vec<String> = CUTS.into_iter().flat_map(cut).collect();
    let mut seen = std::collections::HashSet::new();
    prompts.retain(|prompt| seen.insert(prompt.clone()));
    prompts
}

/// The built-in openings, uncut.
pub(crate) fn openings() -> Vec<String> {
    OPENINGS.lines().map(str::to_owned).collect()
}

/// One prompt a line, or JSON lines with `prompt` or `turns`.
pub(crate) fn read(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate();
    let prompts: Vec<String> = lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            parse(line).with_context(|| format!("{}, line {}", path.display(), index + 1))
        })
        .collect::<Result<_>>()?;
    if prompts.is_empty() {
        bail!("{}: no prompt in it", path.display());
    }
    Ok(prompts)
}

fn parse(line: &str) -> Result<String> {
    if !line.starts_with('{') {
        return Ok(line.to_owned());
    }
    let Line { prompt, turns } = serde_json::from_str(line)?;
    prompt
        .or_else(|| turns.into_iter().next())
        .context("neither `prompt` nor `turns` is in it")
}

#[cfg(test)]
mod tests {
    use super::{CUTS, OPENINGS, built_in, parse};

    #[test]
    fn there_are_enough_built_in_prompts() {
        assert!(built_in().len() >= 300, "{}", built_in().len());
        let words = |line: &str| line.split(' ').count();
        assert!(OPENINGS.lines().all(|line| words(line) > CUTS[5]));
    }

    #[test]
    fn lines_are_text_or_json() {
        assert_eq!(parse("Once {x}").unwrap(), "Once {x}");
        assert_eq!(parse(r#"{"prompt": "a"}"#).unwrap(), "a");
        assert_eq!(parse(r#"{"id": 3, "turns": ["b", "c"]}"#).unwrap(), "b");
        assert!(parse(r#"{"text": "a"}"#).is_err());
        assert!(parse("{").is_err());
    }
}
