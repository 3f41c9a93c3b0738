//! Tensors of described heads.

use std::path::Path;

use super::{
    description::{DESCRIPTION, HeadDescription, KindName, WEIGHTS, invalid},
    heads::{ExitHead, HeadKind},
};
use crate::{
    checkpoint::{ModelConfig, NormKind, TensorData, WeightFile},
    error::{Error, Result},
};

/// Takes described heads out of the weight file.
pub(super) struct Reader<'a> {
    file: WeightFile,
    config: &'a ModelConfig,
}

impl<'a> Reader<'a> {
    /// Opens the weight file of heads for a model.
    pub(super) fn open(path: &Path, config: &'a ModelConfig) -> Result<Self> {
        Ok(Self {
            file: WeightFile::open(path.into())?,
            config,
        })
    }

    /// One head; `path` is the description's, for errors.
    pub(super) fn head(&self, path: &Path, head: &HeadDescription) -> Result<ExitHead> {
        let &HeadDescription {
            layer,
            kind,
            rank,
            agreement,
        } = head;
        if layer == 0 || layer >= self.config.layers {
            let reason = format!(
                "layer {layer} is not inside a model of {} layers",
                self.config.layers
            );
            return Err(invalid(path, reason));
        }
        let (hidden, vocabulary) = (self.config.hidden, self.config.vocabulary);
        let tensor = |part, shape: &[usize]| self.tensor(&tensor_name(layer, part), shape);
        let kind = match (kind, rank) {
            (KindName::Linear, None) => HeadKind::Linear {
                weight: tensor("linear.weight", &[vocabulary, hidden])?,
                bias: self.optional(&tensor_name(layer, "linear.bias"), &[vocabulary])?,
            },
            (KindName::Adapter, Some(rank)) => HeadKind::Adapter {
                down: tensor("down.weight", &[rank, hidden])?,
                up: tensor("up.weight", &[hidden, rank])?,
            },
            (KindName::Linear, Some(_)) => {
                return Err(invalid(
                    path,
                    format!("layer {layer}: a linear head has no `rank`"),
                ));
            }
            (KindName::Adapter, None) => {
                return Err(invalid(
                    path,
                    format!("layer {layer}: an adapter needs a `rank`"),
                ));
            }
        };
        let norm_bias = match self.config.norm.kind {
            NormKind::LayerNorm => Some(tensor("norm.bias", &[hidden])?),
            NormKind::RmsNorm => None,
        };
        Ok(ExitHead {
            layer,
            agreement,
            norm_weight: tensor("norm.weight", &[hidden])?,
            norm_bias,
            kind,
        })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorData> {
        let tensor = self.file.tensor(name)?;
        if tensor.shape != shape {
            let reason = format!(
                "has the shape {:?}, but the model asks for {shape:?}",
                tensor.shape
            );
            return Err(Error::Tensor {
                tensor: name.into(),
                reason,
            });
        }
        Ok(tensor)
    }

    fn optional(&self, name: &str, shape: &[usize]) -> Result<Option<TensorData>> {
        let there = self.file.names().any(|known| known == name);
        there.then(|| self.tensor(name, shape)).transpose()
    }

    /// A tensor that no head uses means that the two files do not belong together.
    pub(super) fn refuse_strangers(&self, heads: &[ExitHead]) -> Result<()> {
        let used = |name: &str| {
            heads.iter().any(|head| {
                head.tensors()
                    .any(|(part, _)| tensor_name(head.layer, part) == name)
            })
        };
        match self.file.names().find(|name| !used(name)) {
            Some(name) => Err(Error::Tensor {
                tensor: name.into(),
                reason: format!("is in {WEIGHTS} but belongs to no head of {DESCRIPTION}"),
            }),
            None => Ok(()),
        }
    }
}

/// Name of a head's tensor in the weight file.
pub(super) fn tensor_name(layer: usize, part: &str) -> String {
    format!("exits.{layer}.{part}")
}
