// The matrix product: out[r, j] = sum of x[r, i] w[j, i], and what follows element by element.
//
// With few rows it takes what reading the weights takes, if enough of them are on the way at any time: about
// 20 KB for each multiprocessor. So weights and inputs go through a ring of stages in shared memory. Nothing
// of a result depends on how rows and outputs are cut into tiles.

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
};

// What finishes one sum, loaded before it is known: at the end nothing waits for memory.
struct Finisher {
  float bias = 0.0f, factor = 1.0f, residual = 0.0f;

  __device__ __forceinline__ void load(const Finish& finish, u64 at, u32 output) {
    if (finish.bias) bias = finish.bias[output];
    if (finish.factor) factor = finish.factor[at];
    if (finish.residual) residual = finish.residual[at];
  }

  __device__ __forceinline__ float apply(const Finish& finish, float value) const {
    if (finish.bias) value = value + bias;
    if (finish.activation != NO_ACTIVATION) value = activated(finish.activation, value);
    if (finish.factor) value = value * factor;
    return finish.residual ? residual + value : value;
  }
};

// A stage of HEIGHT rows of `length` in global memory, their INPUTS from `first` on, and its place with rows of STRIDE.
// Behind the last row it is taken again; behind the end of a row are zeros.
template <typename T, u32 HEIGHT, u32 INPUTS, u32 STRIDE, u32 THREADS> struct Rows {
  static const u32 LOAD = 16 / sizeof(T), LOADS = INPUTS / LOAD;
  const T* from;
  u32 row, rows, length;

  // Asynchronously, of rows that begin at 16 bytes. ONCE: they are not read again.
  template <bool ONCE> __device__ __forceinline__ void begin(T* to, u32 first) const {
#pragma unroll
    for (u32 begin = 0; begin < HEIGHT * LOADS; begin += THREADS) {
      const u32 i = begin + threadIdx.x, at = first + i % LOADS * LOAD;
      if (HEIGHT * LOADS % THREADS != 0 && i >= HEIGHT * LOADS) break;
      const T* source = from + (u64)min(row + i / LOADS, rows - 1) * length + (at < length ? at : 0);
      T* target = to + i / LOADS * STRIDE + i % LOADS * LOAD;
      const u32 bytes = at < length ? 16 : 0;
      if (ONCE) begin_copy_once(target, source, bytes);
      else begin_copy(target, source, bytes);
    }
  }

  // At once, one by one, of any rows.
  __device__ __forceinline__ void copy(T* to, u32 first) const {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < HEIGHT * INPUTS; i += THREADS) {
      const u32 at = first + i % INPUTS;
      const T* source = from + (u64)min(row + i / INPUTS, rows - 1) * length;
      to[i / INPUTS * STRIDE + i % INPUTS] = at < length ? source[at] : T();
    }
  }
};

// A block's part: ROWS rows by 8 outputs of each warp. A thread has WIDTH lanes of OUTPUTS outputs for all rows, and loads
// ROWS + OUTPUTS times for ROWS times OUTPUTS sums: few lanes for many rows.
template <typename T, u32 ROWS, u32 WIDTH, u32 WARPS, u32 STAGES, u32 STAGE_BYTES>
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
  const Rows<T, HEIGHT, INPUTS, STRIDE, THREADS> weight_rows = {w, output, n, k};
  const Rows<float, ROWS, INPUTS, INPUTS, THREADS> input_rows = {x, row, m, k};
  auto fetch = [&](u32 stage) {
    T* weights = (T*)(memory + stage % STAGES * STAGE);
    float* inputs = (float*)(memory + stage % STAGES * STAGE + WEIGHTS);
    if (stage < stages && aligned) {
      // Blocks for other rows read the same weights, if one block does not have all rows.
      weight_rows.template begin<ROWS <= 8>(weights, stage * INPUTS);
      input_rows.template begin<false>(inputs, stage * INPUTS);
    } else if (stage < stages) {
      weight_rows.copy(weights, stage * INPUTS);
      input_rows.copy(inputs, stage * INPUTS);
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

  // Results that this thread finishes.
  const u32 RESULTS = (ROWS * HEIGHT + THREADS - 1) / THREADS;
  auto result = [&](u32 e, u64& at, u32& column) {
    const u32 i = e * THREADS + threadIdx.x, r = row + i / HEIGHT;
    column = output + i % HEIGHT;
    at = (u64)r * n + column;
    return i < ROWS * HEIGHT && r < m && column < n;
  };
  Finisher finishers[RESULTS];
  u64 at;
  u32 column;
#pragma unroll
  for (u32 e = 0; e < RESULTS; e++) {
    if (result(e, at, column)) finishers[e].load(finish, at, column);
  }

  for (u32 stage = 0; stage < stages; stage++) {
    wait_for_stage<STAGES - 2>();
    // Every thread's part of this stage is there, and all have left the place of the one before.
    __syncthreads();
    fetch(stage + STAGES - 1);
    const unsigned char* place = memory + stage % STAGES * STAGE;
    const T* weights = (const T*)place + mine * STRIDE + part;
    const float* inputs = (const float*)(place + WEIGHTS) + part;
    auto take = [&](u32 step) {
      Lanes<WIDTH> some[OUTPUTS];
#pragma unroll
      for (u32 j = 0; j < OUTPUTS; j++) some[j] = load<WIDTH>(weights + j * TEAMS * STRIDE + step * LANES);
#pragma unroll
      for (u32 r = 0; r < ROWS; r++) {
        const Lanes<WIDTH> input = load<WIDTH>(inputs + r * INPUTS + step * LANES);
#pragma unroll
        for (u32 j = 0; j < OUTPUTS; j++) sums[r][j].fused(input, some[j]);
      }
    };
    if (stage * STEPS + STEPS <= steps) {
#pragma unroll
      for (u32 step = 0; step < STEPS; step++) take(step);
    } else {
      // Not beyond the last step: -0 would not stay -0.
#pragma unroll 1
      for (u32 step = 0; step < steps - stage * STEPS; step++) take(step);
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
#pragma unroll
  for (u32 e = 0; e < RESULTS; e++) {
    const bool writes = result(e, at, column);
    const u32 i = e * THREADS + threadIdx.x;
    if (writes) out[at] = finishers[e].apply(finish, lanes_sum(lanes + i * LANES));
  }
}

#define PRODUCT(NAME, T, ROWS, WIDTH, WARPS, STAGES, STAGE_BYTES)                                     \
  extern "C" __global__ void __launch_bounds__(WARPS * WARP)                                          \
      NAME(const float* x, const T* w, Finish finish, float* out, u32 m, u32 n, u32 k) {              \
    product<T, ROWS, WIDTH, WARPS, STAGES, STAGE_BYTES>(x, w, finish, out, m, n, k);                  \
  }
// Bytes of each row of weights in a stage, and as many stages as 48 KB of shared memory hold. Rows and warps as
// `kernels::cuda::product` has them.
#define PRODUCTS(TYPE, T)                                       \
  PRODUCT(product_##TYPE##_1, T, 1, 4, PRODUCT_FEW, 5, 512)     \
  PRODUCT(product_##TYPE##_2, T, 2, 4, PRODUCT_FEW, 4, 512)     \
  PRODUCT(product_##TYPE##_4, T, 4, 2, PRODUCT_MANY, 4, 256)    \
  PRODUCT(product_##TYPE##_8, T, 8, 1, PRODUCT_MANY, 3, 256)    \
  PRODUCT(product_##TYPE##_16, T, 16, 1, PRODUCT_MANY, 2, 256)
PRODUCTS(f32, float)
PRODUCTS(f16, f16)
PRODUCTS(bf16, bf16)
