// The matrix product: out[r, j] = sum of x[r, i] w[j, i], then one addition of bias[j].
//
// A quad computes OUTPUTS of them for ROWS rows, and so reads its weights once for all of those. Nothing
// depends on how rows and outputs are cut into tiles.

#define PRODUCT_THREADS 64

template <typename T, u32 ROWS, u32 OUTPUTS>
__device__ __forceinline__ void product(const float* __restrict__ x, const T* __restrict__ w,
                                        const float* __restrict__ bias, float* __restrict__ out, u32 m, u32 n, u32 k) {
  const u32 part = quad_part();
  const u32 output = (blockIdx.x * (blockDim.x / QUAD) + threadIdx.x / QUAD) * OUTPUTS;
  const u32 row = blockIdx.y * ROWS;
  // Behind the ends the last ones are computed again, and not written.
  const float* rows[ROWS];
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) rows[r] = x + (u64)min(row + r, m - 1) * k;
  const T* weights[OUTPUTS];
#pragma unroll
  for (u32 j = 0; j < OUTPUTS; j++) weights[j] = w + (u64)min(output + j, n - 1) * k;

  Lanes sums[ROWS][OUTPUTS];
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
    for (u32 j = 0; j < OUTPUTS; j++) sums[r][j].clear();
  }
  // Only then does every row begin at an address that four elements may be read from at once.
  const u32 whole = k % QUAD == 0 ? k - k % LANES : 0;
#pragma unroll 4
  for (u32 i = part * QUAD; i < whole; i += LANES) {
    Lanes four[OUTPUTS];
#pragma unroll
    for (u32 j = 0; j < OUTPUTS; j++) four[j] = load_four(weights[j] + i);
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
      const Lanes inputs = load_four(rows[r] + i);
#pragma unroll
      for (u32 j = 0; j < OUTPUTS; j++) sums[r][j].fused(inputs, four[j]);
    }
  }
  // Threads whose lanes are behind the end add the zeros that the CPU adds.
  for (u32 i = whole + part * QUAD; i < (k + LANES - 1) / LANES * LANES; i += LANES) {
    Lanes four[OUTPUTS];
#pragma unroll
    for (u32 j = 0; j < OUTPUTS; j++) four[j] = read_four(weights[j], i, k);
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
      const Lanes inputs = read_four(rows[r], i, k);
#pragma unroll
      for (u32 j = 0; j < OUTPUTS; j++) sums[r][j].fused(inputs, four[j]);
    }
  }
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
    for (u32 j = 0; j < OUTPUTS; j++) {
      const float sum = quad_sum(sums[r][j]);
      if (part == 0 && row + r < m && output + j < n) {
        out[(u64)(row + r) * n + output + j] = bias ? sum + bias[output + j] : sum;
      }
    }
  }
}

#define PRODUCT(NAME, T, ROWS, OUTPUTS)                                                                         \
  extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS)                                                 \
      NAME(const float* x, const T* w, const float* bias, float* out, u32 m, u32 n, u32 k) {                    \
    product<T, ROWS, OUTPUTS>(x, w, bias, out, m, n, k);                                                        \
  }
// Rows and outputs as `kernels::cuda::TILES` has them.
#define PRODUCTS(TYPE, T)                \
  PRODUCT(product_##TYPE##_1, T, 1, 1)   \
  PRODUCT(product_##TYPE##_2, T, 2, 1)   \
  PRODUCT(product_##TYPE##_4, T, 4, 2)   \
  PRODUCT(product_##TYPE##_8, T, 8, 2)
PRODUCTS(f32, float)
PRODUCTS(f16, f16)
PRODUCTS(bf16, bf16)
