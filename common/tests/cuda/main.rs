//! The CUDA kernels' own source and their launches, on a stand-in for the driver, against the CPU's kernels, the
//! f64 reference and the CPU's sampler. Needs Linux and a C++ compiler: `DSSD_CXX`, or else `c++`. Where there
//! is none, the tests say so and pass, unless `DSSD_CUDA_SOURCE_REQUIRED` is set, as it is in CI.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod kernels;
mod pick;
mod rows;
mod stand_in;
mod summary;
