// What a warp does together on the tensor cores of a GPU of compute capability 8.0 or later, and other single
// instructions that C++ has no words for. T is __half or
// __nv_bfloat16. The operands of a product lie over the 32 lanes as PTX's mma.m16n8k16 has them.

#ifndef TENSOR_CORES
#define TENSOR_CORES

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// c [16, 8] += a [16, 16] b [16, 8], summed in f32.
template <typename T>
__device__ __forceinline__ void multiply(float *c, const unsigned *a, const unsigned *b);

#define MULTIPLY(T, type)                                                                          \
  template <>                                                                                      \
  __device__ __forceinline__ void multiply<T>(float *c, const unsigned *a, const unsigned *b) {    \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                            \
                 ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                      \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));              \
  }

MULTIPLY(__half, "f16")
MULTIPLY(__nv_bfloat16, "bf16")

// Four matrices [8, 8] in shared memory. Each eight lanes say where the rows of one lie, of 16 bytes, and
// each lane gets two neighbours of a row of each; with .trans, of a column.
#define LOAD(name, turned)                                                                         \
  __device__ __forceinline__ void name(unsigned *x, const void *row) {                             \
    unsigned from = (unsigned)__cvta_generic_to_shared(row);                                       \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" turned ".shared.b16 {%0,%1,%2,%3}, [%4];"         \
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])                                  \
                 : "r"(from)                                                                       \
                 : "memory");                                                                      \
  }

LOAD(load, "")
LOAD(load_turned, ".trans")

// 2ˣ, as the processor has it: to 2⁻²², and 0 for what would be subnormal.
__device__ __forceinline__ float exponential(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two numbers, rounded, the first in the lower half.
template <typename T>
__device__ __forceinline__ unsigned pack(float low, float high);

#define PACK(T, type)                                                                              \
  template <>                                                                                      \
  __device__ __forceinline__ unsigned pack<T>(float low, float high) {                             \
    unsigned both;                                                                                 \
    asm("cvt.rn." type "x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));                   \
    return both;                                                                                   \
  }

PACK(__half, "f16")
PACK(__nv_bfloat16, "bf16")

#endif
