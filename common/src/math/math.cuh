// `math` in CUDA C++: the same operations in the same order, so the same bits as on the CPU. To be
// compiled with contraction off (NVRTC: --fmad=false); what is fused says so.
//
// Goes before every other source of kernels. No header is included, so that NVRTC needs no path.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define NEGATIVE_INFINITY (__int_as_float(0xff800000))
#define POSITIVE_INFINITY (__int_as_float(0x7f800000))
#define NOT_A_NUMBER (__int_as_float(0x7fffffff))

// ln 2 to 32 bits, and the rest of it.
#define LN2_HIGH (__longlong_as_double(0x3fe62e42fee00000ll))
#define LN2_LOW (__longlong_as_double(0x3dea39ef35793c76ll))
#define LOG2_E 1.4426950408889634

// e^x, within one unit in the last place.
__device__ __forceinline__ double exact_exp(double x) {
  if (x != x) return x;
  if (x > 709.782712893384) return __longlong_as_double(0x7ff0000000000000ll);
  if (x < -745.1332191019412) return 0.0;
  int k = (int)(x * LOG2_E + (x < 0.0 ? -0.5 : 0.5));
  double high = x - (double)k * LN2_HIGH;
  double low = (double)k * LN2_LOW;
  double r = high - low;
  double z = r * r;
  double c = r - z * (1.6666666666666602e-1 + z * (-2.7777777777015593e-3 + z * (6.613756321437934e-5
           + z * (-1.6533902205465252e-6 + z * 4.1381367970572385e-8))));
  double fraction = 1.0 + (r * c / (2.0 - c) - low + high);
  int half = k / 2;
  return fraction * __longlong_as_double((i64)(1023 + half) << 52)
                  * __longlong_as_double((i64)(1023 + k - half) << 52);
}

// The natural logarithm of a positive finite normal number, within one unit in the last place.
__device__ __forceinline__ double exact_ln(double x) {
  const u64 sqrt_half = 0x3fe6a09eull << 32, one = 0x3ff00000ull << 32;
  u64 raised = (u64)__double_as_longlong(x) + (one - sqrt_half);
  double k = (double)((i64)(raised >> 52) - 1023);
  double m = __longlong_as_double((i64)((raised & 0x000fffffffffffffull) + sqrt_half));
  double f = m - 1.0;
  double s = f / (2.0 + f);
  double z = s * s;
  double w = z * z;
  double half_square = 0.5 * f * f;
  double even = w * (3.999999999940942e-1 + w * (2.2222198432149784e-1 + w * 1.5313837699209373e-1));
  double odd = z * (6.666666666666735e-1 + w * (2.857142874366239e-1
             + w * (1.818357216161805e-1 + w * 1.4798198605116586e-1)));
  return s * (half_square + (odd + even)) + k * LN2_LOW - half_square + f + k * LN2_HIGH;
}

// 16 bytes, as one load brings them.
struct __align__(16) Words { u32 word[4]; };

#ifdef __CUDACC__
// 2^x, as the hardware has it: within 2 units in the last place, and 0 below 2^-126.
__device__ __forceinline__ float fast_exp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

// The larger of two, NaN if either is.
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}

__device__ __forceinline__ float half_to_float(unsigned short bits) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(bits));
  return wide;
}
#endif
