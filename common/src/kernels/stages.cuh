// Copies from global to shared memory that nobody waits for until the data is needed: what a kernel needs to
// have as much of its input on the way as the memory's latency asks for.

// Floats of a line of the caches.
#define LINE_FLOATS 32

#ifdef __CUDACC__
// 16 bytes, of which the first `bytes` are copied and the others become zeros. Both addresses are aligned to 16.
__device__ __forceinline__ void begin_copy(void* shared, const void* global, u32 bytes) {
  const u32 to = (u32)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}

// The same of what is read once: it gives way first in the second-level cache.
__device__ __forceinline__ void begin_copy_once(void* shared, const void* global, u32 bytes) {
  const u32 to = (u32)__cvta_generic_to_shared(shared);
  u64 policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(to), "l"(global),
               "r"(bytes), "l"(policy)
               : "memory");
}

// Asks for the line of `global`, which will be read soon.
__device__ __forceinline__ void prefetch(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global) : "memory");
}

// All copies since the last stage are one stage.
__device__ __forceinline__ void end_stage() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's copies of all stages but the last PENDING.
template <u32 PENDING> __device__ __forceinline__ void wait_for_stage() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#endif
