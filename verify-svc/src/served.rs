//! What is served: the facts that requests are checked against and clients may ask for.

use crate::{Config, Result};
use dssd_common::{
    checkpoint::Checkpoint,
    exit::{Calibration, ExitHeads},
    kv::BLOCK_POSITIONS,
    model::{compute_type, numerics_id},
    policy::PolicySpec,
    serve::LoadedModel,
    tokenizer::Tokenizer,
};
use dssd_proto::v1;
use std::sync::Arc;

/// Facts that never change while the service runs.
pub(crate) struct Served {
    pub(crate) model: v1::GetModelInfoResponse,
    pub(crate) limits: v1::Limits,
    pub(crate) default_policy: PolicySpec,
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    /// Where tokens may leave the model, if lossy requests are permitted.
    pub(crate) exits: Option<Exits>,
}

/// The exits of the model.
pub(crate) struct Exits {
    /// Layers before each head, from the shallowest.
    pub(crate) layers: Vec<usize>,
    /// What the heads' entropies promise, where that is known.
    pub(crate) calibration: Option<Calibration>,
    /// Names what is read at the exits.
    pub(crate) hash: String,
}

impl Exits {
    /// The exits of a model that is cut at `band_ends`, the last of which is its own end.
    pub(crate) fn new(heads: Option<ExitHeads>, band_ends: &[usize]) -> Self {
        let layers = band_ends[..band_ends.len() - 1].to_vec();
        Self {
            hash: match &heads {
                None => format!("untrained {layers:?}"),
                Some(heads) => match &heads.calibration {
                    Some(calibration) => calibration.heads_hash.clone(),
                    None => heads.hash(),
                },
            },
            calibration: heads.and_then(|heads| heads.calibration),
            layers,
        }
    }
}

impl Served {
    pub(crate) fn new(
        config: &Config,
        model_name: String,
        checkpoint: &Checkpoint,
        tokenizer: Option<Arc<Tokenizer>>,
        loaded: &LoadedModel,
    ) -> Result<Self> {
        let shape = checkpoint.config();
        let fingerprint = checkpoint.fingerprint()?;
        let dtype = compute_type(checkpoint, config.serve.dtype.compute())?;
        let model = v1::GetModelInfoResponse {
            model_name,
            architecture: format!("{:?}", shape.architecture),
            numerics_id: numerics_id(&fingerprint, dtype, loaded.decoder.device().class()),
            checkpoint_fingerprint: fingerprint,
            tokenizer_hash: tokenizer
                .as_ref()
                .map_or_else(String::new, |tokenizer| tokenizer.hash().to_owned()),
            vocabulary_size: shape.vocabulary as u32,
            layer_count: shape.layers as u32,
            hidden_size: shape.hidden as u32,
            max_context: loaded.max_context as u32,
            dtype: dtype.to_owned(),
            device: loaded.decoder.device().to_string(),
            eos_token_ids: checkpoint.generation_defaults().eos_token_ids.clone(),
        };
        let limits = v1::Limits {
            max_context: loaded.max_context as u32,
            max_sequences: config.serve.max_sequences as u32,
            max_queue: config.max_queue() as u32,
            max_step_rows: config.serve.max_step_rows as u32,
            max_draft_tokens: config.serve.max_draft_tokens,
            default_max_new_tokens: config.default_max_new_tokens,
            kv_blocks: loaded.kv.usage().total_blocks as u32,
            kv_block_size: BLOCK_POSITIONS as u32,
        };
        Ok(Self {
            model,
            limits,
            default_policy: config.check()?,
            tokenizer,
            exits: None,
        })
    }
}
