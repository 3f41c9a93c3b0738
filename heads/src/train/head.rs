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
    norm_weight: Tensor,
    norm_bias: Option<Tensor>,
    map: Map,
    /// Names and handles of what moves, in a fixed order.
    parameters: Vec<(&'static str, Var)>,
}

enum Map {
    Linear(Tensor),
    Adapter {
        down: Tensor,
        up: Tensor,
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
        let mut parameters = Vec::new();
        let mut moving = |name, tensor: &Tensor| -> Result<Tensor> {
            let var = Var::from_tensor(tensor)?;
            let handle = var.as_tensor().clone();
            parameters.push((name, var));
            Ok(handle)
        };
        let (mut norm_weight, mut norm_bias) =
            (origin.norm_weight.clone(), origin.norm_bias.clone());
        if start == Start::Model {
            norm_weight = moving("norm.weight", &norm_weight)?;
            norm_bias = norm_bias
                .map(|bias| moving("norm.bias", &bias))
                .transpose()?;
        }
        let unembedding = &origin.unembedding;
        let (_, hidden) = unembedding.dims2()?;
        let map = match kind {
            Kind::Linear if start == Start::Model => {
                Map::Linear(moving("linear.weight", unembedding)?)
            }
            Kind::Linear => {
                let weight = uniform(unembedding.dims2()?, hidden, unembedding.device(), random)?;
                Map::Linear(moving("linear.weight", &weight)?)
            }
            Kind::Adapter { rank } => {
                // With `up` at zero the head starts as the untrained exit.
                let down = uniform((rank, hidden), hidden, unembedding.device(), random)?;
                let up = Tensor::zeros((hidden, rank), DType::F32, unembedding.device())?;
                Map::Adapter {
                    down: moving("down.weight", &down)?,
                    up: moving("up.weight", &up)?,
                    unembedding: unembedding.clone(),
                }
            }
        };
        Ok(Self {
            layer,
            norm_weight,
            norm_bias,
            map,
            parameters,
        })
    }

    /// Layers that run before the head.
    pub fn layer(&self) -> usize {
        self.layer
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
        let mut x = normalised.broadcast_mul(&self.norm_weight)?;
        if let Some(bias) = &self.norm_bias {
            x = x.broadcast_add(bias)?;
        }
        Ok(match &self.map {
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
        let kind = match &self.map {
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
            norm_weight: vector(&self.norm_weight)?,
            norm_bias: self.norm_bias.as_ref().map(vector).transpose()?,
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
