//! What the check found.

use super::{Checked, bars::Bar};
use crate::{
    bench::{decode, device::Timings},
    check,
    pair::Model,
};
use anyhow::{Error, Result};
use serde::Serialize;
use std::fmt;

/// The keys of `--json`.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) gpu: String,
    /// Comparisons with the CPU that found no difference.
    pub(super) checked: Vec<Checked>,
    pub(super) pair: Vec<Equality>,
    pub(super) timings: Timings,
    /// Plain decoding, and passes of several rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) decode: Option<decode::Report>,
    /// None where timings only show that they can be taken.
    pub(super) bars: Vec<Bar>,
    /// Why the check failed; empty if it did not.
    pub(super) failures: Vec<String>,
}

/// Drafted against plain answers of the pair.
#[derive(Serialize)]
pub(super) struct Equality {
    model: String,
    tokens_compared: u64,
    differing_tokens: u64,
    /// Drafted tokens, right or wrong: without any, nothing was compared.
    drafted_tokens: u64,
    failures: Vec<String>,
}

impl Equality {
    pub(super) fn new(model: &Model, outcome: check::Report) -> Self {
        let name = model.folder.file_name().unwrap_or(model.folder.as_os_str());
        let drafted_tokens = outcome.drafted_tokens();
        let mut failures = outcome.failures;
        if drafted_tokens == 0 {
            failures.push("no token was drafted".to_owned());
        }
        Self {
            model: name.to_string_lossy().into_owned(),
            tokens_compared: outcome.tokens_compared,
            differing_tokens: outcome.differing_tokens,
            drafted_tokens,
            failures,
        }
    }
}

impl Report {
    pub(super) fn new(gpu: &str) -> Self {
        Self {
            gpu: gpu.to_owned(),
            checked: Vec::new(),
            pair: Vec::new(),
            timings: Timings::default(),
            decode: None,
            bars: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Takes note of one comparison.
    pub(super) fn take(&mut self, name: &str, outcome: Result<Checked>) {
        match outcome {
            Ok(checked) => self.checked.push(checked),
            Err(error) => self.fail(name, &error),
        }
    }

    /// Takes note of a failure: what is known otherwise is told all the same.
    pub(super) fn fail(&mut self, name: &str, error: &Error) {
        self.failures.push(format!("{name}: {error:#}"));
    }

    pub(super) fn passed(&self) -> bool {
        self.failures.is_empty() && self.pair.iter().all(|pair| pair.failures.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.gpu)?;
        for Checked { name, compared } in &self.checked {
            writeln!(
                f,
                "{name:12} {compared:9} compared with the CPU, none differs"
            )?;
        }
        for pair in &self.pair {
            let Equality {
                model,
                tokens_compared,
                differing_tokens,
                ..
            } = pair;
            writeln!(
                f,
                "{model:12} {tokens_compared:9} tokens of the pair, {differing_tokens} differ"
            )?;
        }
        writeln!(f, "\n{}", self.timings)?;
        if let Some(decode) = &self.decode {
            writeln!(f, "{decode}")?;
        }
        if !self.bars.is_empty() {
            writeln!(f, "{:52} {:>8}  wanted", "bar", "measured")?;
        }
        self.bars.iter().try_for_each(|bar| bar.fmt(f))?;
        let all = self.pair.iter().flat_map(|pair| &pair.failures);
        for failure in self.failures.iter().chain(all) {
            writeln!(f, "FAILED       {failure}")?;
        }
        Ok(())
    }
}
