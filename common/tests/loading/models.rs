//! Random models of published shapes.

use dssd_common::checkpoint::{expected_tensors, random_checkpoint, shape, shape_names};
use dssd_common::kernels::WeightType;

/// Parameters as the publishers count them.
const PARAMETERS: [(&str, usize); 12] = [
    ("pythia-70m", 70_426_624),
    ("pythia-160m", 162_322_944),
    ("pythia-410m", 405_334_016),
    ("pythia-1b", 1_011_781_632),
    ("pythia-1.4b", 1_414_647_808),
    ("pythia-2.8b", 2_775_208_960),
    ("pythia-6.9b", 6_857_302_016),
    ("pythia-12b", 11_846_072_320),
    ("tinyllama-1.1b", 1_100_048_384),
    ("llama-3.2-1b", 1_235_814_400),
    ("llama-3.2-3b", 3_212_749_824),
    ("llama-3.1-8b", 8_030_261_248),
];

#[test]
fn shapes_have_the_published_numbers_of_parameters() {
    assert!(shape_names().eq(PARAMETERS.iter().map(|(name, _)| *name)));
    for (name, parameters) in PARAMETERS {
        let config = shape(name).unwrap();
        config.validate().unwrap();
        let counted: usize = expected_tensors(&config, config.layers)
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        assert_eq!(counted, parameters, "{name}");
    }
}

#[test]
fn an_unknown_shape_lists_the_known_ones() {
    let error = shape("gpt-2").unwrap_err().to_string();
    assert!(
        error.contains("`gpt-2`")
            && error.contains("pythia-1.4b")
            && error.contains("llama-3.1-8b"),
        "{error}"
    );
}

#[test]
fn weights_are_what_they_are_said_to_be() {
    let config = dssd_common::checkpoint::ModelConfig {
        layers: 2,
        vocabulary: 1000,
        ..shape("pythia-70m").unwrap()
    };
    let make = |seed| random_checkpoint(config.clone(), WeightType::F32, seed).unwrap();
    let (made, other) = (make(1), make(2));
    assert_eq!(made.fingerprint().unwrap(), make(1).fingerprint().unwrap());
    let values = |tensor: &str| -> Vec<f32> {
        let tensor = made.tensor(tensor).unwrap();
        tensor
            .bytes
            .as_ref()
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect()
    };
    let weights = values("gpt_neox.layers.1.mlp.dense_h_to_4h.weight");
    let mean = weights.iter().sum::<f32>() / weights.len() as f32;
    let deviation =
        (weights.iter().map(|weight| weight * weight).sum::<f32>() / weights.len() as f32).sqrt();
    // A million draws: standard errors are 2e-5 and 1e-5.
    assert!(
        mean.abs() < 1e-4 && (deviation - 0.02).abs() < 1e-4,
        "{mean} {deviation}"
    );
    assert_ne!(
        weights,
        values("gpt_neox.layers.1.mlp.dense_4h_to_h.weight")
    );
    assert!(
        values("gpt_neox.final_layer_norm.weight")
            .iter()
            .all(|&gain| gain == 1.0)
    );
    assert_ne!(
        made.tensor("embed_out.weight").unwrap().bytes.as_ref(),
        other.tensor("embed_out.weight").unwrap().bytes.as_ref()
    );
}
