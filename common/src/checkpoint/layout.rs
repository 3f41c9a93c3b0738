//! Names and shapes of the tensors that each family stores.

use super::config::{Architecture, ModelConfig, NormKind};

/// Name of the input embedding, `[vocabulary, hidden]`.
pub fn embedding_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::GptNeoX => "gpt_neox.embed_in.weight",
        Architecture::Llama => "model.embed_tokens.weight",
    }
}

/// What the tensors of layer `layer` begin with, the dot included.
pub fn layer_prefix(architecture: Architecture, layer: usize) -> String {
    match architecture {
        Architecture::GptNeoX => format!("gpt_neox.layers.{layer}."),
        Architecture::Llama => format!("model.layers.{layer}."),
    }
}

/// Name of the final norm, without `.weight` or `.bias`.
pub fn final_norm_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::GptNeoX => "gpt_neox.final_layer_norm",
        Architecture::Llama => "model.norm",
    }
}

/// Name of the LM head's weight, `[vocabulary, hidden]`: the input embedding where they are tied.
pub fn lm_head_name(config: &ModelConfig) -> &'static str {
    match config.architecture {
        architecture if config.tied_embeddings => embedding_name(architecture),
        Architecture::GptNeoX => "embed_out.weight",
        Architecture::Llama => "lm_head.weight",
    }
}

/// Names and shapes of all tensors of a checkpoint that holds the first `layers` layers:
/// input embedding, these layers, final norm, and the LM head unless it is tied.
///
/// Matrices are `[outputs, inputs]`. Files may hold further tensors (buffers of old
/// exporters); they are not read.
pub fn expected_tensors(config: &ModelConfig, layers: usize) -> Vec<(String, Vec<usize>)> {
    let mut list = TensorList::default();
    list.push(
        embedding_name(config.architecture),
        &[config.vocabulary, config.hidden],
    );
    for layer in 0..layers {
        list.prefix = layer_prefix(config.architecture, layer);
        match config.architecture {
            Architecture::GptNeoX => list.neox_layer(config),
            Architecture::Llama => list.llama_layer(config),
        }
    }
    list.prefix.clear();
    let biased = config.norm.kind == NormKind::LayerNorm;
    list.affine(
        final_norm_name(config.architecture),
        &[config.hidden],
        biased,
    );
    if !config.tied_embeddings {
        list.push(lm_head_name(config), &[config.vocabulary, config.hidden]);
    }
    list.tensors
}

#[derive(Default)]
struct TensorList {
    prefix: String,
    tensors: Vec<(String, Vec<usize>)>,
}

impl TensorList {
    fn push(&mut self, name: &str, shape: &[usize]) {
        self.tensors
            .push((format!("{}{name}", self.prefix), shape.to_vec()));
    }

    /// A weight of `shape` and, where there is one, a bias along its first dimension.
    fn affine(&mut self, name: &str, shape: &[usize], bias: bool) {
        self.push(&format!("{name}.weight"), shape);
        if bias {
            self.push(&format!("{name}.bias"), &shape[..1]);
        }
    }

    fn neox_layer(&mut self, config: &ModelConfig) {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        self.affine("input_layernorm", &[hidden], true);
        self.affine("post_attention_layernorm", &[hidden], true);
        self.affine(
            "attention.query_key_value",
            &[3 * hidden, hidden],
            config.qkv_bias,
        );
        self.affine(
            "attention.dense",
            &[hidden, hidden],
            config.attention_output_bias,
        );
        self.affine(
            "mlp.dense_h_to_4h",
            &[intermediate, hidden],
            config.mlp_bias,
        );
        self.affine(
            "mlp.dense_4h_to_h",
            &[hidden, intermediate],
            config.mlp_bias,
        );
    }

    fn llama_layer(&mut self, config: &ModelConfig) {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let (query, kv) = (config.query_features(), config.kv_features());
        self.affine("input_layernorm", &[hidden], false);
        self.affine("post_attention_layernorm", &[hidden], false);
        self.affine("self_attn.q_proj", &[query, hidden], config.qkv_bias);
        self.affine("self_attn.k_proj", &[kv, hidden], config.qkv_bias);
        self.affine("self_attn.v_proj", &[kv, hidden], config.qkv_bias);
        self.affine(
            "self_attn.o_proj",
            &[hidden, query],
            config.attention_output_bias,
        );
        self.affine("mlp.gate_proj", &[intermediate, hidden], config.mlp_bias);
        self.affine("mlp.up_proj", &[intermediate, hidden], config.mlp_bias);
        self.affine("mlp.down_proj", &[hidden, intermediate], config.mlp_bias);
    }
}
