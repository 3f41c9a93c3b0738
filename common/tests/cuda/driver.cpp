// Stands in for NVIDIA's driver where there is no GPU: the calls of `libcuda` that this crate makes, with
// the kernels' own source in place of what the driver would make of PTX. The device's memory is the host's.

#include "host.hpp"

#include "../../src/math/math.cuh"
#include "../../src/entropy/logits.cuh"
#include "../../src/entropy/entropy.cu"
#include "../../src/sampling/pick.cu"
#include "../../src/kernels/lanes.cuh"
#include "../../src/kernels/stages.cuh"
#include "../../src/kernels/elementary.cuh"
#include "../../src/kernels/activation.cuh"
#include "../../src/kernels/matmul.cu"
#include "../../src/kernels/norm.cu"
#include "../../src/kernels/rope.cu"
#include "../../src/kernels/attention.cu"
#include "../../src/kernels/bandwidth.cu"
#include "../../src/kernels/training.cu"

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace {

// A kernel with its arguments, which the driver gets by their addresses and keeps the values of.
using Thread = std::function<void()>;
using Binding = std::function<Thread(void**)>;

template <typename... Arguments, size_t... I>
Thread hold(void (*kernel)(Arguments...), void** arguments, std::index_sequence<I...>) {
  std::tuple<Arguments...> values(*static_cast<Arguments*>(arguments[I])...);
  return [kernel, values] { std::apply(kernel, values); };
}

template <typename... Arguments> Binding taking(void (*kernel)(Arguments...)) {
  return [kernel](void** arguments) { return hold(kernel, arguments, std::index_sequence_for<Arguments...>()); };
}

struct Kernel { Binding bind; unsigned threads; };

#define K(NAME, THREADS) {#NAME, {taking(NAME), THREADS}}
#define PARTS(NAME) K(NAME##_f32, PART_THREADS), K(NAME##_f16, PART_THREADS), K(NAME##_bf16, PART_THREADS)
#define TILES(TYPE)                                                                                     \
  K(product_##TYPE##_1, PRODUCT_FEW * WARP), K(product_##TYPE##_2, PRODUCT_FEW * WARP),                 \
      K(product_##TYPE##_4, PRODUCT_MANY * WARP), K(product_##TYPE##_8, PRODUCT_MANY * WARP),           \
      K(product_##TYPE##_16, PRODUCT_MANY * WARP)

// With the threads that each must be launched with; 0 where any number will do.
std::map<std::string, Kernel> kernels = {
    PARTS(summarize_parts), K(summarize_rows, 0), PARTS(pick_parts), K(pick_rows, 0),
    TILES(f32), TILES(f16), TILES(bf16),
    K(read_only, 0), K(norm_rows, NORM_THREADS), K(rotate_and_append, 0), K(attend, ATTENTION_THREADS),
    K(tiled_product_nt, TRAINING_THREADS), K(tiled_product_nn, TRAINING_THREADS), K(tiled_product_tn, TRAINING_THREADS),
    K(scale_rows, 0), K(sum_columns, TRAINING_THREADS), K(silu, 0), K(silu_back, 0),
    K(cross_entropy, TRAINING_THREADS), K(sum_squares, TRAINING_THREADS), K(adamw, 0),
};

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801, WHILE_CAPTURING = 900 };
// Attributes of a device.
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, MEMORY_POOLS_SUPPORTED = 115 };

const size_t MEMORY = 4ull << 30;

// One launch at a time, whichever thread it comes from.
std::mutex launching;
std::mutex allocating;
std::map<void*, size_t> allocated;
size_t in_use = 0;

// What a stream does, or keeps for later; its error.
using Work = std::function<int()>;
using Graph = std::vector<Work>;
// What is launched goes into `recording`, if there is one, and does not run.
struct Stream { Graph* recording = nullptr; };
std::atomic<int> recordings{0};

int context, module_;

bool captures(void* stream) { return stream && static_cast<Stream*>(stream)->recording; }

int run_or_record(void* stream, Work work) {
  if (!captures(stream)) return work();
  static_cast<Stream*>(stream)->recording->push_back(std::move(work));
  return SUCCESS;
}

// A launch that fails, and with it all that follow, as on a GPU that is lost; none if it is 0.
long failing = getenv("DSSD_STAND_IN_FAILS") ? atol(getenv("DSSD_STAND_IN_FAILS")) : 0;
long launches = 0;

int launch(Dim blocks, unsigned threads, const Thread& thread) {
  std::lock_guard<std::mutex> guard(launching);
  if (failing && ++launches >= failing) return LAUNCH_FAILED;
  host::launch(blocks, threads, thread);
  return SUCCESS;
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return SUCCESS; }
int cuDeviceGetCount(int* count) { *count = 1; return SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { *device = 0; return ordinal == 0 ? SUCCESS : 101; }
int cuDeviceGetName(char* name, int length, int) { snprintf(name, length, "stand-in"); return SUCCESS; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == CAPABILITY_MAJOR ? 8 : attribute == MEMORY_POOLS_SUPPORTED;
  return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** result, int) { *result = &context; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxGetCurrent(void** current) { *current = &context; return SUCCESS; }
int cuCtxSetCurrent(void*) { return SUCCESS; }
int cuCtxSynchronize() { return recordings ? WHILE_CAPTURING : SUCCESS; }
int cuStreamCreate(void** result, unsigned) { *result = new Stream; return SUCCESS; }
int cuStreamDestroy_v2(void* stream) { delete static_cast<Stream*>(stream); return SUCCESS; }
int cuStreamSynchronize(void* stream) { return captures(stream) ? WHILE_CAPTURING : SUCCESS; }

int cuStreamBeginCapture_v2(void* stream, int) {
  if (captures(stream)) return INVALID_VALUE;
  // As a driver that cannot.
  if (getenv("DSSD_STAND_IN_RECORDS") && !strcmp(getenv("DSSD_STAND_IN_RECORDS"), "no")) return NOT_SUPPORTED;
  static_cast<Stream*>(stream)->recording = new Graph;
  recordings++;
  return SUCCESS;
}
int cuStreamEndCapture(void* stream, void** graph) {
  if (!captures(stream)) return INVALID_VALUE;
  *graph = std::exchange(static_cast<Stream*>(stream)->recording, nullptr);
  recordings--;
  return SUCCESS;
}
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
  *executable = new Graph(*static_cast<Graph*>(graph));
  return SUCCESS;
}
int cuGraphLaunch(void* executable, void* stream) {
  if (captures(stream)) return WHILE_CAPTURING;
  for (const Work& work : *static_cast<Graph*>(executable)) {
    if (const int error = work()) return error;
  }
  return SUCCESS;
}
int cuGraphDestroy(void* graph) { delete static_cast<Graph*>(graph); return SUCCESS; }
int cuGraphExecDestroy(void* executable) { delete static_cast<Graph*>(executable); return SUCCESS; }
int cuModuleLoadData(void** result, const void*) { *result = &module_; return SUCCESS; }
int cuModuleUnload(void*) { return SUCCESS; }
int cuGetErrorName(int error, const char** name) {
  *name = error == OUT_OF_MEMORY   ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED"
                                   : "CUDA_ERROR";
  return SUCCESS;
}
int cuGetErrorString(int, const char** text) { *text = "told by the stand-in"; return SUCCESS; }

int cuModuleGetFunction(void** function, void*, const char* name) {
  const auto found = kernels.find(name);
  if (found == kernels.end()) return NOT_FOUND;
  *function = &found->second;
  return SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
  std::lock_guard<std::mutex> guard(allocating);
  *free = MEMORY - in_use;
  *total = MEMORY;
  return SUCCESS;
}

int cuMemAllocAsync(u64* address, size_t bytes, void* stream) {
  if (captures(stream)) return WHILE_CAPTURING;
  std::lock_guard<std::mutex> guard(allocating);
  if (bytes > MEMORY - in_use) return OUT_OF_MEMORY;
  // Not zeros: nothing may rely on what it has not written. As aligned as the driver's.
  void* memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset(memory, 0xa5, bytes);
  allocated[memory] = bytes;
  in_use += bytes;
  *address = (u64)memory;
  return SUCCESS;
}

int cuMemFreeAsync(u64 address, void* stream) {
  if (captures(stream)) return WHILE_CAPTURING;
  std::lock_guard<std::mutex> guard(allocating);
  const auto found = allocated.find((void*)address);
  if (found == allocated.end()) return INVALID_VALUE;
  in_use -= found->second;
  memset((void*)address, 0x5a, found->second);
  allocated.erase(found);
  free((void*)address);
  return SUCCESS;
}

int cuMemsetD8Async(u64 to, unsigned char value, size_t bytes, void* stream) {
  return run_or_record(stream, [=] {
    memset((void*)to, value, bytes);
    return SUCCESS;
  });
}

int cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, void* stream) {
  if (captures(stream)) return WHILE_CAPTURING;
  memcpy((void*)to, from, bytes);
  return SUCCESS;
}

int cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, void* stream) {
  if (captures(stream)) return WHILE_CAPTURING;
  memcpy(to, (const void*)from, bytes);
  return SUCCESS;
}

int cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, void* stream) {
  return run_or_record(stream, [=] {
    memcpy((void*)to, (const void*)from, bytes);
    return SUCCESS;
  });
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned, void* stream, void** arguments, void**) {
  Kernel& kernel = *static_cast<Kernel*>(function);
  const bool empty = x == 0 || y == 0, flat = z == 1 && threads_y == 1 && threads_z == 1;
  const bool whole = threads % host::WARP_LANES == 0 && (kernel.threads == 0 || kernel.threads == threads);
  if (empty || !flat || !whole || y > 65535) return INVALID_VALUE;
  const Thread thread = kernel.bind(arguments);
  return run_or_record(stream, [=] { return launch({x, y}, threads, thread); });
}

}  // extern "C"
