// Softmax attention of query rows over the blocks of the KV cache, a block of threads for each head of
// each row. Keys are taken in order of position: a row's result depends on its query and its keys alone.

#define ATTENTION_THREADS 128

// q . k over the lanes of a quad, in every thread of it.
__device__ __forceinline__ float dot(const float* q, const float* k, u32 dim) {
  Lanes lanes;
  lanes.clear();
  for (u32 i = quad_part() * QUAD; i < (dim + LANES - 1) / LANES * LANES; i += LANES) {
    lanes.fused(read_four(q, i, dim), read_four(k, i, dim));
  }
  return quad_sum(lanes);
}

// Keys or values (`part` 0 or 1) of a KV block for one head: [positions, dim].
__device__ __forceinline__ const float* head_of(const float* cache, u64 block, u32 part, u32 pair, const Heads& heads) {
  return cache + ((block * 2 + part) * heads.pairs + pair) * BLOCK_POSITIONS * heads.dim;
}

// `scores` holds `most_keys`, whole lanes, for each head of each row. `out` is [rows, heads, dim].
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
    attend(const float* queries, Places places, Heads heads, const float* cache, float* scores, u32 most_keys,
           float scale, float* out) {
  const u32 head = blockIdx.x, row = blockIdx.y;
  const u32 pair = head / (heads.queries / heads.pairs);
  const u32 keys = places.positions[row] + 1;
  const u32 padded = (keys + LANES - 1) / LANES * LANES;
  const u64 item = (u64)row * heads.queries + head;
  const float* query = queries + item * heads.dim;
  float* weights = scores + item * most_keys;

  // A key for each quad; quads behind the last key compute it again, so that their warp is whole.
  const u32 quads = blockDim.x / QUAD, quad = threadIdx.x / QUAD;
  for (u32 first = 0; first < keys; first += quads) {
    const u32 key = min(first + quad, keys - 1);
    const float* block = head_of(cache, places.block(row, key / BLOCK_POSITIONS), 0, pair, heads);
    const float score = dot(query, block + (u64)(key % BLOCK_POSITIONS) * heads.dim, heads.dim) * scale;
    if (quad_part() == 0 && first + quad < keys) weights[key] = score;
  }
  for (u32 key = keys + threadIdx.x; key < padded; key += blockDim.x) weights[key] = NEGATIVE_INFINITY;
  __syncthreads();

  // Every warp finds the largest score for itself.
  float top = NEGATIVE_INFINITY;
  for (u32 key = threadIdx.x % WARP; key < padded; key += WARP) top = fmaxf(top, weights[key]);
#pragma unroll
  for (u32 lanes = WARP / 2; lanes > 0; lanes /= 2) top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, lanes));
  __syncthreads();
  for (u32 key = threadIdx.x; key < padded; key += blockDim.x) weights[key] = exp_lanes(weights[key] - top);
  __syncthreads();

  Lanes sums;
  sums.clear();
  for (u32 i = quad_part() * QUAD; i < padded; i += LANES) sums.add(read_four(weights, i, padded));
  const float sum = quad_sum(sums);

  for (u32 f = threadIdx.x; f < heads.dim; f += blockDim.x) {
    float value = 0.0f;
    for (u32 first = 0; first < keys; first += BLOCK_POSITIONS) {
      const float* block = head_of(cache, places.block(row, first / BLOCK_POSITIONS), 1, pair, heads);
      const u32 held = min(keys - first, BLOCK_POSITIONS);
#pragma unroll 4
      for (u32 t = 0; t < held; t++) value = fmaf(weights[first + t], block[(u64)t * heads.dim + f], value);
    }
    out[item * heads.dim + f] = value / sum;
  }
}
