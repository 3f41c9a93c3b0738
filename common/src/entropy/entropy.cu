// The fused entropy operation on the GPU, in two launches: parts of rows, then rows. What is
// computed, and why so, is said in `entropy`; the join of two parts is that of the CPU, in f64.

// The sums of one part of a row, relative to its maximum.
struct Partial {
  // Largest logit, and the second largest: the same on ties.
  float top, second;
  // Lowest id of the largest logit.
  u32 argmax;
  // Sum of e^(x - top), NaN if the row is no distribution, and of (x - top) e^(x - top).
  float sum, weighted;
};

static_assert(sizeof(Partial) == 20, "the caller allocates five words for each");

// `Partial` with the sums of many parts.
struct Joined {
  float top, second;
  u32 argmax;
  double sum, weighted;
};

// Columns of a row's summary.
#define SUMMARY_COLUMNS 7

__device__ __forceinline__ void keep_two(float& top, float& second, float x, float next) {
  second = fmaxf(fmaxf(second, next), fminf(top, x));
  top = fmaxf(top, x);
}

// The two largest logits of the block, in every thread.
__device__ __forceinline__ void two_largest(float& top, float& second) {
  __shared__ float tops[PART_WARPS], seconds[PART_WARPS];
#pragma unroll
  for (u32 lane = WARP / 2; lane > 0; lane /= 2) {
    float other = __shfl_xor_sync(ALL_LANES, top, lane);
    float next = __shfl_xor_sync(ALL_LANES, second, lane);
    keep_two(top, second, other, next);
  }
  if (threadIdx.x % WARP == 0) {
    tops[threadIdx.x / WARP] = top;
    seconds[threadIdx.x / WARP] = second;
  }
  __syncthreads();
  top = tops[0];
  second = seconds[0];
#pragma unroll
  for (u32 warp = 1; warp < PART_WARPS; warp++) keep_two(top, second, tops[warp], seconds[warp]);
}

template <typename T>
__device__ __forceinline__ void summarize_part(const T* logits, u64 stride, u32 vocabulary, u32 parts, Partial* partials) {
  const Part<T> part(logits, stride, vocabulary, parts);
  float x[THREAD_LOGITS];
  part.read(x);

  float top = NEGATIVE_INFINITY, second = NEGATIVE_INFINITY;
#pragma unroll
  for (u32 i = 0; i < THREAD_LOGITS; i++) {
    second = fmaxf(second, fminf(top, x[i]));
    top = fmaxf(top, x[i]);
  }
  const float own = top;
  two_largest(top, second);

  // Only threads that have the largest logit look for it.
  u32 argmax = 0xffffffffu;
  if (own == top) {
#pragma unroll
    for (u32 i = THREAD_LOGITS; i-- > 0;) {
      if (x[i] == top) argmax = part.id(i);
    }
  }
  argmax = __reduce_min_sync(ALL_LANES, argmax);

  // A part of -inf alone has e^(-inf - 0) = 0 everywhere.
  const float base = top == NEGATIVE_INFINITY ? 0.0f : top;
  float sum = 0.0f, weighted = 0.0f;
#pragma unroll
  for (u32 i = 0; i < THREAD_LOGITS; i++) {
    // e^-100 is 0 here; the bound keeps -inf times 0 out. NaN, and +inf less itself, go on into the sum.
    const float difference = max_or_nan(x[i] - base, -100.0f);
    const float e = fast_exp2(difference * (float)LOG2_E);
    sum += e;
    weighted = fmaf(difference, e, weighted);
  }
#pragma unroll
  for (u32 lane = WARP / 2; lane > 0; lane /= 2) {
    sum += __shfl_down_sync(ALL_LANES, sum, lane);
    weighted += __shfl_down_sync(ALL_LANES, weighted, lane);
  }

  __shared__ u32 ids[PART_WARPS];
  __shared__ float sums[PART_WARPS], weights[PART_WARPS];
  if (threadIdx.x % WARP == 0) {
    ids[threadIdx.x / WARP] = argmax;
    sums[threadIdx.x / WARP] = sum;
    weights[threadIdx.x / WARP] = weighted;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
#pragma unroll
  for (u32 warp = 1; warp < PART_WARPS; warp++) {
    argmax = min(argmax, ids[warp]);
    sum += sums[warp];
    weighted += weights[warp];
  }
  partials[blockIdx.x] = Partial{top, second, argmax, sum, weighted};
}

// Joins a part with a later one.
__device__ __forceinline__ Joined join(const Joined& earlier, const Joined& later) {
  const bool rises = later.top > earlier.top;
  const Joined high = rises ? later : earlier, low = rises ? earlier : later;
  Joined both = high;
  if (low.top == NEGATIVE_INFINITY) {
    both.sum = high.sum + low.sum;
    return both;
  }
  const double delta = (double)high.top - (double)low.top;
  const double decay = exact_exp(-delta);
  both.second = fmaxf(high.second, low.top);
  both.sum = high.sum + low.sum * decay;
  both.weighted = high.weighted + (low.weighted - delta * low.sum) * decay;
  return both;
}

__device__ __forceinline__ Joined shuffle_down(const Joined& mine, u32 lanes) {
  return Joined{__shfl_down_sync(ALL_LANES, mine.top, lanes), __shfl_down_sync(ALL_LANES, mine.second, lanes),
                __shfl_down_sync(ALL_LANES, mine.argmax, lanes), __shfl_down_sync(ALL_LANES, mine.sum, lanes),
                __shfl_down_sync(ALL_LANES, mine.weighted, lanes)};
}

__device__ __forceinline__ void write_summary(const Joined& row, float* summary) {
  if (!(row.top > NEGATIVE_INFINITY) || !(row.top < POSITIVE_INFINITY) || row.sum != row.sum) {
    const float broken[SUMMARY_COLUMNS] = {0.0f, 0.0f, 0.0f, 0.0f, NOT_A_NUMBER, POSITIVE_INFINITY, 0.0f};
    for (u32 i = 0; i < SUMMARY_COLUMNS; i++) summary[i] = broken[i];
    return;
  }
  const double log_sum = exact_ln(row.sum);
  const double margin = (double)row.top - (double)row.second;
  const double entropy = log_sum - row.weighted / row.sum;
  summary[0] = (float)row.argmax;
  summary[1] = (float)(1.0 / row.sum);
  summary[2] = (float)((1.0 - exact_exp(-margin)) / row.sum);
  summary[3] = (float)margin;
  summary[4] = (float)((double)row.top + log_sum);
  summary[5] = (float)(entropy > 0.0 ? entropy : 0.0);
  summary[6] = 1.0f;
}

// One block for each part of each row: `parts` = ceil(vocabulary / PART_LOGITS) of them in a row.
#define SUMMARIZE_PARTS(NAME, T)                                                              \
  extern "C" __global__ void __launch_bounds__(PART_THREADS)                                  \
      NAME(const T* logits, u64 stride, u32 vocabulary, u32 parts, Partial* partials) {       \
    summarize_part(logits, stride, vocabulary, parts, partials);                              \
  }
SUMMARIZE_PARTS(summarize_parts_f32, float)
SUMMARIZE_PARTS(summarize_parts_f16, f16)
SUMMARIZE_PARTS(summarize_parts_bf16, bf16)

// One warp for each row of at most 32 parts: neighbours are joined, then neighbours of those.
extern "C" __global__ void summarize_rows(const Partial* partials, u32 parts, u64 rows, float* summaries) {
  const u64 row = row_of_warp();
  const u32 lane = threadIdx.x % WARP;
  if (row >= rows) return;
  Joined joined = {NEGATIVE_INFINITY, NEGATIVE_INFINITY, 0, 0.0, 0.0};
  if (lane < parts) {
    const Partial part = partials[row * parts + lane];
    joined = Joined{part.top, part.second, part.argmax, (double)part.sum, (double)part.weighted};
  }
#pragma unroll
  for (u32 lanes = 1; lanes < WARP; lanes *= 2) joined = join(joined, shuffle_down(joined, lanes));
  if (lane == 0) write_summary(joined, summaries + row * SUMMARY_COLUMNS);
}
