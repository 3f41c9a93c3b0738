// Layer norm and RMS norm, a block for each row. Every quad computes the row's sums for itself: they read
// the same addresses at the same time, and no thread waits for another.

#define NORM_THREADS 256

// (x - mean) / sqrt(variance + eps) weight + bias if `centred`, else x / sqrt(mean of x^2 + eps) weight.
extern "C" __global__ void norm_rows(const float* x, const float* weight, const float* bias, float* out, u32 width,
                                     float eps, u32 centred) {
  const float* row = x + (u64)blockIdx.x * width;
  float* target = out + (u64)blockIdx.x * width;
  const u32 padded = (width + LANES - 1) / LANES * LANES;
  float mean = 0.0f;
  if (centred) {
    Lanes sums;
    sums.clear();
    for (u32 i = quad_part() * QUAD; i < padded; i += LANES) sums.add(read_four(row, i, width));
    mean = quad_sum(sums) / (float)width;
  }
  Lanes squares;
  squares.clear();
  for (u32 i = quad_part() * QUAD; i < padded; i += LANES) {
    Lanes four = read_four(row, i, width);
#pragma unroll
    for (u32 l = 0; l < QUAD; l++) {
      // What is behind the end stays zero, it is not centred.
      if (centred && i + l < width) four.lane[l] = four.lane[l] - mean;
    }
    squares.fused(four, four);
  }
  const float inverse = 1.0f / sqrtf(quad_sum(squares) / (float)width + eps);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float normal = (centred ? row[i] - mean : row[i]) * inverse;
    target[i] = bias ? fmaf(normal, weight[i], bias[i]) : normal * weight[i];
  }
}
