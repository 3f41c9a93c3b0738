//! `exit_heads.json`, and the checks that it shares with `calibration.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The description of a folder's heads.
pub(super) const DESCRIPTION: &str = "exit_heads.json";

/// Their tensors.
pub(super) const WEIGHTS: &str = "exit_heads.safetensors";

/// Version of both descriptions.
pub(super) const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    pub(super) format: u32,
    pub(super) checkpoint_fingerprint: String,
    pub(super) tokenizer_hash: Option<String>,
    pub(super) held_out_share: u64,
    /// Of the tensors.
    pub(super) heads_hash: String,
    pub(super) heads: Vec<HeadDescription>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeadDescription {
    pub(super) layer: usize,
    pub(super) kind: KindName,
    /// Width of an adapter; not part of other heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rank: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) agreement: Option<f64>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum KindName {
    Linear,
    Adapter,
}

pub(super) fn check_format(path: &Path, format: u32) -> Result<()> {
    if format == FORMAT {
        Ok(())
    } else {
        Err(invalid(
            path,
            format!("format {format} is not supported, only {FORMAT}"),
        ))
    }
}

pub(super) fn check_same(what: &'static str, expected: &str, found: &str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Mismatch {
        what,
        expected: expected.into(),
        found: found.into(),
    })
}

pub(super) fn invalid(path: &Path, reason: impl Into<String>) -> Error {
    Error::InvalidFile {
        path: path.into(),
        reason: reason.into(),
    }
}
