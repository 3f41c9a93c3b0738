// The non-linear functions of the feed-forward layers, and the residual connection.

// As `kernels::cuda` numbers them.
#define GELU 0
#define GELU_TANH 1
#define SILU 2
#define RELU 3

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

__device__ __forceinline__ u64 element() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// x = act(x), or act(x) up where there is an `up`.
extern "C" __global__ void activate(float* x, const float* up, u32 kind, u64 count) {
  const u64 i = element();
  if (i >= count) return;
  const float value = activated(kind, x[i]);
  x[i] = up ? value * up[i] : value;
}

// sum = sum + x.
extern "C" __global__ void add(float* sum, const float* x, u64 count) {
  const u64 i = element();
  if (i < count) sum[i] = sum[i] + x[i];
}
