// The matrix product: out[r, j] = sum of x[r, i] w[j, i], and what follows element by element.
//
// With few rows it takes what reading the weights takes, if enough of them are on the way at any time: about
// 20 KB for each multiprocessor. So weights and inputs go through a ring of stages in shared memory. Nothing
// of a result depends on how rows and outputs are cut into tiles.

// Bytes of each row of weights in one stage.
#define STAGE_BYTES 256
#define WARP_OUTPUTS 8
// Warps of a block for few rows, where blocks for all multiprocessors matter, and for more.
#define PRODUCT_FEW 2
#define PRODUCT_MANY 4

// What becomes of a sum: bias first; what is null or NO_ACTIVATION is left away.
struct Finish {
  const float* bias;
  // As the output, [m, n]; `residual` may be the output.
  const float *factor, *residual;
  u32 activation;

  __device__ __forceinline__ float apply(float value, u64 at, u32 output) const {
    if (bias) value = value + bias[output];
    if (activation != NO_ACTIVATION) value = activated(activation, value);
    if (factor) value = value * factor[at];
    return residual ? residual[at] + value : value;
  }
};

// Copies a stage of HEIGHT rows of `length` from global memory, its inputs from `first` on, to rows of STRIDE; zeros
// behind the end. Rows that begin at 16 bytes are copied asynchronously, others at once.
template <typename T, u32 HEIGHT, u32 INPUTS, u32 STRIDE, u32 THREADS>
__device__ __forceinline__ void copy_rows(T* to, const T* from, u32 row, u32 rows, u32 first, u32 length, bool aligned) {
  const u32 load = 16 / sizeof(T), loads = INPUTS / load;
#pragma unroll
  for (u32 begin = 0; begin < HEIGHT * loads; begin += THREADS) {
    const u32 i = begin + threadIdx.x;
    if (HEIGHT * loads % THREADS != 0 && i >= HEIGHT * loads) break;
    const u32 at = first + i % loads * load;
    // Behind the last row it is copied again.
    const T* source = from + (u64)min(row + i / loads, rows - 1) * length;
    T* target = to + i / loads * STRIDE + i % loads * load;
    if (aligned) {
      begin_copy(target, source + (at < length ? at : 0), at < length ? 16 : 0);
    } else {
#pragma unroll 1
      for (u32 e = 0; e < load; e++) target[e] = at + e < length ? source[at + e] : T();
    }
  }
}

// A block's part: ROWS rows by 8 outputs of each warp. A thread has WIDTH lanes of OUTPUTS outputs for all rows, and loads
// ROWS + OUTPUTS times for ROWS times OUTPUTS sums: few lanes for many rows.
template <typename T, u32 ROWS, u32 WIDTH, u32 WARPS, u32 STAGES>
__device__ __forceinline__ void product(const float* __restrict__ x, const T* __restrict__ w, const Finish& finish,
                                        float* out, u32 m, u32 n, u32 k) {
  const u32 TEAMS = WARP * WIDTH / LANES, OUTPUTS = WARP_OUTPUTS / TEAMS, THREADS = WARPS * WARP;
  const u32 HEIGHT = WARPS * WARP_OUTPUTS, INPUTS = STAGE_BYTES / sizeof(T), STEPS = INPUTS / LANES;
  // One step more than there are inputs: rows below each other lie in other banks.
  const u32 STRIDE = INPUTS + LANES;
  const u32 WEIGHTS = HEIGHT * STRIDE * sizeof(T), STAGE = WEIGHTS + ROWS * INPUTS * sizeof(float);
  // The stages, and in the end, in their place, the lanes of all sums.
  const u32 RING = STAGES * STAGE, SUMS = ROWS * HEIGHT * LANES * sizeof(float);
  __shared__ __align__(16) unsigned char memory[RING > SUMS ? RING : SUMS];

  const u32 row = blockIdx.x * ROWS, output = blockIdx.y * HEIGHT;
  const u32 steps = (k + LANES - 1) / LANES, stages = (steps + STEPS - 1) / STEPS;
  const bool aligned = k % (16 / sizeof(T)) == 0;
  auto fetch = [&](u32 stage) {
    if (stage < stages) {
      unsigned char* place = memory + stage % STAGES * STAGE;
      const u32 first = stage * INPUTS;
      copy_rows<T, HEIGHT, INPUTS, STRIDE, THREADS>((T*)place, w, output, n, first, k, aligned);
      copy_rows<float, ROWS, INPUTS, INPUTS, THREADS>((float*)(place + WEIGHTS), x, row, m, first, k, aligned);
    }
    end_stage();
  };

  const u32 part = team_part<WIDTH>() * WIDTH, team = threadIdx.x % WARP * WIDTH / LANES;
  const u32 mine = threadIdx.x / WARP * WARP_OUTPUTS + team;
  Lanes<WIDTH> sums[ROWS][OUTPUTS];
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
    for (u32 j = 0; j < OUTPUTS; j++) sums[r][j].clear();
  }
#pragma unroll 1
  for (u32 stage = 0; stage < STAGES - 1; stage++) fetch(stage);
  for (u32 stage = 0; stage < stages; stage++) {
    wait_for_stage<STAGES - 2>();
    // Every thread's part of this stage is there, and all have left the place of the one before.
    __syncthreads();
    fetch(stage + STAGES - 1);
    const unsigned char* place = memory + stage % STAGES * STAGE;
    const T* weights = (const T*)place + mine * STRIDE + part;
    const float* inputs = (const float*)(place + WEIGHTS) + part;
    // Not beyond the last step: -0 would not stay -0.
    const u32 count = min(STEPS, steps - stage * STEPS);
#pragma unroll 4
    for (u32 step = 0; step < count; step++) {
      Lanes<WIDTH> some[OUTPUTS];
#pragma unroll
      for (u32 j = 0; j < OUTPUTS; j++) some[j] = load<WIDTH>(weights + j * TEAMS * STRIDE + step * LANES);
#pragma unroll
      for (u32 r = 0; r < ROWS; r++) {
        const Lanes<WIDTH> input = load<WIDTH>(inputs + r * INPUTS + step * LANES);
#pragma unroll
        for (u32 j = 0; j < OUTPUTS; j++) sums[r][j].fused(input, some[j]);
      }
    }
  }
  // [rows, outputs, lanes]
  float* lanes = (float*)memory;
  __syncthreads();
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
    for (u32 j = 0; j < OUTPUTS; j++) store(lanes + (r * HEIGHT + mine + j * TEAMS) * LANES + part, sums[r][j]);
  }
  __syncthreads();
#pragma unroll 1
  for (u32 i = threadIdx.x; i < ROWS * HEIGHT; i += THREADS) {
    const u32 r = row + i / HEIGHT, column = output + i % HEIGHT;
    const u64 at = (u64)r * n + column;
    if (r < m && column < n) out[at] = finish.apply(lanes_sum(lanes + i * LANES), at, column);
  }
}

#define PRODUCT(NAME, T, ROWS, WIDTH, WARPS, STAGES)                                                  \
  extern "C" __global__ void __launch_bounds__(WARPS * WARP)                                          \
      NAME(const float* x, const T* w, Finish finish, float* out, u32 m, u32 n, u32 k) {              \
    product<T, ROWS, WIDTH, WARPS, STAGES>(x, w, finish, out, m, n, k);                               \
  }
// As many stages as 48 KB of shared memory hold. Rows and warps as `kernels::cuda::product` has them.
#define PRODUCTS(TYPE, T)                                  \
  PRODUCT(product_##TYPE##_1, T, 1, 4, PRODUCT_FEW, 8)     \
  PRODUCT(product_##TYPE##_2, T, 2, 4, PRODUCT_FEW, 8)     \
  PRODUCT(product_##TYPE##_4, T, 4, 2, PRODUCT_MANY, 4)    \
  PRODUCT(product_##TYPE##_8, T, 8, 1, PRODUCT_MANY, 3)    \
  PRODUCT(product_##TYPE##_16, T, 16, 1, PRODUCT_MANY, 2)
PRODUCTS(f32, float)
PRODUCTS(f16, f16)
PRODUCTS(bf16, bf16)
