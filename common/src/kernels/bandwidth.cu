// Reads memory and does nothing else: what kernels that read as much are measured by.

// Loads of 16 bytes that a thread has in flight.
#define READ_LOADS 8

// Writes nothing unless all words cancel out, so that the loads are not left away.
extern "C" __global__ void read_only(const Words* words, u64 count, u32* out) {
  const u64 threads = (u64)gridDim.x * blockDim.x;
  u32 sum = 0;
  for (u64 first = (u64)blockIdx.x * blockDim.x + threadIdx.x; first < count; first += threads * READ_LOADS) {
    Words loaded[READ_LOADS];
#pragma unroll
    for (u32 i = 0; i < READ_LOADS; i++) loaded[i] = words[first + i * threads < count ? first + i * threads : first];
#pragma unroll
    for (u32 i = 0; i < READ_LOADS; i++) {
      sum |= loaded[i].word[0] | loaded[i].word[1] | loaded[i].word[2] | loaded[i].word[3];
    }
  }
  if (sum == 0x12345678u) *out = sum;
}
