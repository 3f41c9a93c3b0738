// The sixteen virtual lanes of the CPU's kernels, spread over a quad: four neighbouring threads, of
// which thread p has lanes 4p to 4p + 3. Every sum runs over the same lanes in the same order as on the
// CPU and ends in the same tree, so its bits are the CPU's, whatever the tile, the block or the card.

#define LANES 16
#define QUAD 4

// A thread's place in its quad.
__device__ __forceinline__ u32 quad_part() { return threadIdx.x % QUAD; }

// Four lanes of one thread.
struct Lanes {
  float lane[QUAD];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (u32 l = 0; l < QUAD; l++) lane[l] = 0.0f;
  }

  // lane + a b, rounded once.
  __device__ __forceinline__ void fused(const Lanes& a, const Lanes& b) {
#pragma unroll
    for (u32 l = 0; l < QUAD; l++) lane[l] = fmaf(a.lane[l], b.lane[l], lane[l]);
  }

  __device__ __forceinline__ void add(const Lanes& x) {
#pragma unroll
    for (u32 l = 0; l < QUAD; l++) lane[l] = lane[l] + x.lane[l];
  }
};

struct __align__(16) FourFloats { float x[4]; };
struct __align__(8) FourHalves { unsigned short x[4]; };

// Four elements from p on, which is aligned to all of them.
__device__ __forceinline__ Lanes load_four(const float* p) {
  const FourFloats four = *(const FourFloats*)p;
  return Lanes{{four.x[0], four.x[1], four.x[2], four.x[3]}};
}
template <typename T> __device__ __forceinline__ Lanes load_four(const T* p) {
  const FourHalves four = *(const FourHalves*)p;
  return Lanes{{widen(T{four.x[0]}), widen(T{four.x[1]}), widen(T{four.x[2]}), widen(T{four.x[3]})}};
}

// Four elements of a row of `length` from `i` on; zeros behind its end.
template <typename T> __device__ __forceinline__ Lanes read_four(const T* row, u32 i, u32 length) {
  Lanes lanes;
#pragma unroll
  for (u32 l = 0; l < QUAD; l++) lanes.lane[l] = i + l < length ? widen(row[i + l]) : 0.0f;
  return lanes;
}

// The tree over all sixteen lanes, in every thread of the quad. The whole warp must come.
__device__ __forceinline__ float quad_sum(Lanes lanes) {
#pragma unroll
  for (u32 threads = QUAD / 2; threads > 0; threads /= 2) {
#pragma unroll
    for (u32 l = 0; l < QUAD; l++) lanes.lane[l] += __shfl_down_sync(ALL_LANES, lanes.lane[l], threads);
  }
  lanes.lane[0] += lanes.lane[2];
  lanes.lane[1] += lanes.lane[3];
  const float sum = lanes.lane[0] + lanes.lane[1];
  return __shfl_sync(ALL_LANES, sum, threadIdx.x % WARP / QUAD * QUAD);
}
