//! `config.json` in both spellings of Hugging Face, read and written.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    config::{Architecture, ModelConfig, Norm, NormKind},
    fields::Fields,
    rope,
};
use crate::{error::Result, kernels::Activation};

/// Fields that say nothing about the arithmetic of a pass: training, bookkeeping, and what
/// other programs do with the model.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "gradient_checkpointing",
    "hidden_dropout",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "max_sequence_length",
    "max_window_layers",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "resid_pdrop",
    "return_dict",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// One number or a list of them, as `eos_token_id` may be. Some files say −1 for "none".
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum TokenIds {
    One(i64),
    Many(Vec<i64>),
}

impl TokenIds {
    pub(super) fn into_vec(self) -> Vec<u32> {
        let ids = match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        };
        ids.into_iter()
            .filter_map(|id| u32::try_from(id).ok())
            .collect()
    }
}

/// Reads `config.json`.
pub(super) fn read_config(path: &Path) -> Result<ModelConfig> {
    let mut fields = Fields::read(path)?;
    fields.only("is_encoder_decoder", false)?;
    fields.only("add_cross_attention", false)?;
    let class = model_class(&mut fields)?;
    let config = match class.as_str() {
        "GPTNeoXForCausalLM" => neox(&mut fields)?,
        "LlamaForCausalLM" => llama(&mut fields)?,
        "MistralForCausalLM" => mistral(&mut fields)?,
        "Qwen2ForCausalLM" => qwen2(&mut fields)?,
        _ => {
            let known =
                "GPTNeoXForCausalLM, LlamaForCausalLM, MistralForCausalLM and Qwen2ForCausalLM";
            return Err(fields.refuse(
                "architectures",
                format!("`{class}` is not supported, only {known}"),
            ));
        }
    };
    if let Some((field, reason)) = config.contradiction() {
        return Err(fields.refuse(field, reason));
    }
    fields.finish(HARMLESS)?;
    Ok(config)
}

/// The class that the weights were saved from.
fn model_class(fields: &mut Fields) -> Result<String> {
    let classes: Vec<String> = fields.take("architectures")?.unwrap_or_default();
    match classes.as_slice() {
        [class] => Ok(class.clone()),
        [] => Err(fields.refuse(
            "architectures",
            "is missing, so the kind of model is unknown",
        )),
        _ => Err(fields.refuse("architectures", "names more than one model")),
    }
}

fn neox(fields: &mut Fields) -> Result<ModelConfig> {
    let bias = fields.take("attention_bias")?.unwrap_or(true);
    Ok(ModelConfig {
        parallel_residual: fields.take("use_parallel_residual")?.unwrap_or(true),
        qkv_bias: bias,
        attention_output_bias: bias,
        mlp_bias: true,
        ..decoder(fields, Architecture::GptNeoX)?
    })
}

fn llama(fields: &mut Fields) -> Result<ModelConfig> {
    fields.only("pretraining_tp", 1)?;
    fields.only("rope_interleaved", false)?;
    let attention_bias = fields.take("attention_bias")?.unwrap_or(false);
    Ok(ModelConfig {
        qkv_bias: attention_bias,
        attention_output_bias: attention_bias,
        mlp_bias: fields.take("mlp_bias")?.unwrap_or(false),
        ..decoder(fields, Architecture::Llama)?
    })
}

/// Mistral computes what Llama computes as long as its window reaches over the whole context.
fn mistral(fields: &mut Fields) -> Result<ModelConfig> {
    let config = decoder(fields, Architecture::Llama)?;
    // Transformers takes a missing field as 4096, and null as no window.
    let missing = (!fields.has("sliding_window")).then_some(4096);
    match fields.take("sliding_window")?.or(missing) {
        Some(window) if window < config.max_positions => {
            let reason =
                format!("a window of {window} below max_position_embeddings is not supported");
            Err(fields.refuse("sliding_window", reason))
        }
        _ => Ok(config),
    }
}

/// Qwen2 is Llama with biases on the query, key and value projections alone.
fn qwen2(fields: &mut Fields) -> Result<ModelConfig> {
    fields.only("use_sliding_window", false)?;
    // Without `use_sliding_window` the size of the window means nothing.
    fields.take::<usize>("sliding_window")?;
    Ok(ModelConfig {
        qkv_bias: true,
        ..decoder(fields, Architecture::Llama)?
    })
}

/// What all models of a family have in common; without biases, attention before MLP.
fn decoder(fields: &mut Fields, architecture: Architecture) -> Result<ModelConfig> {
    let heads: usize = fields.require("num_attention_heads")?;
    let hidden: usize = fields.require("hidden_size")?;
    let (mut kv_heads, mut head_dim) = (None, None);
    let (norm, activation, rotated_share);
    match architecture {
        Architecture::GptNeoX => {
            norm = Norm {
                kind: NormKind::LayerNorm,
                eps: fields.take("layer_norm_eps")?.unwrap_or(1e-5),
            };
            (activation, rotated_share) = (Activation::Gelu, 0.25);
        }
        Architecture::Llama => {
            full_attention_only(fields)?;
            (kv_heads, head_dim) = (
                fields.take("num_key_value_heads")?,
                fields.take("head_dim")?,
            );
            norm = Norm {
                kind: NormKind::RmsNorm,
                eps: fields.take("rms_norm_eps")?.unwrap_or(1e-6),
            };
            (activation, rotated_share) = (Activation::Silu, 1.0);
        }
    }
    let head_dim = match head_dim {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(fields.refuse(
                "num_attention_heads",
                format!("{heads} does not divide hidden_size {hidden}"),
            ));
        }
    };
    Ok(ModelConfig {
        architecture,
        vocabulary: fields.require("vocab_size")?,
        hidden,
        layers: fields.require("num_hidden_layers")?,
        heads,
        kv_heads: kv_heads.unwrap_or(heads),
        head_dim,
        intermediate: fields.require("intermediate_size")?,
        norm,
        activation: read_activation(fields)?.unwrap_or(activation),
        gated_mlp: architecture == Architecture::Llama,
        rotary: rope::read(fields, head_dim, rotated_share)?,
        max_positions: fields.require("max_position_embeddings")?,
        parallel_residual: false,
        qkv_bias: false,
        attention_output_bias: false,
        mlp_bias: false,
        tied_embeddings: fields.take("tie_word_embeddings")?.unwrap_or(false),
        bos_token_id: fields
            .take::<TokenIds>("bos_token_id")?
            .and_then(|ids| ids.into_vec().first().copied()),
        eos_token_ids: fields
            .take::<TokenIds>("eos_token_id")?
            .map(TokenIds::into_vec)
            .unwrap_or_default(),
    })
}

fn full_attention_only(fields: &mut Fields) -> Result<()> {
    let kinds: Vec<String> = fields.take("layer_types")?.unwrap_or_default();
    match kinds.iter().find(|kind| *kind != "full_attention") {
        Some(kind) => Err(fields.refuse(
            "layer_types",
            format!("`{kind}` is not supported, only full_attention"),
        )),
        None => Ok(()),
    }
}

fn read_activation(fields: &mut Fields) -> Result<Option<Activation>> {
    let Some(name) = fields.take::<String>("hidden_act")? else {
        return Ok(None);
    };
    match name.as_str() {
        "gelu" => Ok(Some(Activation::Gelu)),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Some(Activation::GeluTanh)),
        "silu" | "swish" => Ok(Some(Activation::Silu)),
        "relu" => Ok(Some(Activation::Relu)),
        _ => Err(fields.refuse(
            "hidden_act",
            format!("`{name}` is not supported, only gelu, gelu_new, silu and relu"),
        )),
    }
}

/// The `config.json` that [`read_config`] reads back as the same configuration.
pub(super) fn write_config(config: &ModelConfig, dtype: &str) -> Value {
    let neox = config.architecture == Architecture::GptNeoX;
    let qwen2 = !neox && config.qkv_bias && !config.attention_output_bias;
    let mut value = json!({
        "bos_token_id": config.bos_token_id,
        "dtype": dtype,
        "eos_token_id": (!config.eos_token_ids.is_empty()).then_some(&config.eos_token_ids),
        "hidden_act": match config.activation {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_new",
            Activation::Silu => "silu",
            Activation::Relu => "relu",
        },
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "max_position_embeddings": config.max_positions,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "rope_parameters": rope::write(&config.rotary, config.head_dim),
        "tie_word_embeddings": config.tied_embeddings,
        "vocab_size": config.vocabulary,
    });
    let family = if neox {
        json!({
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "attention_bias": config.qkv_bias,
            "layer_norm_eps": config.norm.eps,
            "use_parallel_residual": config.parallel_residual,
        })
    } else {
        json!({
            "architectures": [if qwen2 { "Qwen2ForCausalLM" } else { "LlamaForCausalLM" }],
            "model_type": if qwen2 { "qwen2" } else { "llama" },
            "head_dim": config.head_dim,
            "num_key_value_heads": config.kv_heads,
            "rms_norm_eps": config.norm.eps,
        })
    };
    for (target, part) in value.as_object_mut().into_iter().zip(family.as_object()) {
        target.extend(part.clone());
        if !neox && !qwen2 {
            target.insert("attention_bias".into(), config.qkv_bias.into());
            target.insert("mlp_bias".into(), config.mlp_bias.into());
        }
    }
    value
}
