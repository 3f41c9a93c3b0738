// The non-linear functions of the feed-forward layers.

// As `kernels::cuda` numbers them.
#define GELU 0
#define GELU_TANH 1
#define SILU 2
#define RELU 3
#define NO_ACTIVATION 4

__device__ __forceinline__ float activated(u32 kind, float x) {
  switch (kind) {
    case GELU: return x * normal_cdf(x);
    case GELU_TANH: {
      const float inner = fmaf(x * x * 0.044715f, x, x);
      return x * logistic(inner * 1.595769f);
    }
    case SILU: return x * logistic(x);
    default: return x < 0.0f ? 0.0f : x;
  }
}
