// Rotates queries and keys to their positions, and appends keys and values to the cache.

// Positions in one KV block.
#define BLOCK_POSITIONS 16

// Where a layer's projections lie.
struct Projected {
  const float *query, *key, *value;
  // Floats from row to row, and from head to head.
  u64 row;
  u32 head;
};

// The rows of a step: the position of each, and the blocks of its sequence in this layer.
struct Places {
  const u32* positions;
  // The row's place in `tables`, in which each sequence has `most_blocks` entries.
  const u32* sequences;
  const u32* tables;
  u32 most_blocks;

  __device__ __forceinline__ u32 block(u32 row, u32 index) const {
    return tables[(u64)sequences[row] * most_blocks + index];
  }
};

struct Heads { u32 queries, pairs, dim, half; };

// Feature f of a head, rotated by the angles of `cos` and `sin`: f and f + half are a pair.
__device__ __forceinline__ float rotated(const float* head, u32 f, u32 half, const float* cos, const float* sin) {
  if (f < half) return head[f] * cos[f] - head[f + half] * sin[f];
  if (f < 2 * half) return head[f] * cos[f - half] + head[f - half] * sin[f - half];
  return head[f];
}

// A thread for each feature of each head of each row: queries first, then keys, then values.
// `queries` becomes [rows, heads, dim]; a block of `cache` is keys [heads, positions, dim], then values.
extern "C" __global__ void rotate_and_append(Projected from, Places places, Heads heads, const float* cos,
                                             const float* sin, float* queries, float* cache) {
  const u32 units = heads.queries + 2 * heads.pairs;
  // A row for each y.
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x, f = i % heads.dim, unit = i / heads.dim;
  const u64 row = blockIdx.y;
  if (unit >= units) return;
  const u32 position = places.positions[row];
  const float* angles = cos + (u64)position * heads.half;
  const float* sines = sin + (u64)position * heads.half;
  if (unit < heads.queries) {
    const float* head = from.query + row * from.row + (u64)unit * from.head;
    queries[(row * heads.queries + unit) * heads.dim + f] = rotated(head, f, heads.half, angles, sines);
    return;
  }
  const u32 part = (unit - heads.queries) / heads.pairs, pair = (unit - heads.queries) % heads.pairs;
  const u64 block = places.block(row, position / BLOCK_POSITIONS);
  const u64 at = ((block * 2 + part) * heads.pairs + pair) * BLOCK_POSITIONS + position % BLOCK_POSITIONS;
  const float* head = (part == 0 ? from.key : from.value) + row * from.row + (u64)pair * from.head;
  cache[at * heads.dim + f] = part == 0 ? rotated(head, f, heads.half, angles, sines) : head[f];
}
