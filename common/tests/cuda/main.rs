//! The CUDA kernels' own source, compiled for the CPU, against the f64 reference and the CPU's
//! sampler. Needs a C++ compiler: `DSSD_CXX`, or else `c++`. Where there is none, the tests say so and
//! pass, unless `DSSD_CUDA_SOURCE_REQUIRED` is set, as it is in CI.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod host;
mod pick;
mod summary;
