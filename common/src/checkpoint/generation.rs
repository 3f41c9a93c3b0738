//! The special tokens that generation begins and ends with.

use std::path::Path;

use super::{config::ModelConfig, fields::Fields, hugging_face::TokenIds};
use crate::error::Result;

/// File of a folder that overrides the special tokens of its `config.json`.
pub(super) const GENERATION_FILE: &str = "generation_config.json";

/// Special tokens of a checkpoint. The sampling values that `generation_config.json` may hold
/// are left to requests, so that the same request means the same with every model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerationDefaults {
    /// Token that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a sequence; any of them does.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationDefaults {
    /// What `config.json` alone says.
    pub(super) fn of(config: &ModelConfig) -> Self {
        Self {
            bos_token_id: config.bos_token_id,
            eos_token_ids: config.eos_token_ids.clone(),
        }
    }

    /// What `generation_config.json` says, and for what it leaves out `config.json`.
    pub(super) fn read(dir: &Path, config: &ModelConfig) -> Result<Self> {
        let mut defaults = Self::of(config);
        let path = dir.join(GENERATION_FILE);
        if !path.exists() {
            return Ok(defaults);
        }
        let mut fields = Fields::read(&path)?;
        if let Some(ids) = fields.take::<TokenIds>("eos_token_id")? {
            defaults.eos_token_ids = ids.into_vec();
        }
        if let Some(ids) = fields.take::<TokenIds>("bos_token_id")? {
            defaults.bos_token_id = ids.into_vec().first().copied();
        }
        Ok(defaults)
    }
}
