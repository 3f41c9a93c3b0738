// Softmax attention of query rows over the blocks of the KV cache, a block of threads for each head of
// each row. Keys are taken in order of position: a row's result depends on its query and its keys alone.

#define ATTENTION_THREADS 256
#define ATTENTION_WARPS (ATTENTION_THREADS / WARP)
#define QUAD 4
// Scores that shared memory holds; with more keys they go through global memory.
#define SCORES_HELD 4096
// Steps over lanes whose loads a dot product has on the way.
#define STEPS_AHEAD 8
// Blocks whose values a thread has loaded before it uses the first of them: its sum waits for nothing else.
#define BLOCKS_AHEAD 2

// The quad's sums of q k over whole lanes. The loads of some steps are on the way before the first is used.
__device__ __forceinline__ Lanes<QUAD> whole_dot(const float* q, const float* k, u32 steps) {
  const u32 part = team_part<QUAD>() * QUAD;
  Lanes<QUAD> sums;
  sums.clear();
  for (u32 first = 0; first < steps; first += STEPS_AHEAD) {
    Lanes<QUAD> queries[STEPS_AHEAD], keys[STEPS_AHEAD];
#pragma unroll
    for (u32 s = 0; s < STEPS_AHEAD; s++) {
      if (first + s < steps) {
        keys[s] = load<QUAD>(k + (first + s) * LANES + part);
        queries[s] = load<QUAD>(q + (first + s) * LANES + part);
      }
    }
#pragma unroll
    for (u32 s = 0; s < STEPS_AHEAD; s++) {
      if (first + s < steps) sums.fused(queries[s], keys[s]);
    }
  }
  return sums;
}

// The same of any dimension: lanes behind the end are zeros.
__device__ __forceinline__ Lanes<QUAD> any_dot(const float* q, const float* k, u32 dim) {
  Lanes<QUAD> sums;
  sums.clear();
  auto elements = [dim](const float* from, u32 i) {
    Lanes<QUAD> lanes;
#pragma unroll
    for (u32 l = 0; l < QUAD; l++) lanes.lane[l] = i + l < dim ? from[i + l] : 0.0f;
    return lanes;
  };
#pragma unroll 1
  for (u32 i = team_part<QUAD>() * QUAD; i < (dim + LANES - 1) / LANES * LANES; i += LANES) {
    sums.fused(elements(q, i), elements(k, i));
  }
  return sums;
}

// q . k, in the first thread of each quad.
__device__ __forceinline__ float dot(const float* q, const float* k, u32 dim) {
  return lanes_sum(dim % LANES == 0 ? whole_dot(q, k, dim / LANES) : any_dot(q, k, dim));
}

// The keys, or values, of one head in the blocks of one sequence.
struct HeadRows {
  const float* cache;
  const u32* table;
  u64 block_floats;
  u32 dim;

  // Feature 0 of a key's row.
  __device__ __forceinline__ const float* at(u32 key) const {
    return cache + table[key / BLOCK_POSITIONS] * block_floats + (u64)(key % BLOCK_POSITIONS) * dim;
  }
};

// The largest of all threads' values.
__device__ __forceinline__ float block_max(float value) {
  __shared__ float tops[ATTENTION_WARPS];
#pragma unroll
  for (u32 lanes = WARP / 2; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, lanes));
  if (threadIdx.x % WARP == 0) tops[threadIdx.x / WARP] = value;
  __syncthreads();
  value = tops[0];
#pragma unroll
  for (u32 warp = 1; warp < ATTENTION_WARPS; warp++) value = fmaxf(value, tops[warp]);
  return value;
}

// The sum of weight times value of feature f, over the keys in order.
__device__ __forceinline__ float weighted_sum(const float* weights, const HeadRows& values, u32 keys, u32 f) {
  float ahead[BLOCKS_AHEAD][BLOCK_POSITIONS], sum = 0.0f;
  auto fetch = [&](u32 first) {
#pragma unroll
    for (u32 b = 0; b < BLOCKS_AHEAD; b++, first += BLOCK_POSITIONS) {
      if (first >= keys) break;
      const float* value = values.at(first) + f;
#pragma unroll
      for (u32 t = 0; t < BLOCK_POSITIONS; t++) {
        if (first + t < keys) ahead[b][t] = value[t * values.dim];
      }
    }
  };
  fetch(0);
  for (u32 first = 0; first < keys;) {
    float now[BLOCKS_AHEAD][BLOCK_POSITIONS];
#pragma unroll
    for (u32 b = 0; b < BLOCKS_AHEAD; b++) {
#pragma unroll
      for (u32 t = 0; t < BLOCK_POSITIONS; t++) now[b][t] = ahead[b][t];
    }
    fetch(first + BLOCKS_AHEAD * BLOCK_POSITIONS);
#pragma unroll
    for (u32 b = 0; b < BLOCKS_AHEAD; b++, first += BLOCK_POSITIONS) {
#pragma unroll
      for (u32 t = 0; t < BLOCK_POSITIONS; t++) {
        if (first + t < keys) sum = fmaf(weights[first + t], now[b][t], sum);
      }
    }
  }
  return sum;
}

// `scores` holds `most_keys`, whole lanes, for each head of each row. `out` is [rows, heads, dim].
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
    attend(const float* queries, Places places, Heads heads, const float* cache, float* scores, u32 most_keys,
           float scale, float* out) {
  __shared__ __align__(16) float held[SCORES_HELD];
  __shared__ float total;
  const u32 head = blockIdx.x, row = blockIdx.y;
  const u32 keys = places.positions[row] + 1;
  const u32 padded = (keys + LANES - 1) / LANES * LANES;
  const u64 item = (u64)row * heads.queries + head;
  const float* query = queries + item * heads.dim;
  float* weights = padded <= SCORES_HELD ? held : scores + item * most_keys;
  const u64 head_floats = (u64)BLOCK_POSITIONS * heads.dim, part_floats = heads.pairs * head_floats;
  const float* first_key = cache + head / (heads.queries / heads.pairs) * head_floats;
  const u32* table = places.tables + (u64)places.sequences[row] * places.most_blocks;
  const HeadRows key_rows = {first_key, table, 2 * part_floats, heads.dim};
  const HeadRows value_rows = {first_key + part_floats, table, 2 * part_floats, heads.dim};

  // All that this block will read is asked for at once, or each of the loads below would wait for memory.
  const u32 lines = (BLOCK_POSITIONS * heads.dim + LINE_FLOATS - 1) / LINE_FLOATS;
  const u32 kv_blocks = (keys + BLOCK_POSITIONS - 1) / BLOCK_POSITIONS;
  for (u32 i = threadIdx.x; i < kv_blocks * lines; i += ATTENTION_THREADS) {
    const u32 first = i / lines * BLOCK_POSITIONS, line = i % lines * LINE_FLOATS;
    prefetch(key_rows.at(first) + line);
    prefetch(value_rows.at(first) + line);
  }

  // A key for each quad; quads behind the last key compute it again, so that their warp is whole.
  const u32 warp_keys = WARP / QUAD, quad = threadIdx.x % WARP / QUAD;
  for (u32 first = threadIdx.x / WARP * warp_keys; first < keys; first += ATTENTION_WARPS * warp_keys) {
    const float* key = key_rows.at(min(first + quad, keys - 1));
    const float score = dot(query, key, heads.dim) * scale;
    if (team_part<QUAD>() == 0 && first + quad < keys) weights[first + quad] = score;
  }
  for (u32 key = keys + threadIdx.x; key < padded; key += ATTENTION_THREADS) weights[key] = NEGATIVE_INFINITY;
  __syncthreads();

  float top = NEGATIVE_INFINITY;
  for (u32 key = threadIdx.x; key < padded; key += ATTENTION_THREADS) top = fmaxf(top, weights[key]);
  top = block_max(top);
  for (u32 key = threadIdx.x; key < padded; key += ATTENTION_THREADS) weights[key] = exp_lanes(weights[key] - top);
  __syncthreads();

  // The last warp is the one that has least to do with values.
  if (threadIdx.x / WARP == ATTENTION_WARPS - 1) {
    const float sum = padded <= SCORES_HELD ? row_sum<false>(held, padded, 0.0f, false)
                                            : row_sum<false>(weights, padded, 0.0f, false);
    if (threadIdx.x % WARP == 0) total = sum;
  }
  for (u32 f = threadIdx.x; f < heads.dim; f += ATTENTION_THREADS) {
    out[item * heads.dim + f] = weighted_sum(weights, value_rows, keys, f);
  }
  __syncthreads();
  for (u32 f = threadIdx.x; f < heads.dim; f += ATTENTION_THREADS) out[item * heads.dim + f] /= total;
}
