//! `config.json`: both spellings, every family, and what must be refused.

use std::fs;

use dssd_common::checkpoint::{Architecture, Checkpoint, ModelConfig, RotaryScaling, shape};
use dssd_common::kernels::Activation;
use dssd_common::kernels::WeightType;
use serde_json::{Value, json};

use crate::support::{GOLDEN, copy, edit, golden, refusal};

/// The configuration of a golden model after `changes` to its `config.json`. Its weights must
/// still fit.
fn changed(name: &str, changes: Value) -> ModelConfig {
    let dir = copy(name);
    edit(&dir.path().join("config.json"), changes);
    Checkpoint::open(dir.path()).unwrap().config().clone()
}

fn refused(name: &str, changes: Value) -> String {
    let dir = copy(name);
    edit(&dir.path().join("config.json"), changes);
    refusal(dir.path())
}

#[test]
fn both_spellings_are_one_configuration() {
    for name in GOLDEN {
        let dir = copy(name);
        let newer = Checkpoint::open(dir.path()).unwrap();
        fs::copy(
            golden(name).join("config.legacy.json"),
            dir.path().join("config.json"),
        )
        .unwrap();
        let legacy = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(newer.config(), legacy.config(), "{name}");
        assert_eq!(
            newer.fingerprint().unwrap(),
            legacy.fingerprint().unwrap(),
            "{name}"
        );
    }
}

#[test]
fn a_golden_configuration_is_read_as_written() {
    let neox = changed("neox-pythia", json!({}));
    assert_eq!(neox.architecture, Architecture::GptNeoX);
    assert_eq!(
        (neox.hidden, neox.layers, neox.heads, neox.head_dim),
        (64, 6, 4, 16)
    );
    assert_eq!((neox.rotary.dims, neox.rotary.theta), (4, 10_000.0));
    assert!(neox.parallel_residual && neox.qkv_bias && neox.mlp_bias && !neox.gated_mlp);
    let llama = changed("llama3-scaled-tied", json!({}));
    assert_eq!(
        (
            llama.heads,
            llama.kv_heads,
            llama.head_dim,
            llama.intermediate
        ),
        (8, 2, 8, 160)
    );
    assert!(
        llama.tied_embeddings && llama.gated_mlp && !llama.qkv_bias && !llama.parallel_residual
    );
    assert_eq!(llama.activation, Activation::Silu);
    let scaling = RotaryScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 64,
    };
    assert_eq!(llama.rotary.scaling, scaling);
}

#[test]
fn settings_change_what_they_name() {
    assert!(!changed("neox-pythia", json!({ "use_parallel_residual": false })).parallel_residual);
    assert_eq!(
        changed("neox-pythia", json!({ "hidden_act": "gelu_new" })).activation,
        Activation::GeluTanh
    );
    let linear = json!({ "rope_parameters": null, "rope_theta": 500.0, "rope_scaling": { "type": "linear", "factor": 2 } });
    let rotary = changed("llama-gqa", linear).rotary;
    assert_eq!(
        (rotary.theta, rotary.scaling),
        (500.0, RotaryScaling::Linear { factor: 2.0 })
    );
    let half = json!({ "rope_parameters": null, "rotary_pct": 0.5, "rotary_emb_base": 100 });
    let rotary = changed("neox-pythia", half).rotary;
    assert_eq!((rotary.dims, rotary.theta), (8, 100.0));
}

#[test]
fn mistral_is_llama_unless_its_window_cuts() {
    let mistral = |window: Value| {
        json!({ "architectures": ["MistralForCausalLM"], "attention_bias": null, "mlp_bias": null,
                "pretraining_tp": null, "sliding_window": window })
    };
    let plain = changed("llama-gqa", json!({}));
    assert_eq!(changed("llama-gqa", mistral(json!(256))), plain);
    let refused = refused("llama-gqa", mistral(json!(255)));
    assert!(refused.contains("`sliding_window`"), "{refused}");
}

#[test]
fn arithmetic_that_is_not_supported_is_refused_by_field() {
    let cases = [
        (
            "neox-pythia",
            json!({ "architectures": ["GPT2LMHeadModel"] }),
            "`architectures`",
        ),
        (
            "neox-pythia",
            json!({ "architectures": null }),
            "`architectures`",
        ),
        (
            "neox-pythia",
            json!({ "hidden_act": "quick_gelu" }),
            "`hidden_act`",
        ),
        (
            "neox-pythia",
            json!({ "quantization_config": { "bits": 4 } }),
            "`quantization_config`",
        ),
        (
            "neox-pythia",
            json!({ "num_attention_heads": 5 }),
            "`num_attention_heads`",
        ),
        (
            "neox-pythia",
            json!({ "num_attention_heads": 0 }),
            "`num_attention_heads`",
        ),
        (
            "neox-pythia",
            json!({ "hidden_size": "wide" }),
            "`hidden_size`",
        ),
        ("neox-pythia", json!({ "vocab_size": null }), "`vocab_size`"),
        (
            "neox-pythia",
            json!({ "num_hidden_layers": 4_000_000_000_u64 }),
            "`num_hidden_layers`",
        ),
        ("neox-pythia", json!({ "rotary_pct": 0.5 }), "`rotary_pct`"),
        (
            "llama-gqa",
            json!({ "pretraining_tp": 2 }),
            "`pretraining_tp`",
        ),
        (
            "llama-gqa",
            json!({ "sliding_window": 4096 }),
            "`sliding_window`",
        ),
        (
            "llama-gqa",
            json!({ "attention_multiplier": 0.5 }),
            "`attention_multiplier`",
        ),
        ("llama-gqa", json!({ "logit_scale": 0.1 }), "`logit_scale`"),
        (
            "llama-gqa",
            json!({ "num_key_value_heads": 3 }),
            "`num_key_value_heads`",
        ),
        (
            "llama-gqa",
            json!({ "rope_parameters": { "rope_type": "yarn", "factor": 4 } }),
            "`rope_parameters.rope_type`",
        ),
        (
            "llama-gqa",
            json!({ "rope_parameters": { "rope_type": "llama3", "factor": 4 } }),
            "`rope_parameters.low_freq_factor`",
        ),
        (
            "llama-gqa",
            json!({ "rope_parameters": { "rope_type": "default", "beta_fast": 4 } }),
            "`rope_parameters.beta_fast`",
        ),
        (
            "llama-gqa",
            json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }),
            "`partial_rotary_factor`",
        ),
        (
            "llama-gqa",
            json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } }),
            "`rope_scaling.rope_type`",
        ),
        (
            "llama-gqa",
            json!({ "layer_types": ["full_attention", "sliding_attention"] }),
            "`layer_types`",
        ),
    ];
    for (model, changes, field) in cases {
        let message = refused(model, changes.clone());
        assert!(
            message.contains(field) && message.contains("config.json"),
            "{changes}: {message}"
        );
    }
}

#[test]
fn fields_that_do_not_matter_pass() {
    let harmless = json!({ "_name_or_path": "x", "torch_dtype": "float16", "unsloth_version": "2", "hidden_dropout": 0.1 });
    assert_eq!(
        changed("llama-gqa", harmless),
        changed("llama-gqa", json!({}))
    );
}

#[test]
fn a_written_configuration_is_read_back() {
    let biased = ModelConfig {
        qkv_bias: true,
        ..changed("llama-gqa", json!({}))
    };
    let mut configs = vec![biased];
    configs.extend(GOLDEN.map(|name| changed(name, json!({}))));
    // Sizes do not matter here, so the published models' other settings come with small ones.
    configs.extend(["pythia-2.8b", "llama-3.1-8b"].map(|name| ModelConfig {
        vocabulary: 32,
        layers: 1,
        intermediate: 8,
        ..shape(name).unwrap()
    }));
    for config in configs {
        let dir = tempfile::tempdir().unwrap();
        let made = dssd_common::checkpoint::random_checkpoint(config.clone(), WeightType::Bf16, 1)
            .unwrap();
        made.save(dir.path()).unwrap();
        assert_eq!(Checkpoint::open(dir.path()).unwrap().config(), &config);
    }
}

#[test]
fn end_of_sequence_may_be_a_number_a_list_or_elsewhere() {
    let dir = copy("llama-gqa");
    let defaults =
        |dir: &std::path::Path| Checkpoint::open(dir).unwrap().generation_defaults().clone();
    let ids = defaults(dir.path());
    assert_eq!((ids.bos_token_id, ids.eos_token_ids), (Some(1), vec![2]));
    edit(
        &dir.path().join("generation_config.json"),
        json!({ "eos_token_id": [5, 7] }),
    );
    assert_eq!(defaults(dir.path()).eos_token_ids, [5, 7]);
    fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    edit(
        &dir.path().join("config.json"),
        json!({ "eos_token_id": [3, 4], "bos_token_id": -1 }),
    );
    let ids = defaults(dir.path());
    assert_eq!((ids.bos_token_id, ids.eos_token_ids), (None, vec![3, 4]));
}
