//! The candle operations.

use candle_core::{DType, Device, Tensor};
use dssd_common::kernels::{Kernels, WeightType, skinny_product};

use crate::case::{bits, floats, matmul, matrix};

#[test]
fn product_of_tensors_has_the_kernels_bits() {
    let kernels = Kernels::new(2);
    let (m, n, k) = (5, 30, 70);
    let x = floats(1, m * k);
    let weights = Tensor::from_vec(floats(2, n * k), (n, k), &Device::Cpu).unwrap();
    let input = Tensor::from_slice(&x, (m, k), &Device::Cpu).unwrap();
    for (dtype, ours) in [
        (DType::F32, WeightType::F32),
        (DType::F16, WeightType::F16),
        (DType::BF16, WeightType::Bf16),
    ] {
        let out = skinny_product(&kernels, &input, &weights.to_dtype(dtype).unwrap()).unwrap();
        let expected = matmul(&kernels, &x, &matrix(2, n, k, ours), None);
        assert_eq!(out.dims(), [m, n]);
        assert_eq!(
            bits(&out.flatten_all().unwrap().to_vec1().unwrap()),
            bits(&expected)
        );
    }
}

#[test]
fn product_reads_a_slice_of_a_tensor_and_refuses_what_it_cannot_read() {
    let kernels = Kernels::new(1);
    let x = Tensor::from_vec(floats(1, 6 * 8), (6, 8), &Device::Cpu).unwrap();
    let w = Tensor::from_vec(floats(2, 4 * 8), (4, 8), &Device::Cpu).unwrap();
    let whole: Vec<Vec<f32>> = skinny_product(&kernels, &x, &w).unwrap().to_vec2().unwrap();
    let rows = x.narrow(0, 2, 3).unwrap();
    let part: Vec<Vec<f32>> = skinny_product(&kernels, &rows, &w)
        .unwrap()
        .to_vec2()
        .unwrap();
    assert_eq!(part, whole[2..5]);

    let transposed = Tensor::zeros((8, 6), DType::F32, &Device::Cpu)
        .unwrap()
        .t()
        .unwrap();
    assert!(skinny_product(&kernels, &transposed, &w).is_err());
    assert!(skinny_product(&kernels, &x.narrow(1, 0, 4).unwrap(), &w).is_err());
    assert!(skinny_product(&kernels, &x.to_dtype(DType::F64).unwrap(), &w).is_err());
}
