// The Gumbel-coupled choice on the GPU: for the same logits the same ids as on the CPU, always. Said
// in `sampling`; the noise is that of `noise.rs`, operation by operation.

// How the token of one row is chosen.
struct Choice {
  u64 seed;
  // Absolute index of the token in its sequence.
  u64 index;
  // 0 is greedy.
  double temperature;
};

// The greatest value plus noise of some ids, and the lowest id that has it.
struct Candidate {
  double score;
  u32 id;
};

// What stands for an id where there is none to choose.
#define NO_ID 0xffffffffu

#define DRAW_BITS 52
#define DRAWS 4503599627370496.0

// Philox4x32-10 of (id, index, 0): the upper 52 bits of its second and first words.
__device__ __forceinline__ u64 draw_noise(const Choice& choice, u32 id) {
  u32 c0 = id, c1 = (u32)choice.index, c2 = (u32)(choice.index >> 32), c3 = 0;
  u32 k0 = (u32)choice.seed, k1 = (u32)(choice.seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u64 first = 0xd2511f53ull * c0, second = 0xcd9e8d57ull * c2;
    c0 = (u32)(second >> 32) ^ c1 ^ k0;
    c1 = (u32)second;
    c2 = (u32)(first >> 32) ^ c3 ^ k1;
    c3 = (u32)first;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return ((u64)c1 << 32 | c0) >> (64 - DRAW_BITS);
}

// -ln(-ln((n + 1/2) 2^-52)).
__device__ __forceinline__ double gumbel(u64 draw) {
  return -exact_ln(-exact_ln(((double)draw + 0.5) / DRAWS));
}

// An upper bound of it without a logarithm, as derived in `noise.rs`.
__device__ __forceinline__ double gumbel_bound(u64 draw) {
  const double complement = DRAWS - ((double)draw + 0.5);
  const int upper = (int)((u64)__double_as_longlong(complement) >> 32) - ((1023 + DRAW_BITS) << 20);
  return (double)-upper * (0.6931471805599453 / 1048576.0) + 1e-9;
}

__device__ __forceinline__ Candidate better(const Candidate& a, const Candidate& b) {
  return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a;
}

__device__ __forceinline__ Candidate best_of_warp(Candidate best) {
#pragma unroll
  for (u32 lane = WARP / 2; lane > 0; lane /= 2) {
    Candidate other = {__shfl_xor_sync(ALL_LANES, best.score, lane), __shfl_xor_sync(ALL_LANES, best.id, lane)};
    best = better(best, other);
  }
  return best;
}

// The best of this thread's ids, and of the row's arg-max, `leader`.
template <typename T>
__device__ __forceinline__ Candidate best_of_thread(const Part<T>& part, const Choice& choice, u32 leader) {
  const double temperature = choice.temperature;
  Candidate best = {(double)widen(part.row[leader]) / temperature + gumbel(draw_noise(choice, leader)), leader};
  const double greatest = gumbel_bound((1ull << DRAW_BITS) - 1);
  // Logits below this lose with the greatest noise, too. The margin is far above all rounding.
  const double bound = (best.score - greatest) * temperature;
  const double least = bound - (fabs(bound) * 1e-9 + 1e-9);
  float x[THREAD_LOGITS];
  part.read(x);
#pragma unroll
  for (u32 i = 0; i < THREAD_LOGITS; i++) {
    if ((double)x[i] < least) continue;
    const u32 id = part.id(i);
    const double value = (double)x[i] / temperature;
    const u64 draw = draw_noise(choice, id);
    // Rounding is monotone: what cannot win with the bound cannot win with the noise below it.
    if (value + gumbel_bound(draw) < best.score) continue;
    best = better(best, Candidate{value + gumbel(draw), id});
  }
  return best;
}

template <typename T>
__device__ __forceinline__ void pick_part(const T* logits, u64 stride, u32 vocabulary, u32 parts,
                                          const float* summaries, const Choice* choices, Candidate* candidates) {
  const Part<T> part(logits, stride, vocabulary, parts);
  const Choice choice = choices[part.row_index];
  const float* summary = summaries + part.row_index * SUMMARY_COLUMNS;
  const u32 leader = (u32)summary[0];
  // The same for all threads of a block: none waits for another in vain.
  if (summary[6] == 0.0f || choice.temperature == 0.0) {
    if (threadIdx.x == 0) candidates[blockIdx.x] = Candidate{0.0, summary[6] == 0.0f ? NO_ID : leader};
    return;
  }
  Candidate best = best_of_warp(best_of_thread(part, choice, leader));
  __shared__ Candidate warps[PART_WARPS];
  if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (u32 warp = 1; warp < PART_WARPS; warp++) best = better(best, warps[warp]);
  candidates[blockIdx.x] = best;
}

// One block for each part of each row, after `summarize_rows`.
#define PICK_PARTS(NAME, T)                                                                            \
  extern "C" __global__ void __launch_bounds__(PART_THREADS)                                           \
      NAME(const T* logits, u64 stride, u32 vocabulary, u32 parts, const float* summaries,             \
           const Choice* choices, Candidate* candidates) {                                             \
    pick_part(logits, stride, vocabulary, parts, summaries, choices, candidates);                      \
  }
PICK_PARTS(pick_parts_f32, float)
PICK_PARTS(pick_parts_f16, f16)
PICK_PARTS(pick_parts_bf16, bf16)

// One warp for each row of at most 32 parts. A row that is no distribution has NO_ID.
extern "C" __global__ void pick_rows(const Candidate* candidates, u32 parts, u64 rows, u32* ids) {
  const u64 row = row_of_warp();
  const u32 lane = threadIdx.x % WARP;
  if (row >= rows) return;
  Candidate best = {NEGATIVE_INFINITY, NO_ID};
  if (lane < parts) best = candidates[row * parts + lane];
  best = best_of_warp(best);
  if (lane == 0) ids[row] = best.id;
}
