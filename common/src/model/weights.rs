//! Tensors of a checkpoint in the form that the kernels take.

use crate::{
    Error, Result,
    checkpoint::{Checkpoint, TensorData},
    kernels::{Matrix, WeightType},
};

/// Reads tensors, with all matrices in one compute type.
pub(super) struct WeightLoader<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    /// `None` keeps every matrix as it is stored.
    pub(super) compute: Option<WeightType>,
}

impl WeightLoader<'_> {
    /// A matrix `[outputs, inputs]`.
    pub(super) fn matrix(&self, name: &str) -> Result<Matrix> {
        matrix(name, self.checkpoint.tensor(name)?, self.compute)
    }

    /// A vector, widened to f32.
    pub(super) fn vector(&self, name: &str) -> Result<Vec<f32>> {
        vector(name, self.checkpoint.tensor(name)?)
    }

    /// A vector that this architecture may or may not have.
    pub(super) fn vector_if(&self, present: bool, name: &str) -> Result<Option<Vec<f32>>> {
        present.then(|| self.vector(name)).transpose()
    }
}

/// A tensor of two dimensions as a matrix of the compute type.
pub(super) fn matrix(
    name: &str,
    tensor: TensorData,
    compute: Option<WeightType>,
) -> Result<Matrix> {
    let &[outputs, inputs] = tensor.shape.as_slice() else {
        return Err(shape_error(name, &tensor, "two dimensions"));
    };
    let stored = Matrix::new(tensor.bytes, tensor.dtype, outputs, inputs)?;
    match compute {
        Some(wanted) if wanted != stored.dtype() => stored.convert(wanted),
        _ => Ok(stored),
    }
}

/// A tensor of one dimension, widened to f32.
pub(super) fn vector(name: &str, tensor: TensorData) -> Result<Vec<f32>> {
    let &[len] = tensor.shape.as_slice() else {
        return Err(shape_error(name, &tensor, "one dimension"));
    };
    let row = Matrix::new(tensor.bytes, tensor.dtype, 1, len)?;
    let mut values = vec![0.0; len];
    row.row_f32(0, &mut values);
    Ok(values)
}

fn shape_error(name: &str, tensor: &TensorData, wanted: &str) -> Error {
    Error::Tensor {
        tensor: name.to_owned(),
        reason: format!("has shape {:?}, {wanted} needed", tensor.shape),
    }
}
