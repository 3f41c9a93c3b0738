// The sixteen virtual lanes of the CPU's kernels, spread over a team of neighbouring threads, each of which
// has WIDTH of them: thread p of a team has lanes p WIDTH to p WIDTH + WIDTH - 1. Every sum runs over the same lanes in
// the same order as on the CPU and ends in the same tree, so its bits are the CPU's, whatever the team, the
// tile, the block or the card.

#define LANES 16

// A thread's place in its team.
template <u32 WIDTH> __device__ __forceinline__ u32 team_part() { return threadIdx.x % (LANES / WIDTH); }

// The lanes of one thread.
template <u32 WIDTH> struct Lanes {
  float lane[WIDTH];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (u32 l = 0; l < WIDTH; l++) lane[l] = 0.0f;
  }

  // lane + a b, rounded once.
  __device__ __forceinline__ void fused(const Lanes& a, const Lanes& b) {
#pragma unroll
    for (u32 l = 0; l < WIDTH; l++) lane[l] = fmaf(a.lane[l], b.lane[l], lane[l]);
  }

  __device__ __forceinline__ void add(const Lanes& x) {
#pragma unroll
    for (u32 l = 0; l < WIDTH; l++) lane[l] = lane[l] + x.lane[l];
  }
};

// What one load brings.
template <typename Bits, u32 COUNT> struct __align__(sizeof(Bits) * COUNT) Packed { Bits x[COUNT]; };

// WIDTH elements from p on, which is aligned to all of them.
template <u32 WIDTH> __device__ __forceinline__ Lanes<WIDTH> load(const float* p) {
  const Packed<float, WIDTH> packed = *(const Packed<float, WIDTH>*)p;
  Lanes<WIDTH> lanes;
#pragma unroll
  for (u32 l = 0; l < WIDTH; l++) lanes.lane[l] = packed.x[l];
  return lanes;
}
template <u32 WIDTH, typename T> __device__ __forceinline__ Lanes<WIDTH> load(const T* p) {
  const Packed<unsigned short, WIDTH> packed = *(const Packed<unsigned short, WIDTH>*)p;
  Lanes<WIDTH> lanes;
#pragma unroll
  for (u32 l = 0; l < WIDTH; l++) lanes.lane[l] = widen(T{packed.x[l]});
  return lanes;
}

// The same way back.
template <u32 WIDTH> __device__ __forceinline__ void store(float* p, const Lanes<WIDTH>& lanes) {
  Packed<float, WIDTH> packed;
#pragma unroll
  for (u32 l = 0; l < WIDTH; l++) packed.x[l] = lanes.lane[l];
  *(Packed<float, WIDTH>*)p = packed;
}

// The tree over sixteen lanes that are in memory.
__device__ __forceinline__ float lanes_sum(const float* lanes) {
  Lanes<4> first = load<4>(lanes), second = load<4>(lanes + 4);
  first.add(load<4>(lanes + 8));
  second.add(load<4>(lanes + 12));
  first.add(second);
  return (first.lane[0] + first.lane[2]) + (first.lane[1] + first.lane[3]);
}

// The tree over all sixteen lanes of a team, in the first thread of the team. The whole warp must come.
template <u32 WIDTH> __device__ __forceinline__ float lanes_sum(Lanes<WIDTH> lanes) {
#pragma unroll
  for (u32 half = LANES / 2; half > 0; half /= 2) {
#pragma unroll
    for (u32 l = 0; l < WIDTH; l++) {
      if (half >= WIDTH) lanes.lane[l] += __shfl_down_sync(ALL_LANES, lanes.lane[l], half / WIDTH);
      else if (l < half) lanes.lane[l] += lanes.lane[l + half];
    }
  }
  return lanes.lane[0];
}

// The sum of a row over the lanes: of its elements, or of their squares, once `mean` is taken away where
// `centred`. For a whole warp, whose first thread gets it.
template <bool SQUARES>
__device__ __forceinline__ float row_sum(const float* row, u32 width, float mean, bool centred) {
  const u32 part = team_part<1>(), whole = width / LANES * LANES;
  Lanes<1> sum;
  sum.clear();
  auto take = [&](float x) {
    if (!SQUARES) sum.lane[0] = sum.lane[0] + x;
    else sum.lane[0] = fmaf(x, x, sum.lane[0]);
  };
  const float* x = row + part;
#pragma unroll 32
  for (u32 i = 0; i < whole; i += LANES, x += LANES) take(centred ? *x - mean : *x);
  // What is behind the end is zero, and is not centred.
  if (whole < width) {
    const u32 i = whole + part;
    take(i >= width ? 0.0f : centred ? row[i] - mean : row[i]);
  }
  return lanes_sum(sum);
}
