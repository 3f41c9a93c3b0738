//! CPU kernels with one fixed order of summation.
