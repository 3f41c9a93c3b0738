// Layer norm and RMS norm, a block for each row.

#define NORM_THREADS 256
// Floats of a row that shared memory holds; wider rows are read again.
#define NORM_HELD 8192

// Where a norm's result goes, with the norm's own gain and bias; `out` is null if there is none.
struct Scaled {
  const float *weight, *bias;
  float* out;

  __device__ __forceinline__ void write(u64 row, u32 width, u32 i, float normal) const {
    out[row * width + i] = bias ? fmaf(normal, weight[i], bias[i]) : normal * weight[i];
  }

  // By all warps but the first.
  __device__ __forceinline__ void prefetch_vectors(u32 width) const {
    if (!out) return;
    for (u32 i = (threadIdx.x - WARP) * LINE_FLOATS; i < width; i += (NORM_THREADS - WARP) * LINE_FLOATS) {
      prefetch(weight + i);
      if (bias) prefetch(bias + i);
    }
  }
};

// The mean of a row, 0 unless `centred`, and the sum of squares without it, in the first thread of a warp.
struct Moments { float mean, squares; };
__device__ __forceinline__ Moments row_moments(const float* row, u32 width, bool centred) {
  float mean = 0.0f;
  if (centred) mean = __shfl_sync(ALL_LANES, row_sum<false>(row, width, 0.0f, false), 0) / (float)width;
  return {mean, row_sum<true>(row, width, mean, centred)};
}

// (x - mean) / sqrt(variance + eps) if `centred`, else x / sqrt(mean of x^2 + eps), as one norm has it or two. Row r of the
// outputs comes of row `rows`[r] of x, or r without those.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    norm_rows(const float* x, const u32* rows, Scaled first, Scaled second, u32 width, float eps, u32 centred) {
  __shared__ float held[NORM_HELD];
  __shared__ float mean, inverse;
  const float* row = x + (u64)(rows ? rows[blockIdx.x] : blockIdx.x) * width;
  if (width <= NORM_HELD) {
    for (u32 i = threadIdx.x; i < width; i += NORM_THREADS) held[i] = row[i];
  }
  __syncthreads();
  // The sums have one order, so they are one warp's. Each branch knows where its memory is.
  if (threadIdx.x < WARP) {
    const Moments moments = width <= NORM_HELD ? row_moments(held, width, centred) : row_moments(row, width, centred);
    if (threadIdx.x == 0) {
      mean = moments.mean;
      inverse = 1.0f / sqrtf(moments.squares / (float)width + eps);
    }
  } else {
    first.prefetch_vectors(width);
    second.prefetch_vectors(width);
  }
  __syncthreads();
  if (width <= NORM_HELD) row = held;
  for (u32 i = threadIdx.x; i < width; i += NORM_THREADS) {
    const float normal = (centred ? row[i] - mean : row[i]) * inverse;
    first.write(blockIdx.x, width, i, normal);
    if (second.out) second.write(blockIdx.x, width, i, normal);
  }
}
