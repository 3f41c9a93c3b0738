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
};

// (x - mean) / sqrt(variance + eps) if `centred`, else x / sqrt(mean of x^2 + eps), as one norm has it or two. Row r of the
// outputs comes of row `rows`[r] of x, or r without those.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    norm_rows(const float* x, const u32* rows, Scaled first, Scaled second, u32 width, float eps, u32 centred) {
  __shared__ float held[NORM_HELD];
  __shared__ float mean, inverse;
  const float* row = x + (u64)(rows ? rows[blockIdx.x] : blockIdx.x) * width;
  if (width <= NORM_HELD) {
    for (u32 i = threadIdx.x; i < width; i += NORM_THREADS) held[i] = row[i];
    row = held;
  }
  __syncthreads();
  // The sums have one order, so they are one warp's.
  if (threadIdx.x < WARP) {
    const float middle = centred ? __shfl_sync(ALL_LANES, row_sum<false>(row, width, 0.0f, false), 0) / (float)width : 0.0f;
    const float squares = row_sum<true>(row, width, middle, centred);
    if (threadIdx.x == 0) {
      mean = middle;
      inverse = 1.0f / sqrtf(squares / (float)width + eps);
    }
  }
  __syncthreads();
  for (u32 i = threadIdx.x; i < width; i += NORM_THREADS) {
    const float normal = (centred ? row[i] - mean : row[i]) * inverse;
    first.write(blockIdx.x, width, i, normal);
    if (second.out) second.write(blockIdx.x, width, i, normal);
  }
}
