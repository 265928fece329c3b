// Runs the CUDA kernels of src/nn/device/cuda on a CPU: a thread for each thread of a block, one block after
// another. Compiled and called by ../cuda_kernels.py.
#include <barrier>
#include <cmath>
#include <cstring>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

struct Index {
  unsigned x, y, z;
};
static thread_local Index threadIdx;
static Index blockIdx, blockDim, gridDim;
static std::unique_ptr<std::barrier<>> block_barrier;
static std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
static float exchanged[1024];

static void __syncthreads() { block_barrier->arrive_and_wait(); }

static float __shfl_xor_sync(unsigned, float x, int distance) {
  auto &warp = *warp_barriers[threadIdx.x / 32];
  exchanged[threadIdx.x] = x;
  warp.arrive_and_wait();
  float other = exchanged[threadIdx.x ^ distance];
  warp.arrive_and_wait();
  return other;
}

#define __global__
#define __device__ static
#define __forceinline__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static  // one block runs at a time

#include "../../../src/nn/device/cuda/kernels.cu"
#include "tensor_cores.h"

#undef __device__
#define __device__
using std::min;
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

#include "../../../src/nn/device/cuda/attention.cu"

template <typename F>
static void run(unsigned x, unsigned y, unsigned threads, F kernel) {
  gridDim = {x, y, 1};
  blockDim = {threads, 1, 1};
  for (unsigned j = 0; j < y; j++)
    for (unsigned i = 0; i < x; i++) {
      blockIdx = {i, j, 0};
      block_barrier = std::make_unique<std::barrier<>>(threads);
      warp_barriers.clear();
      for (unsigned w = 0; w < threads / 32; w++)
        warp_barriers.push_back(std::make_unique<std::barrier<>>(32));
      std::vector<std::thread> pool;
      for (unsigned t = 0; t < threads; t++)
        pool.emplace_back([&, t] {
          threadIdx = {t, 0, 0};
          kernel();
          block_barrier->arrive_and_drop();
        });
      for (auto &thread : pool) thread.join();
    }
}

template <typename... Parameters, typename... Arguments>
static void call(void (*kernel)(Parameters...), unsigned x, unsigned y, unsigned threads,
                 Arguments... arguments) {
  run(x, y, threads, [&] { kernel(arguments...); });
}

// One entry for each kernel: the grid, then what the kernel takes.
#define ENTRY(name)                                                       \
  struct name##_entry {                                                   \
    template <typename... P>                                              \
    static auto of(void (*)(P...)) {                                      \
      return +[](unsigned x, unsigned y, unsigned threads, P... p) {      \
        call(name, x, y, threads, p...);                                  \
      };                                                                  \
    }                                                                     \
  };                                                                      \
  extern "C" void *name##_launcher() { return (void *)name##_entry::of(name); }

#define ENTRIES(type)              \
  ENTRY(group_norm_##type)         \
  ENTRY(group_norm_sums_##type)    \
  ENTRY(group_norm_backward_##type) \
  ENTRY(layer_norm_##type)         \
  ENTRY(layer_norm_backward_##type) \
  ENTRY(layer_norm_sums_##type)    \
  ENTRY(activate_##type)           \
  ENTRY(activate_backward_##type)  \
  ENTRY(geglu_##type)              \
  ENTRY(geglu_backward_##type)     \
  ENTRY(softmax_##type)            \
  ENTRY(softmax_backward_##type)   \
  ENTRY(add_bias_##type)           \
  ENTRY(copy_##type)               \
  ENTRY(columns_##type)

ENTRIES(f32)
ENTRIES(f16)
ENTRIES(bf16)
#define HALF_ENTRIES(type)        \
  ENTRY(attention_along_##type)   \
  WIDTH_ENTRIES(32_##type)        \
  WIDTH_ENTRIES(48_##type)        \
  WIDTH_ENTRIES(64_##type)        \
  WIDTH_ENTRIES(80_##type)

#define WIDTH_ENTRIES(kind)       \
  ENTRY(attention_##kind)         \
  ENTRY(attention_queries_##kind) \
  ENTRY(attention_keys_##kind)

HALF_ENTRIES(f16)
HALF_ENTRIES(bf16)
ENTRY(adamw_f32)
ENTRY(squares_f32)
