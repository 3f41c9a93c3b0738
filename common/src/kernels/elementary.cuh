// `elementary` in CUDA C++: the same polynomials, operation by operation.

__device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a < b ? a : b; }

// The nearest integer of a number below 2^22 in magnitude: at 1.5 2^23 the spacing of floats is 1.
__device__ __forceinline__ float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

// 2^n of an integral n in -127 ... 127, where -127 gives 0.
__device__ __forceinline__ float power_of_two(float n) { return __int_as_float(((int)n + 127) << 23); }

#define EXP_LOW (-86.9f)

// e^x within 2 units in the last place; 0 below -86.9, +inf above 88.73, NaN for NaN.
__device__ __forceinline__ float exp_lanes(float x) {
  const float bounded = larger(EXP_LOW, smaller(89.0f, x));
  const float n = nearest(bounded * (float)LOG2_E);
  const float r = fmaf(n, -1.4286068e-6f, fmaf(n, -0.69314575f, bounded));
  float q = 0.0013926184f;
  q = fmaf(q, r, 0.008363179f);
  q = fmaf(q, r, 0.041666556f);
  q = fmaf(q, r, 0.16666577f);
  q = fmaf(q, r, 0.5f);
  const float mantissa = fmaf(r * r, q, r) + 1.0f;
  const float value = (mantissa + mantissa) * power_of_two(n - 1.0f);
  return x < EXP_LOW ? 0.0f : value;
}

// 1 / (1 + e^-x).
__device__ __forceinline__ float logistic(float x) { return 1.0f / (1.0f + exp_lanes(0.0f - x)); }

// The normal distribution function, precise in the lower tail too.
__device__ __forceinline__ float normal_cdf(float x) {
  const float magnitude = smaller(40.0f, larger(x, 0.0f - x));
  const float z = magnitude * 0.70710678f;
  const float t = 1.0f / fmaf(z, 0.5f, 1.0f);
  const float square = magnitude * (magnitude * 0.5f);
  const float error = fmaf(magnitude * 0.5f, magnitude, 0.0f - square);
  const float density = exp_lanes(0.0f - square) * (1.0f - error);
  float p = 0.032398652f;
  p = fmaf(p, t, -0.1716289f);
  p = fmaf(p, t, 0.33256868f);
  p = fmaf(p, t, -0.21899329f);
  p = fmaf(p, t, -0.08664944f);
  p = fmaf(p, t, 0.074567944f);
  p = fmaf(p, t, 0.03905752f);
  p = fmaf(p, t, 0.18979546f);
  p = fmaf(p, t, 0.2444791f);
  p = fmaf(p, t, 0.2823184f);
  p = fmaf(p, t, 0.28208584f);
  const float tail = 0.5f * (t * p * density);
  return x < 0.0f ? tail : 1.0f - tail;
}
