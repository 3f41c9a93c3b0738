// Rows of logits, f32, f16 or bf16, in parts of a fixed size: the parts depend on the vocabulary
// alone, and which thread reads which id on the type of the logits alone, never on where a row lies
// or what is beside it. So the bits of what is computed from a row depend on that row alone.

// Threads of a block, which reads one part of one row.
#define PART_THREADS 256
// Logits that one of them reads, all of them before it uses the first.
#define THREAD_LOGITS 32
#define PART_LOGITS (PART_THREADS * THREAD_LOGITS)
#define WARP 32
#define PART_WARPS (PART_THREADS / WARP)
#define ALL_LANES 0xffffffffu

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ float widen(f16 x) { return half_to_float(x.bits); }

// The row of this thread's warp where each warp has one.
__device__ __forceinline__ u64 row_of_warp() { return (u64)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP; }

// One part of one row.
template <typename T> struct Part {
  const T* row;
  u64 row_index;
  // Its place in the row.
  u32 index;
  u32 vocabulary;

  // That of this block, of rows that begin `stride` logits apart.
  __device__ __forceinline__ Part(const T* logits, u64 stride, u32 vocabulary, u32 parts)
      : row_index(blockIdx.x / parts), index(blockIdx.x % parts), vocabulary(vocabulary) {
    row = logits + row_index * stride;
  }

  // Logits that one load of 16 bytes brings.
  static const u32 LOAD = 16 / sizeof(T);

  // The id of this thread's logit i: neighbours read neighbouring loads.
  __device__ __forceinline__ u32 id(u32 i) const {
    return index * PART_LOGITS + (i / LOAD * PART_THREADS + threadIdx.x) * LOAD + i % LOAD;
  }

  // A part that is whole, of a row that begins at 16 bytes: without a branch, so that all loads are on the way
  // before the first is used.
  __device__ __forceinline__ void read_whole(float (&x)[THREAD_LOGITS]) const {
    union { Words words; T logits[LOAD]; } loads[THREAD_LOGITS / LOAD];
#pragma unroll
    for (u32 l = 0; l < THREAD_LOGITS / LOAD; l++) loads[l].words = *(const Words*)(row + id(l * LOAD));
#pragma unroll
    for (u32 i = 0; i < THREAD_LOGITS; i++) x[i] = widen(loads[i / LOAD].logits[i % LOAD]);
  }

  // This thread's logits; those beyond the vocabulary are -inf. A row that begins at 16 bytes is
  // read by 16 bytes, any other one by one, into the same places.
  __device__ __forceinline__ void read(float (&x)[THREAD_LOGITS]) const {
    const bool aligned = ((u64)row & 15) == 0;
    if (aligned && (index + 1) * PART_LOGITS <= vocabulary) return read_whole(x);
#pragma unroll
    for (u32 first = 0; first < THREAD_LOGITS; first += LOAD) {
      const u32 from = id(first);
      if (aligned && from + LOAD <= vocabulary) {
        union { Words words; T logits[LOAD]; } load;
        load.words = *(const Words*)(row + from);
#pragma unroll
        for (u32 i = 0; i < LOAD; i++) x[first + i] = widen(load.logits[i]);
      } else {
#pragma unroll
        for (u32 i = 0; i < LOAD; i++) {
          x[first + i] = from + i < vocabulary ? widen(row[from + i]) : NEGATIVE_INFINITY;
        }
      }
    }
  }
};
