//! A head whose numbers can still move.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use dssd_common::{
    bytes::SharedBytes,
    checkpoint::{Checkpoint, NormKind, TensorData, final_norm_name, lm_head_name},
    exit::{ExitHead, HeadKind},
    kernels::{Matrix, WeightType},
};
use half::{bf16, f16};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What follows a head's norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An unembedding of its own, started from the model's.
    Linear,
    /// A residual map of this rank, then the model's own unembedding, which stays as it is.
    Adapter {
        /// Features inside the map.
        rank: usize,
    },
}

/// Where a head's numbers start, and which of them move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// The model's own final norm and unembedding; all move.
    Model,
    /// The model's own final norm, which stays, and a random unembedding (the paper's way).
    Random,
}

/// The parameters of one head, f32.
pub struct TrainableHead {
    layer: usize,
    start: Start,
    numbers: Numbers,
    /// Names and handles of what moves, in a fixed order.
    parameters: Vec<(&'static str, Var)>,
}

/// What a head computes with.
#[derive(Clone)]
pub(super) struct Numbers {
    pub(super) norm_weight: Tensor,
    pub(super) norm_bias: Option<Tensor>,
    pub(super) map: Map,
}

#[derive(Clone)]
pub(super) enum Map {
    Linear(Tensor),
    Adapter {
        down: Tensor,
        up: Tensor,
        /// The model's, which never moves.
        unembedding: Tensor,
    },
}

/// What heads of one model start from.
pub struct Origin {
    norm_weight: Tensor,
    norm_bias: Option<Tensor>,
    unembedding: Tensor,
}

impl Origin {
    /// Reads the final norm and the unembedding of a checkpoint.
    ///
    /// # Errors
    /// If a tensor is missing.
    pub fn read(checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let config = checkpoint.config();
        let norm = final_norm_name(config.architecture);
        let tensor = |name: &str| tensor(&checkpoint.tensor(name)?, device);
        let norm_bias = match config.norm.kind {
            NormKind::LayerNorm => Some(tensor(&format!("{norm}.bias"))?),
            NormKind::RmsNorm => None,
        };
        Ok(Self {
            norm_weight: tensor(&format!("{norm}.weight"))?,
            norm_bias,
            unembedding: tensor(lm_head_name(config))?,
        })
    }
}

impl TrainableHead {
    /// A head at its start.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn new(
        layer: usize,
        kind: Kind,
        start: Start,
        origin: &Origin,
        random: &mut ChaCha8Rng,
    ) -> Result<Self> {
        let unembedding = &origin.unembedding;
        let (vocabulary, hidden) = unembedding.dims2()?;
        let device = unembedding.device();
        let map = match kind {
            Kind::Linear if start == Start::Model => Map::Linear(unembedding.clone()),
            Kind::Linear => Map::Linear(uniform((vocabulary, hidden), hidden, device, random)?),
            // With `up` at zero the head starts as the untrained exit.
            Kind::Adapter { rank } => Map::Adapter {
                down: uniform((rank, hidden), hidden, device, random)?,
                up: Tensor::zeros((hidden, rank), DType::F32, device)?,
                unembedding: unembedding.clone(),
            },
        };
        let numbers = Numbers {
            norm_weight: origin.norm_weight.clone(),
            norm_bias: origin.norm_bias.clone(),
            map,
        };
        Self::of(layer, start, numbers)
    }

    /// A head with its own copies of the numbers that move.
    fn of(layer: usize, start: Start, mut numbers: Numbers) -> Result<Self> {
        let mut parameters = Vec::new();
        let mut moving = |name, tensor: &mut Tensor| -> Result<()> {
            let var = Var::from_tensor(&tensor.detach())?;
            *tensor = var.as_tensor().clone();
            parameters.push((name, var));
            Ok(())
        };
        if start == Start::Model {
            moving("norm.weight", &mut numbers.norm_weight)?;
            if let Some(bias) = &mut numbers.norm_bias {
                moving("norm.bias", bias)?;
            }
        }
        match &mut numbers.map {
            Map::Linear(weight) => moving("linear.weight", weight)?,
            Map::Adapter { down, up, .. } => {
                moving("down.weight", down)?;
                moving("up.weight", up)?;
            }
        }
        Ok(Self {
            layer,
            start,
            numbers,
            parameters,
        })
    }

    /// Another head with the same numbers.
    ///
    /// # Errors
    /// If they cannot be copied.
    pub fn copy(&self) -> Result<Self> {
        Self::of(self.layer, self.start, self.numbers.clone())
    }

    /// What it computes with.
    pub(super) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Where it started.
    pub(super) fn start(&self) -> Start {
        self.start
    }

    /// Layers that run before the head.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Ids that it has a logit for.
    pub(super) fn vocabulary(&self) -> usize {
        let unembedding = match &self.numbers.map {
            Map::Linear(weight) => weight,
            Map::Adapter { unembedding, .. } => unembedding,
        };
        unembedding.dims()[0]
    }

    /// Replaces the numbers that move, in the order of [`TrainableHead::parameters`].
    pub(super) fn set<'a>(&self, values: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
        for ((_, var), value) in self.parameters.iter().zip(values) {
            var.set(value)?;
        }
        Ok(())
    }

    /// Names and handles of the parameters that move.
    pub fn parameters(&self) -> &[(&'static str, Var)] {
        &self.parameters
    }

    /// Logits `[rows, vocabulary]` of states that were normalised without gain and bias,
    /// `[rows, hidden]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn logits(&self, normalised: &Tensor) -> Result<Tensor> {
        let mut x = normalised.broadcast_mul(&self.numbers.norm_weight)?;
        if let Some(bias) = &self.numbers.norm_bias {
            x = x.broadcast_add(bias)?;
        }
        Ok(match &self.numbers.map {
            Map::Linear(weight) => x.matmul(&weight.t()?)?,
            Map::Adapter {
                down,
                up,
                unembedding,
            } => {
                let inner = x.matmul(&down.t()?)?.silu()?;
                (x + inner.matmul(&up.t()?)?)?.matmul(&unembedding.t()?)?
            }
        })
    }

    /// The gradient of each parameter, given that of the logits.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn gradients(&self, logits: &Tensor, gradient: &Tensor) -> Result<Vec<Tensor>> {
        // d/dθ Σ g·logits(θ) at constant g is the vector-Jacobian product that is wanted.
        let store = logits.mul(gradient)?.sum_all()?.backward()?;
        self.parameters
            .iter()
            .map(|(name, var)| {
                store.get(var).cloned().ok_or_else(|| {
                    let lost = format!("no gradient reached {name}");
                    Error::Tensor(candle_core::Error::Msg(lost))
                })
            })
            .collect()
    }

    /// The head as it is stored, its matrices in `dtype`.
    ///
    /// # Errors
    /// If its numbers cannot be read back.
    pub fn to_exit_head(&self, dtype: WeightType, agreement: Option<f64>) -> Result<ExitHead> {
        let vector = |tensor: &Tensor| stored(tensor, WeightType::F32);
        let kind = match &self.numbers.map {
            Map::Linear(weight) => HeadKind::Linear {
                weight: stored(weight, dtype)?,
                bias: None,
            },
            Map::Adapter { down, up, .. } => HeadKind::Adapter {
                down: stored(down, dtype)?,
                up: stored(up, dtype)?,
            },
        };
        Ok(ExitHead {
            layer: self.layer,
            agreement,
            norm_weight: vector(&self.numbers.norm_weight)?,
            norm_bias: self.numbers.norm_bias.as_ref().map(vector).transpose()?,
            kind,
        })
    }
}

/// Uniform on ±1/√`inputs`, as PyTorch starts a linear layer.
fn uniform(
    (rows, columns): (usize, usize),
    inputs: usize,
    device: &Device,
    random: &mut ChaCha8Rng,
) -> Result<Tensor> {
    let reach = 1.0 / (inputs as f32).sqrt();
    let values: Vec<f32> = (0..rows * columns)
        .map(|_| random.random_range(-reach..reach))
        .collect();
    Ok(Tensor::from_vec(values, (rows, columns), device)?)
}

/// A stored tensor, widened to f32.
fn tensor(data: &TensorData, device: &Device) -> Result<Tensor> {
    let elements = data.shape.iter().product();
    let row = Matrix::new(data.bytes.clone(), data.dtype, 1, elements)?;
    let mut values = vec![0.0; elements];
    row.row_f32(0, &mut values);
    Ok(Tensor::from_vec(values, data.shape.as_slice(), device)?)
}

fn stored(tensor: &Tensor, dtype: WeightType) -> Result<TensorData> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    let bytes: Vec<u8> = match dtype {
        WeightType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        WeightType::F16 => values
            .iter()
            .flat_map(|&x| f16::from_f32(x).to_le_bytes())
            .collect(),
        WeightType::Bf16 => values
            .iter()
            .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
            .collect(),
    };
    Ok(TensorData::new(
        "exit head",
        dtype,
        tensor.dims().to_vec(),
        SharedBytes::from_vec(bytes),
    )?)
}
