// Attention that keeps its scores on the chip, as FlashAttention-2 does it (Dao 2023), and its gradients.
//
// Queries and what is of their shape are [batch, n, heads d], keys and values [batch, m, heads d], in half
// precision; d is a multiple of 8, and D is d or more, a multiple of 16. A block of 128 threads is for 64
// rows of one head of one image, of which each warp has 16, and goes through 64 rows of the other side at a
// time. No sum depends on the order in which blocks run.

#include "tensor_cores.cuh"

constexpr int TILE = 64, THREADS = 128;
constexpr float LOG2_E = 1.44269504f;

// Rows of eight more numbers than are used, so that the rows of a matrix lie in different banks.
template <typename T, int D>
using Tile = T[TILE][D + 8];

// How the operands of one attention lie, and what this block and this thread have of it.
struct Place {
  int n, m, heads, d, causal;

  __device__ int width() const { return heads * d; }
  __device__ int first() const { return blockIdx.x * TILE; }
  // Where the block's head begins, of an operand with so many rows.
  __device__ size_t start(int rows) const {
    return (size_t)(blockIdx.y / heads) * rows * width() + blockIdx.y % heads * d;
  }
  // The first of the two rows, eight apart, of which the thread has columns.
  __device__ int row() const { return first() + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4; }
  // The first of the two columns that the thread has of each eight.
  __device__ int column() const { return threadIdx.x % 4 * 2; }
  __device__ bool sees(int query, int key) const {
    return key < m && query < n && !(causal && key > query);
  }
};

// 64 rows of one head, and zeros for what is beyond the last row or the head's width.
template <typename T, int D>
__device__ __forceinline__ void fetch(Tile<T, D> &tile, const T *x, int rows, Place at) {
  // a count that the compiler knows, so that all loads are on their way before one is waited for
#pragma unroll
  for (int step = 0; step < TILE * D / 8 / THREADS; step++) {
    int i = step * THREADS + threadIdx.x, row = i / (D / 8), column = i % (D / 8) * 8;
    uint4 eight = {0, 0, 0, 0};
    if (row < rows && column < at.d)
      eight = *(const uint4 *)(x + (size_t)row * at.width() + column);
    *(uint4 *)&tile[row][column] = eight;
  }
}

// The 64 rows from `start` of two operands of so many rows, once those before are read by all. They are there
// after the next __syncthreads.
template <typename T, int D>
__device__ __forceinline__ void fetch(Tile<T, D> &a, const T *x, Tile<T, D> &b, const T *y,
                                      int start, int rows, Place at) {
  __syncthreads();
  size_t from = (size_t)start * at.width();
  fetch<T, D>(a, x + from, rows - start, at);
  fetch<T, D>(b, y + from, rows - start, at);
}

// The warp's 16 rows of a tile, as left operands of products over D.
template <typename T, int D>
struct Rows {
  unsigned x[D / 16][4];

  __device__ __forceinline__ Rows(Tile<T, D> &tile, const T *from, int rows, Place at) {
    __syncthreads();
    fetch<T, D>(tile, from, rows, at);
    __syncthreads();
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
    for (int k = 0; k < D / 16; k++) load(x[k], &tile[row][16 * k + lane / 16 * 8]);
  }

  // Products of the rows with 16 rows of a tile: [16, 16], as two of [16, 8].
  __device__ __forceinline__ void times(const Tile<T, D> &tile, int first, float (*c)[4]) const {
    int lane = threadIdx.x % 32, row = first + lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
      unsigned b[4];
      load(b, &tile[row][16 * k + lane / 8 % 2 * 8]);
      multiply<T>(c[0], x[k], b);
      multiply<T>(c[1], x[k], b + 2);
    }
  }
};

// Sums [16, D] of the warp's rows.
template <typename T, int D>
struct Sums {
  float x[D / 8][4];

  __device__ __forceinline__ Sums() {
#pragma unroll
    for (int j = 0; j < D / 8; j++)
      for (int i = 0; i < 4; i++) x[j][i] = 0.f;
  }

  // Adds the product of `c` [16, 16] with 16 rows of a tile.
  __device__ __forceinline__ void add(const float (*c)[4], const Tile<T, D> &tile, int first) {
    unsigned a[4] = {pack<T>(c[0][0], c[0][1]), pack<T>(c[0][2], c[0][3]),
                     pack<T>(c[1][0], c[1][1]), pack<T>(c[1][2], c[1][3])};
    int lane = threadIdx.x % 32, row = first + lane % 16;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
      unsigned b[4];
      load_turned(b, &tile[row][16 * k + lane / 16 * 8]);
      multiply<T>(x[2 * k], a, b);
      multiply<T>(x[2 * k + 1], a, b + 2);
    }
  }

  // Writes them, each row times its factor, where `y` has as many rows.
  __device__ __forceinline__ void write(T *y, int rows, Place at, float factor0, float factor1) {
    y += at.start(rows);
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      int column = 8 * j + at.column();
      if (column >= at.d) return;
      for (int half = 0; half < 2; half++) {
        int row = at.row() + 8 * half;
        float factor = half ? factor1 : factor0;
        if (row < rows)
          *(unsigned *)(y + (size_t)row * at.width() + column) =
              pack<T>(x[j][2 * half] * factor, x[j][2 * half + 1] * factor);
      }
    }
  }
};

// Over the four lanes that have the same rows.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// softmax(q kᵀ scale) v. log_sums: [batch, heads, n], for the gradients, to base 2. What is not a number
// makes all of its row so, by the sum.
template <typename T, int D>
__device__ void attention(const T *q, const T *k, const T *v, T *out, float *log_sums, Place at,
                          float scale) {
  __shared__ __align__(16) Tile<T, D> keys, values;
  int rows = at.n - at.first();
  q += at.start(at.n) + (size_t)at.first() * at.width();
  k += at.start(at.m);
  v += at.start(at.m);
  Rows<T, D> queries(keys, q, rows, at);
  Sums<T, D> sums;
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};
  int end = at.causal ? min(at.m, at.first() + TILE) : at.m;
  for (int start = 0; start < end; start += TILE) {
    fetch<T, D>(keys, k, values, v, start, at.m, at);
    __syncthreads();
    float s[TILE / 8][4] = {};
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) queries.times(keys, 16 * j, s + 2 * j);
    bool whole = start + TILE <= at.m && !at.causal;
    float now[2] = {most[0], most[1]};
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int key = start + 8 * j + at.column() + i % 2, query = at.row() + i / 2 * 8;
        bool hidden = !whole && (key >= at.m || (at.causal && key > query));
        s[j][i] = hidden ? -INFINITY : s[j][i] * (scale * LOG2_E);
        now[i / 2] = fmaxf(now[i / 2], s[j][i]);
      }
    for (int half = 0; half < 2; half++) {
      now[half] = row_max(now[half]);
      float shrink = exponential(most[half] - now[half]);
      most[half] = now[half];
      total[half] *= shrink;
#pragma unroll
      for (int j = 0; j < D / 8; j++) {
        sums.x[j][2 * half] *= shrink;
        sums.x[j][2 * half + 1] *= shrink;
      }
    }
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        s[j][i] = exponential(s[j][i] - most[i / 2]);
        total[i / 2] += s[j][i];
      }
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) sums.add(s + 2 * j, values, 16 * j);
  }
  for (int half = 0; half < 2; half++) {
    total[half] = row_sum(total[half]);
    int row = at.row() + 8 * half;
    if (threadIdx.x % 4 == 0 && row < at.n)
      log_sums[(size_t)blockIdx.y * at.n + row] = most[half] + log2f(total[half]);
  }
  sums.write(out, at.n, at, 1.f / total[0], 1.f / total[1]);
}

// Σ out ∘ ∂out of each query and head: [batch, heads, n]. A warp for each, in the order of `out`.
template <typename T>
__device__ void attention_along(const T *out, const T *grad, float *along, int count, int n,
                                int heads, int d) {
  int i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (i >= count) return;
  float sum = 0.f;
  for (int j = lane; j < d; j += 32)
    sum += (float)out[(size_t)i * d + j] * (float)grad[(size_t)i * d + j];
  for (int distance = 16; distance > 0; distance >>= 1)
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  int head = i % heads, token = i / heads;
  if (lane == 0) along[((size_t)(token / n) * heads + head) * n + token % n] = sum;
}

// The gradient of the queries. A block for 64 queries.
template <typename T, int D>
__device__ void attention_queries(const T *q, const T *k, const T *v, const T *grad,
                                  const float *log_sums, const float *along, T *dq, Place at,
                                  float scale) {
  __shared__ __align__(16) Tile<T, D> keys, values;
  int rows = at.n - at.first();
  size_t block = at.start(at.n) + (size_t)at.first() * at.width();
  k += at.start(at.m);
  v += at.start(at.m);
  Rows<T, D> queries(keys, q + block, rows, at), grads(values, grad + block, rows, at);
  Sums<T, D> sums;
  float log_sum[2], level[2];
  for (int half = 0; half < 2; half++) {
    int row = at.row() + 8 * half;
    size_t i = (size_t)blockIdx.y * at.n + row;
    log_sum[half] = row < at.n ? log_sums[i] : 0.f;
    level[half] = row < at.n ? along[i] : 0.f;
  }
  int end = at.causal ? min(at.m, at.first() + TILE) : at.m;
  for (int start = 0; start < end; start += TILE) {
    bool whole = start + TILE <= at.m && !at.causal;
    fetch<T, D>(keys, k, values, v, start, at.m, at);
    __syncthreads();
    for (int slice = 0; slice < TILE; slice += 16) {
      float s[2][4] = {}, dp[2][4] = {};
      queries.times(keys, slice, s);
      grads.times(values, slice, dp);
#pragma unroll
      for (int j = 0; j < 2; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          int key = start + slice + 8 * j + at.column() + i % 2, query = at.row() + i / 2 * 8;
          float log_p = s[j][i] * (scale * LOG2_E) - log_sum[i / 2];
          float p = exponential(whole || at.sees(query, key) ? log_p : -INFINITY);
          s[j][i] = p * (dp[j][i] - level[i / 2]);
        }
      sums.add(s, keys, slice);
    }
  }
  sums.write(dq, at.n, at, scale, scale);
}

// The gradients of keys and values. A block for 64 keys; scores have a row for each key.
template <typename T, int D>
__device__ void attention_keys(const T *q, const T *k, const T *v, const T *grad,
                               const float *log_sums, const float *along, T *dk, T *dv, Place at,
                               float scale) {
  __shared__ __align__(16) Tile<T, D> queries, grads;
  __shared__ float log_sum[TILE], level[TILE];
  int rows = at.m - at.first();
  size_t block = at.start(at.m) + (size_t)at.first() * at.width();
  q += at.start(at.n);
  grad += at.start(at.n);
  Rows<T, D> keys(queries, k + block, rows, at), values(grads, v + block, rows, at);
  Sums<T, D> of_keys, of_values;
  for (int start = at.causal ? at.first() : 0; start < at.n; start += TILE) {
    bool whole = start + TILE <= at.n && rows >= TILE && !at.causal;
    fetch<T, D>(queries, q, grads, grad, start, at.n, at);
    for (int i = threadIdx.x; i < TILE; i += THREADS) {
      size_t from = (size_t)blockIdx.y * at.n + start + i;
      log_sum[i] = start + i < at.n ? log_sums[from] : 0.f;
      level[i] = start + i < at.n ? along[from] : 0.f;
    }
    __syncthreads();
    for (int slice = 0; slice < TILE; slice += 16) {
      float p[2][4] = {}, ds[2][4] = {};
      keys.times(queries, slice, p);
      values.times(grads, slice, ds);
#pragma unroll
      for (int j = 0; j < 2; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          int column = slice + 8 * j + at.column() + i % 2, key = at.row() + i / 2 * 8;
          float log_p = p[j][i] * (scale * LOG2_E) - log_sum[column];
          p[j][i] = exponential(whole || at.sees(start + column, key) ? log_p : -INFINITY);
          ds[j][i] = p[j][i] * (ds[j][i] - level[column]);
        }
      of_values.add(p, grads, slice);
      of_keys.add(ds, queries, slice);
    }
  }
  of_keys.write(dk, at.m, at, scale, scale);
  of_values.write(dv, at.m, at, 1.f, 1.f);
}

// Blocks of a multiprocessor at a time, which bounds the registers of a thread.
#define BLOCKS(D) (D <= 48 ? 4 : 3)

#define KERNEL extern "C" __global__ void

#define OF_WIDTH(T, type, D)                                                                       \
  KERNEL __launch_bounds__(THREADS, BLOCKS(D)) attention_##D##_##type(                             \
      const T *q, const T *k, const T *v, T *out, float *log_sums, int n, int m, int heads, int d, \
      int causal, float scale) {                                                                   \
    attention<T, D>(q, k, v, out, log_sums, {n, m, heads, d, causal}, scale);                      \
  }                                                                                                \
  KERNEL __launch_bounds__(THREADS, BLOCKS(D)) attention_queries_##D##_##type(                     \
      const T *q, const T *k, const T *v, const T *grad, const float *log_sums,                    \
      const float *along, T *dq, int n, int m, int heads, int d, int causal, float scale) {        \
    attention_queries<T, D>(q, k, v, grad, log_sums, along, dq, {n, m, heads, d, causal}, scale);  \
  }                                                                                                \
  KERNEL __launch_bounds__(THREADS, BLOCKS(D)) attention_keys_##D##_##type(                        \
      const T *q, const T *k, const T *v, const T *grad, const float *log_sums,                    \
      const float *along, T *dk, T *dv, int n, int m, int heads, int d, int causal, float scale) { \
    attention_keys<T, D>(q, k, v, grad, log_sums, along, dk, dv, {n, m, heads, d, causal}, scale); \
  }

#define OF_TYPE(T, type)                                                                           \
  KERNEL attention_along_##type(const T *out, const T *grad, float *along, int count, int n,       \
                                int heads, int d) {                                                \
    attention_along(out, grad, along, count, n, heads, d);                                         \
  }                                                                                                \
  OF_WIDTH(T, type, 32)                                                                            \
  OF_WIDTH(T, type, 48)                                                                            \
  OF_WIDTH(T, type, 64)                                                                            \
  OF_WIDTH(T, type, 80)

OF_TYPE(__half, f16)
OF_TYPE(__nv_bfloat16, bf16)
