// Blocks of a GPU on a CPU: enough of CUDA C++ for the kernels of this crate, so that their source
// runs where there is no GPU. Each thread of a block is a fiber; barriers and shuffles hand on to the
// next one. Blocks run one after another, so nothing here finds races between blocks.

#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

struct Dim { unsigned x, y; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))
// Blocks run one after another.
#define __shared__ static

namespace host {

const unsigned WARP_LANES = 32;

// 16 bytes on their way to shared memory: they come at once, or when their thread waits for them.
struct Copy { void* to; const void* from; unsigned bytes; };

struct Fiber {
  std::vector<char> stack = std::vector<char>(64 << 10);
  ucontext_t start;
  jmp_buf resume;
  bool begun = false, ended = false;
  // All that this thread began in this kernel, where each stage ends, and how many have come.
  std::vector<Copy> copies;
  std::vector<size_t> stages;
  size_t come = 0;
};

// What the threads of a group wait for.
struct Barrier {
  unsigned arrived = 0;
  unsigned long long passed = 0;
};

struct Block {
  std::vector<Fiber> fibers;
  Barrier all;
  std::vector<Barrier> warps;
  // One value of a shuffle for each thread.
  std::vector<unsigned long long> slots;
  jmp_buf scheduler;
  unsigned running = 0;
  std::function<void()> kernel;
};

static Block block;

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "host: %s\n", what);
  abort();
}

inline void yield() {
  if (_setjmp(block.fibers[block.running].resume) == 0) _longjmp(block.scheduler, 1);
}

// All `count` threads of a group must come: a thread that has left hangs those that wait.
inline void wait(Barrier& barrier, unsigned count) {
  const unsigned long long turn = barrier.passed;
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    barrier.passed++;
    return;
  }
  for (unsigned long long spins = 0; barrier.passed == turn; spins++) {
    if (spins > 1000000) fail("a barrier that not all threads reach");
    yield();
  }
}

// A fiber's life: one kernel after another.
inline void enter() {
  for (;;) {
    block.kernel();
    block.fibers[block.running].ended = true;
    yield();
  }
}

inline void step(unsigned thread) {
  Fiber& fiber = block.fibers[thread];
  block.running = thread;
  threadIdx.x = thread;
  if (_setjmp(block.scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.resume, 1);
  fiber.begun = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.data();
  fiber.start.uc_stack.ss_size = fiber.stack.size();
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, enter, 0);
  setcontext(&fiber.start);
}

// Runs the threads of one block.
inline void run_block(unsigned threads) {
  block.all = Barrier();
  block.warps.assign((threads + WARP_LANES - 1) / WARP_LANES, Barrier());
  for (Fiber& fiber : block.fibers) {
    fiber.ended = false;
    fiber.copies.clear();
    fiber.stages.clear();
    fiber.come = 0;
  }
  // Forwards and backwards in turn: no order among threads is promised.
  bool backwards = false;
  for (bool more = true; more; backwards = !backwards) {
    more = false;
    for (unsigned turn = 0; turn < threads; turn++) {
      const unsigned thread = backwards ? threads - 1 - turn : turn;
      if (block.fibers[thread].ended) continue;
      step(thread);
      more = true;
    }
  }
}

// Runs `kernel` as a launch of so many blocks of `threads` threads.
inline void launch(Dim blocks, unsigned threads, std::function<void()> kernel) {
  gridDim = blocks;
  blockDim = {threads, 1};
  block.kernel = std::move(kernel);
  if (block.fibers.size() != threads) block.fibers = std::vector<Fiber>(threads);
  block.slots.assign(threads, 0);
  for (blockIdx.y = 0; blockIdx.y < blocks.y; blockIdx.y++) {
    for (blockIdx.x = 0; blockIdx.x < blocks.x; blockIdx.x++) run_block(threads);
  }
}

// What thread `lane` of this warp has put in, once all have.
template <typename T, typename Read> T exchange(T mine, Read read) {
  static_assert(sizeof(T) <= sizeof(unsigned long long), "a shuffle moves 8 bytes at most");
  const unsigned thread = threadIdx.x, lane = thread % WARP_LANES, first = thread - lane;
  Barrier& warp = block.warps[thread / WARP_LANES];
  memcpy(&block.slots[thread], &mine, sizeof mine);
  wait(warp, WARP_LANES);
  T result = read(lane, [first](unsigned other) {
    T value;
    memcpy(&value, &block.slots[first + other], sizeof value);
    return value;
  });
  wait(warp, WARP_LANES);
  return result;
}

inline void check_mask(unsigned mask) {
  if (mask != 0xffffffffu) fail("a shuffle of a part of a warp");
}

inline Fiber& fiber() { return block.fibers[block.running]; }

}  // namespace host

inline void come(const host::Copy& copy) {
  memset(copy.to, 0, 16);
  memcpy(copy.to, copy.from, copy.bytes);
}

// A coin whose sides come up in a fixed order.
inline bool coin() {
  static unsigned state = 1;
  state = state * 1664525u + 1013904223u;
  return state >> 31;
}

inline void begin_copy(void* shared, const void* global, unsigned bytes) {
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16 != 0) host::fail("an unaligned copy");
  const host::Copy copy = {shared, global, bytes};
  if (coin()) come(copy);
  else host::fiber().copies.push_back(copy);
}

inline void begin_copy_once(void* shared, const void* global, unsigned bytes) { begin_copy(shared, global, bytes); }

inline void prefetch(const void*) {}

inline void end_stage() { host::fiber().stages.push_back(host::fiber().copies.size()); }

template <unsigned PENDING> void wait_for_stage() {
  host::Fiber& fiber = host::fiber();
  if (fiber.stages.size() <= PENDING) return;
  for (const size_t end = fiber.stages[fiber.stages.size() - 1 - PENDING]; fiber.come < end; fiber.come++) {
    come(fiber.copies[fiber.come]);
  }
}

inline void __syncthreads() { host::wait(host::block.all, blockDim.x); }

template <typename T> T __shfl_xor_sync(unsigned mask, T mine, unsigned lanes) {
  host::check_mask(mask);
  return host::exchange(mine, [lanes](unsigned lane, auto of) { return of(lane ^ lanes); });
}

template <typename T> T __shfl_down_sync(unsigned mask, T mine, unsigned lanes) {
  host::check_mask(mask);
  return host::exchange(mine, [lanes](unsigned lane, auto of) {
    return of(lane + lanes < host::WARP_LANES ? lane + lanes : lane);
  });
}

template <typename T> T __shfl_sync(unsigned mask, T mine, unsigned source) {
  host::check_mask(mask);
  return host::exchange(mine, [source](unsigned, auto of) { return of(source % host::WARP_LANES); });
}

inline unsigned __reduce_min_sync(unsigned mask, unsigned mine) {
  host::check_mask(mask);
  return host::exchange(mine, [](unsigned, auto of) {
    unsigned least = of(0);
    for (unsigned lane = 1; lane < host::WARP_LANES; lane++) least = of(lane) < least ? of(lane) : least;
    return least;
  });
}

template <typename To, typename From> To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

inline float __int_as_float(unsigned bits) { return bits_as<float>(bits); }
inline float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
inline double __longlong_as_double(long long bits) { return bits_as<double>(bits); }
inline long long __double_as_longlong(double x) { return bits_as<long long>(x); }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

// The instructions that the kernels write in assembly.
inline float fast_exp2(float x) { return x < -126.0f ? 0.0f : exp2f(x); }

inline float max_or_nan(float a, float b) { return a != a || a > b ? a : b; }

inline float half_to_float(unsigned short bits) {
  const unsigned exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float sign = bits >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexpf((float)mantissa, -24);
  return sign * ldexpf((float)(mantissa | 1024), (int)exponent - 25);
}
