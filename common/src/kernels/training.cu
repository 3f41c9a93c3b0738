// What a head needs to learn: products of matrices as they lie in memory, the way back through a head, its loss,
// and the optimizer's step. Every sum has an order that depends on the shapes alone, so the same training gives
// the same numbers.

#define TRAINING_THREADS 256
#define TRAINING_WARPS (TRAINING_THREADS / WARP)

// A block computes TILE by TILE products, and each of its threads SPOTS by SPOTS groups of GROUP by GROUP of them.
#define TILE 128
#define TILE_DEPTH 8
#define TILE_SIDE 16
#define GROUP 4
#define SPOTS (TILE / (TILE_SIDE * GROUP))
#define TILE_LOADS (TILE * TILE_DEPTH / TRAINING_THREADS)

static_assert(TILE_SIDE * TILE_SIDE == TRAINING_THREADS, "a thread for each place of a tile");

// The element of this thread where each has one.
__device__ __forceinline__ u64 element() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// TILE rows of a factor by TILE_DEPTH of the inner dimension. Rows end in padding, so that neither way of
// filling them hits one bank twice.
struct Slab { float x[TILE_DEPTH][TILE + GROUP]; };

// A factor [count, inner] of a product; TURNED: it lies in memory as [inner, count].
template <bool TURNED> struct Factor {
  const float* x;
  u32 count, inner;

  // This thread's part of the slab at `first` and `depth`; zeros behind the ends.
  __device__ __forceinline__ void load(u32 first, u32 depth, float (&part)[TILE_LOADS]) const {
#pragma unroll
    for (u32 l = 0; l < TILE_LOADS; l++) {
      const u32 i = first + place(l), k = depth + level(l);
      part[l] = i < count && k < inner ? x[TURNED ? (u64)k * count + i : (u64)i * inner + k] : 0.0f;
    }
  }

  __device__ __forceinline__ void store(const float (&part)[TILE_LOADS], Slab& slab) const {
#pragma unroll
    for (u32 l = 0; l < TILE_LOADS; l++) slab.x[level(l)][place(l)] = part[l];
  }

 private:
  // Neighbouring threads read neighbouring numbers.
  static __device__ __forceinline__ u32 load_index(u32 l) { return l * TRAINING_THREADS + threadIdx.x; }
  static __device__ __forceinline__ u32 place(u32 l) { return TURNED ? load_index(l) % TILE : load_index(l) / TILE_DEPTH; }
  static __device__ __forceinline__ u32 level(u32 l) { return TURNED ? load_index(l) / TILE : load_index(l) % TILE_DEPTH; }
};

// The row or column of a tile that is the g-th of this thread's, which is at `side`.
__device__ __forceinline__ u32 tile_place(u32 side, u32 g) {
  return g / GROUP * (TILE_SIDE * GROUP) + side * GROUP + g % GROUP;
}

// out[i, j] = sum over k, in rising order, of a[i, k] b[j, k]; added to out[i, j] if `adds`.
template <bool A_TURNED, bool B_TURNED>
__device__ __forceinline__ void tiled_product(const Factor<A_TURNED> a, const Factor<B_TURNED> b, float* out, u32 adds) {
  __align__(16) __shared__ Slab a_slab, b_slab;
  const u32 row = blockIdx.y * TILE, column = blockIdx.x * TILE;
  const u32 down = threadIdx.x / TILE_SIDE, along = threadIdx.x % TILE_SIDE;
  float sums[SPOTS * GROUP][SPOTS * GROUP] = {};
  float a_next[TILE_LOADS], b_next[TILE_LOADS];
  a.load(row, 0, a_next);
  b.load(column, 0, b_next);
  for (u32 depth = 0; depth < a.inner; depth += TILE_DEPTH) {
    a.store(a_next, a_slab);
    b.store(b_next, b_slab);
    __syncthreads();
    // On their way while this slab is summed up; zeros behind the last one.
    a.load(row, depth + TILE_DEPTH, a_next);
    b.load(column, depth + TILE_DEPTH, b_next);
#pragma unroll
    for (u32 k = 0; k < TILE_DEPTH; k++) {
      float left[SPOTS * GROUP], right[SPOTS * GROUP];
#pragma unroll
      for (u32 g = 0; g < SPOTS * GROUP; g++) {
        left[g] = a_slab.x[k][tile_place(down, g)];
        right[g] = b_slab.x[k][tile_place(along, g)];
      }
#pragma unroll
      for (u32 i = 0; i < SPOTS * GROUP; i++) {
#pragma unroll
        for (u32 j = 0; j < SPOTS * GROUP; j++) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (u32 g = 0; g < SPOTS * GROUP; g++) {
#pragma unroll
    for (u32 h = 0; h < SPOTS * GROUP; h++) {
      const u32 i = row + tile_place(down, g), j = column + tile_place(along, h);
      if (i >= a.count || j >= b.count) continue;
      float& target = out[(u64)i * b.count + j];
      target = adds ? target + sums[g][h] : sums[g][h];
    }
  }
}

// `rows`, `columns`: of out. The names tell which factor lies turned, in the order of BLAS: n as it is written, t turned.
#define TILED_PRODUCT(NAME, A_TURNED, B_TURNED)                                                                  \
  extern "C" __global__ void __launch_bounds__(TRAINING_THREADS)                                                 \
      NAME(const float* a, const float* b, float* out, u32 rows, u32 columns, u32 inner, u32 adds) {             \
    tiled_product(Factor<A_TURNED>{a, rows, inner}, Factor<B_TURNED>{b, columns, inner}, out, adds);             \
  }
// x wT of x [rows, inner] and w [columns, inner].
TILED_PRODUCT(tiled_product_nt, false, false)
// x w of x [rows, inner] and w [inner, columns].
TILED_PRODUCT(tiled_product_nn, false, true)
// gT x of g [inner, rows] and x [inner, columns].
TILED_PRODUCT(tiled_product_tn, true, true)

// The sum over the block, in thread 0: a tree over each warp, then the warps in order.
__device__ __forceinline__ float block_sum(float sum) {
  __shared__ float warps[TRAINING_WARPS];
#pragma unroll
  for (u32 lane = WARP / 2; lane > 0; lane /= 2) sum += __shfl_down_sync(ALL_LANES, sum, lane);
  if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return sum;
#pragma unroll
  for (u32 warp = 1; warp < TRAINING_WARPS; warp++) sum += warps[warp];
  return sum;
}

// out = x gain + bias in each row of `width`; without bias where there is none.
extern "C" __global__ void scale_rows(const float* x, const float* gain, const float* bias, float* out, u32 width,
                                      u64 count) {
  const u64 i = element();
  if (i >= count) return;
  const u32 column = (u32)(i % width);
  out[i] = bias ? fmaf(x[i], gain[column], bias[column]) : x[i] * gain[column];
}

// sums[i] += sum over rows of g[r, i] x[r, i], or of g[r, i] where there is no x. Each warp of a block sums every
// TRAINING_WARPS-th row of WARP columns.
extern "C" __global__ void sum_columns(const float* g, const float* x, float* sums, u32 rows, u32 width) {
  __shared__ float warps[TRAINING_WARPS][WARP];
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const u32 column = blockIdx.x * WARP + lane;
  float sum = 0.0f;
  for (u32 row = warp; row < rows && column < width; row += TRAINING_WARPS) {
    const u64 i = (u64)row * width + column;
    sum = x ? fmaf(g[i], x[i], sum) : sum + g[i];
  }
  warps[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= width) return;
#pragma unroll
  for (u32 other = 1; other < TRAINING_WARPS; other++) sum += warps[other][lane];
  sums[column] = sums[column] + sum;
}

// out = x logistic(x).
extern "C" __global__ void silu(const float* x, float* out, u64 count) {
  const u64 i = element();
  if (i < count) out[i] = x[i] * logistic(x[i]);
}

// g becomes the gradient for x of what has the gradient g for silu(x).
extern "C" __global__ void silu_back(const float* x, float* g, u64 count) {
  const u64 i = element();
  if (i >= count) return;
  const float s = logistic(x[i]);
  g[i] = g[i] * (s * fmaf(x[i], 1.0f - s, 1.0f));
}

// The cross-entropy of a row of logits under the teacher's probabilities, a block for each; the logits become its
// gradient, as in `divergence`. `summaries` are those of the logits.
extern "C" __global__ void __launch_bounds__(TRAINING_THREADS)
    cross_entropy(const float* teacher, float* logits, const float* summaries, float* losses, u32 vocabulary) {
  const u64 row = blockIdx.x;
  const float log_sum_exp = summaries[row * SUMMARY_COLUMNS + 4];
  const float* p = teacher + row * vocabulary;
  float* x = logits + row * vocabulary;
  float loss = 0.0f;
  for (u32 id = threadIdx.x; id < vocabulary; id += TRAINING_THREADS) {
    loss = fmaf(p[id], log_sum_exp - x[id], loss);
    x[id] = exp_lanes(x[id] - log_sum_exp) - p[id];
  }
  loss = block_sum(loss);
  if (threadIdx.x == 0) losses[row] = loss;
}

// Numbers of which a block sums the squares.
#define SQUARES 16384

extern "C" __global__ void __launch_bounds__(TRAINING_THREADS) sum_squares(const float* x, float* sums, u64 count) {
  const u64 first = (u64)blockIdx.x * SQUARES;
  const u64 end = count - first < SQUARES ? count : first + SQUARES;
  float sum = 0.0f;
  for (u64 i = first + threadIdx.x; i < end; i += TRAINING_THREADS) sum = fmaf(x[i], x[i], sum);
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// The factors of one step of AdamW.
struct AdamW {
  // What makes a mean of the sum of gradients, and what keeps their length.
  float mean, clip;
  float decay1, rest1, decay2, rest2;
  // One over what the moments are short of.
  float correction1, correction2;
  float epsilon, kept, rate;
};

// Moves the value against the summed gradient, which begins anew at zero. Nothing is fused, as on the CPU.
extern "C" __global__ void adamw(float* value, float* gradient, float* first, float* second, const AdamW step,
                                 u64 count) {
  const u64 i = element();
  if (i >= count) return;
  const float g = gradient[i] * step.mean * step.clip;
  gradient[i] = 0.0f;
  first[i] = first[i] * step.decay1 + g * step.rest1;
  second[i] = second[i] * step.decay2 + g * g * step.rest2;
  const float scale = sqrtf(second[i] * step.correction2) + step.epsilon;
  const float direction = first[i] * step.correction1 / scale;
  value[i] = value[i] * step.kept - direction * step.rate;
}
