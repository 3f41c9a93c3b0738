//! Rotary parameters in the two spellings of Hugging Face: single fields beside `rope_scaling`,
//! or all of them inside `rope_parameters`.

use serde_json::{Value, json};

use super::{
    config::{Rotary, RotaryScaling},
    fields::Fields,
};
use crate::error::Result;

/// Reads whatever spelling is there; two that contradict each other are refused.
/// `share` is the part of each head's `head_dim` features that the family rotates by default.
pub(super) fn read(fields: &mut Fields, head_dim: usize, share: f64) -> Result<Rotary> {
    let mut found = Found::default();
    for name in ["rope_parameters", "rope_scaling"] {
        if let Some(object) = fields.object(name)? {
            found.read_object(object)?;
        }
    }
    for name in ["rope_theta", "rotary_emb_base"] {
        let value = fields.take(name)?;
        agree(fields, name, &mut found.theta, value)?;
    }
    for name in ["rotary_pct", "partial_rotary_factor"] {
        let value = fields.take(name)?;
        agree(fields, name, &mut found.share, value)?;
    }
    let rotated = found.share.unwrap_or(share);
    if !(rotated > 0.0 && rotated <= 1.0) || (share == 1.0 && rotated != 1.0) {
        let reason = format!("{rotated} of each head is not supported for this architecture");
        return Err(fields.refuse("partial_rotary_factor", reason));
    }
    Ok(Rotary {
        // Truncation is what the reference implementation does.
        dims: (head_dim as f64 * rotated) as usize,
        theta: found.theta.unwrap_or(10_000.0),
        scaling: found.scaling.unwrap_or(RotaryScaling::None),
    })
}

/// Writes `rope_parameters`.
pub(super) fn write(rotary: &Rotary, head_dim: usize) -> Value {
    let share = rotary.dims as f64 / head_dim as f64;
    let mut value = match rotary.scaling {
        RotaryScaling::None => json!({ "rope_type": "default" }),
        RotaryScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RotaryScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_positions,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_positions,
        }),
    };
    value["rope_theta"] = rotary.theta.into();
    value["partial_rotary_factor"] = share.into();
    value
}

#[derive(Default)]
struct Found {
    theta: Option<f64>,
    share: Option<f64>,
    scaling: Option<RotaryScaling>,
}

impl Found {
    fn read_object(&mut self, mut fields: Fields) -> Result<()> {
        let theta = fields.take("rope_theta")?;
        agree(&fields, "rope_theta", &mut self.theta, theta)?;
        let share = fields.take("partial_rotary_factor")?;
        agree(&fields, "partial_rotary_factor", &mut self.share, share)?;
        let mut kind: Option<String> = fields.take("rope_type")?;
        let older = fields.take("type")?;
        agree(&fields, "type", &mut kind, older)?;
        let scaling = match kind.as_deref() {
            None | Some("default") => RotaryScaling::None,
            Some("linear") => RotaryScaling::Linear {
                factor: fields.require("factor")?,
            },
            Some("llama3") => RotaryScaling::Llama3 {
                factor: fields.require("factor")?,
                low_freq_factor: fields.require("low_freq_factor")?,
                high_freq_factor: fields.require("high_freq_factor")?,
                original_max_positions: fields.require("original_max_position_embeddings")?,
            },
            Some(other) => {
                let reason = format!("`{other}` is not supported, only default, linear and llama3");
                return Err(fields.refuse("rope_type", reason));
            }
        };
        agree(&fields, "rope_type", &mut self.scaling, Some(scaling))?;
        fields.finish(&[])
    }
}

/// Stores `value`, which must not contradict what another spelling said.
fn agree<T: PartialEq + std::fmt::Debug>(
    fields: &Fields,
    name: &str,
    known: &mut Option<T>,
    value: Option<T>,
) -> Result<()> {
    match (&known, &value) {
        (Some(before), Some(now)) if before != now => Err(fields.refuse(
            name,
            format!("{now:?} contradicts {before:?} in another spelling of the same field"),
        )),
        (None, Some(_)) => {
            *known = value;
            Ok(())
        }
        _ => Ok(()),
    }
}
