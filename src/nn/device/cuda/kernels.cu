// The CUDA kernels behind `nn::device`. Maps are [batch, channels, height, width]; numbers are read and
// written as T and computed as f32. Blocks are of one dimension, in whole warps.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ void put(float *y, float x) { *y = x; }
__device__ __forceinline__ void put(__half *y, float x) { *y = __float2half(x); }
__device__ __forceinline__ void put(__nv_bfloat16 *y, float x) { *y = __float2bfloat16(x); }

struct Pair {
  float a, b;
};

__device__ __forceinline__ Pair warp_sum(Pair x) {
  for (int distance = 16; distance > 0; distance >>= 1) {
    x.a += __shfl_xor_sync(0xffffffffu, x.a, distance);
    x.b += __shfl_xor_sync(0xffffffffu, x.b, distance);
  }
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
  for (int distance = 16; distance > 0; distance >>= 1)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
}

__device__ __forceinline__ Pair block_sum(Pair x) {
  __shared__ Pair parts[32];
  x = warp_sum(x);
  __syncthreads();  // the parts of an earlier sum may still be read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  Pair sum = {0.f, 0.f};
  for (unsigned i = 0; i < blockDim.x / 32; i++) {
    sum.a += parts[i].a;
    sum.b += parts[i].b;
  }
  return sum;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

__device__ __forceinline__ float silu_slope(float x) {
  float s = sigmoid(x);
  return s * (1.f + x * (1.f - s));
}

// Φ and its product with x, differentiated.
__device__ __forceinline__ float gauss(float x) { return 0.5f * (1.f + erff(x * 0.70710678f)); }

__device__ __forceinline__ float gelu_slope(float x) {
  return gauss(x) + x * 0.39894228f * expf(-0.5f * x * x);
}

// Mean and inverse deviation from sums of differences from `about` and of their squares.
__device__ __forceinline__ Pair moments_of(Pair sums, float about, int count, float eps) {
  float mean = sums.a / count;
  float variance = sums.b / count - mean * mean;
  // not fmaxf, which would swallow what is not a number
  variance = variance < 0.f ? 0.f : variance;
  return {mean + about, 1.f / sqrtf(variance + eps)};
}

// A block for each image and group. moments: [batch, groups, 2].
template <typename T>
__device__ void group_norm(const T *x, const T *weight, const T *bias, T *y, float *moments,
                           int groups, int channels, int pixels, int silu, float eps) {
  int group = blockIdx.x % groups, count = channels / groups * pixels;
  x += (size_t)blockIdx.x * count;
  y += (size_t)blockIdx.x * count;
  // differences from some value of the group: a large mean then costs no digits
  float about = wide(x[0]);
  Pair sums = {0.f, 0.f};
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    float d = wide(x[i]) - about;
    sums.a += d;
    sums.b += d * d;
  }
  Pair m = moments_of(block_sum(sums), about, count, eps);
  if (threadIdx.x == 0) {
    moments[2 * blockIdx.x] = m.a;
    moments[2 * blockIdx.x + 1] = m.b;
  }
  weight += group * (channels / groups);
  bias += group * (channels / groups);
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    int c = i / pixels;
    float v = (wide(x[i]) - m.a) * m.b * wide(weight[c]) + wide(bias[c]);
    put(y + i, silu ? v * sigmoid(v) : v);
  }
}

// A block for each image and channel. sums: [batch, 2 channels], of ∂y x̂, then of ∂y.
template <typename T>
__device__ void group_norm_sums(const T *x, const float *moments, const T *weight, const T *bias,
                                const T *dy, float *sums, int groups, int channels, int pixels,
                                int silu) {
  int c = blockIdx.x % channels, image = blockIdx.x / channels;
  const float *m = moments + 2 * (image * groups + c / (channels / groups));
  float mean = m[0], inverse = m[1], w = wide(weight[c]), b = wide(bias[c]);
  x += (size_t)blockIdx.x * pixels;
  dy += (size_t)blockIdx.x * pixels;
  Pair sum = {0.f, 0.f};
  for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
    float unit = (wide(x[i]) - mean) * inverse, g = wide(dy[i]);
    if (silu) g *= silu_slope(unit * w + b);
    sum.a += g * unit;
    sum.b += g;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    sums[(size_t)image * 2 * channels + c] = sum.a;
    sums[(size_t)image * 2 * channels + channels + c] = sum.b;
  }
}

// A block for each image and channel.
template <typename T>
__device__ void group_norm_backward(const T *x, const float *moments, const T *weight, const T *bias,
                                    const T *dy, const float *sums, T *dx, int groups, int channels,
                                    int pixels, int silu) {
  int c = blockIdx.x % channels, image = blockIdx.x / channels, width = channels / groups;
  int first = c / width * width;
  Pair mean_of = {0.f, 0.f};
  for (int i = first + threadIdx.x; i < first + width; i += blockDim.x) {
    const float *sum = sums + (size_t)image * 2 * channels + i;
    mean_of.a += wide(weight[i]) * sum[0];
    mean_of.b += wide(weight[i]) * sum[channels];
  }
  mean_of = block_sum(mean_of);
  float along = mean_of.a / (width * pixels), level = mean_of.b / (width * pixels);
  const float *m = moments + 2 * (image * groups + c / width);
  float mean = m[0], inverse = m[1], w = wide(weight[c]), b = wide(bias[c]);
  x += (size_t)blockIdx.x * pixels;
  dy += (size_t)blockIdx.x * pixels;
  dx += (size_t)blockIdx.x * pixels;
  for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
    float unit = (wide(x[i]) - mean) * inverse, g = wide(dy[i]);
    if (silu) g *= silu_slope(unit * w + b);
    put(dx + i, inverse * (g * w - level - unit * along));
  }
}

// A warp for each row. moments: [rows, 2].
template <typename T>
__device__ void layer_norm(const T *x, const T *weight, const T *bias, T *y, float *moments, int rows,
                           int width, float eps) {
  int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  x += (size_t)row * width;
  y += (size_t)row * width;
  float about = wide(x[0]);
  Pair sums = {0.f, 0.f};
  for (int i = lane; i < width; i += 32) {
    float d = wide(x[i]) - about;
    sums.a += d;
    sums.b += d * d;
  }
  Pair m = moments_of(warp_sum(sums), about, width, eps);
  if (lane == 0) {
    moments[2 * row] = m.a;
    moments[2 * row + 1] = m.b;
  }
  for (int i = lane; i < width; i += 32)
    put(y + i, (wide(x[i]) - m.a) * m.b * wide(weight[i]) + wide(bias[i]));
}

// A warp for each row.
template <typename T>
__device__ void layer_norm_backward(const T *x, const float *moments, const T *weight, const T *dy,
                                    T *dx, int rows, int width) {
  int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  x += (size_t)row * width;
  dy += (size_t)row * width;
  dx += (size_t)row * width;
  float mean = moments[2 * row], inverse = moments[2 * row + 1];
  Pair sums = {0.f, 0.f};
  for (int i = lane; i < width; i += 32) {
    float g = wide(dy[i]) * wide(weight[i]);
    sums.a += g * (wide(x[i]) - mean) * inverse;
    sums.b += g;
  }
  sums = warp_sum(sums);
  for (int i = lane; i < width; i += 32) {
    float g = wide(dy[i]) * wide(weight[i]), unit = (wide(x[i]) - mean) * inverse;
    put(dx + i, inverse * (g - sums.b / width - unit * sums.a / width));
  }
}

// A block of 256 threads for 32 columns of a chunk of rows. sums: [chunks, 2 width], of ∂y x̂, then of
// ∂y.
template <typename T>
__device__ void layer_norm_sums(const T *x, const float *moments, const T *dy, float *sums, int rows,
                                int width, int chunk) {
  __shared__ Pair parts[8][32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  int first = blockIdx.y * chunk, end = first + chunk < rows ? first + chunk : rows;
  Pair sum = {0.f, 0.f};
  if (column < width)
    for (int row = first + warp; row < end; row += 8) {
      size_t i = (size_t)row * width + column;
      float g = wide(dy[i]);
      sum.a += g * (wide(x[i]) - moments[2 * row]) * moments[2 * row + 1];
      sum.b += g;
    }
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= width) return;
  for (int i = 1; i < 8; i++) {
    sum.a += parts[i][lane].a;
    sum.b += parts[i][lane].b;
  }
  sums[(size_t)blockIdx.y * 2 * width + column] = sum.a;
  sums[(size_t)blockIdx.y * 2 * width + width + column] = sum.b;
}

// Which activation: 0 SiLU, 1 GELU, 2 quick GELU.
__device__ __forceinline__ float activation_of(int f, float x) {
  return f == 0 ? x * sigmoid(x) : f == 1 ? x * gauss(x) : x * sigmoid(1.702f * x);
}

__device__ __forceinline__ float activation_slope(int f, float x) {
  if (f == 0) return silu_slope(x);
  if (f == 1) return gelu_slope(x);
  float s = sigmoid(1.702f * x);
  return s * (1.f + 1.702f * x * (1.f - s));
}

template <typename T>
__device__ void activate(const T *x, T *y, int f, long long count) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
       i += (long long)gridDim.x * blockDim.x)
    put(y + i, activation_of(f, wide(x[i])));
}

template <typename T>
__device__ void activate_backward(const T *x, const T *dy, T *dx, int f, long long count) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
       i += (long long)gridDim.x * blockDim.x)
    put(dx + i, wide(dy[i]) * activation_slope(f, wide(x[i])));
}

// A block for each row [2 half].
template <typename T>
__device__ void geglu(const T *x, T *y, int half) {
  x += (size_t)blockIdx.x * 2 * half;
  y += (size_t)blockIdx.x * half;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    float b = wide(x[half + i]);
    put(y + i, wide(x[i]) * b * gauss(b));
  }
}

template <typename T>
__device__ void geglu_backward(const T *x, const T *dy, T *dx, int half) {
  x += (size_t)blockIdx.x * 2 * half;
  dy += (size_t)blockIdx.x * half;
  dx += (size_t)blockIdx.x * 2 * half;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    float a = wide(x[i]), b = wide(x[half + i]), g = wide(dy[i]);
    put(dx + i, g * b * gauss(b));
    put(dx + half + i, g * a * gelu_slope(b));
  }
}

// A warp for each row. What is not a number makes all of its row so, by the sum.
template <typename T>
__device__ void softmax(const T *x, T *y, int rows, int width) {
  int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  x += (size_t)row * width;
  y += (size_t)row * width;
  float most = -INFINITY;
  for (int i = lane; i < width; i += 32) most = fmaxf(most, wide(x[i]));
  most = warp_max(most);
  Pair sum = {0.f, 0.f};
  for (int i = lane; i < width; i += 32) sum.a += expf(wide(x[i]) - most);
  float factor = 1.f / warp_sum(sum).a;
  for (int i = lane; i < width; i += 32) put(y + i, expf(wide(x[i]) - most) * factor);
}

// A warp for each row of probabilities p.
template <typename T>
__device__ void softmax_backward(const T *p, const T *dp, T *dx, int rows, int width) {
  int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  p += (size_t)row * width;
  dp += (size_t)row * width;
  dx += (size_t)row * width;
  Pair sum = {0.f, 0.f};
  for (int i = lane; i < width; i += 32) sum.a += wide(p[i]) * wide(dp[i]);
  sum = warp_sum(sum);
  for (int i = lane; i < width; i += 32) put(dx + i, wide(p[i]) * (wide(dp[i]) - sum.a));
}

// A number of b for each `inner` numbers of x, over and over.
template <typename T>
__device__ void add_bias(const T *x, const T *b, T *y, int count, int inner, int channels) {
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < (unsigned)count;
       i += gridDim.x * blockDim.x)
    put(y + i, wide(x[i]) + wide(b[i / (unsigned)inner % (unsigned)channels]));
}

// Numbers seen as four dimensions, the last three of these sizes, that lie so many apart.
template <typename T>
__device__ void copy(const T *x, T *y, int count, int size1, int size2, int size3, int start,
                     int stride0, int stride1, int stride2, int stride3) {
  unsigned n1 = size1, n2 = size2, n3 = size3;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < (unsigned)count;
       i += gridDim.x * blockDim.x) {
    unsigned rest = i / n3, last = i % n3;
    long long from = start + (long long)last * stride3 + (long long)(rest % n2) * stride2;
    rest /= n2;
    from += (long long)(rest % n1) * stride1 + (long long)(rest / n1) * stride0;
    y[i] = x[from];
  }
}

// A row of blocks for each row of the columns [channels size size, batch rows_out columns_out].
template <typename T>
__device__ void columns(const T *x, T *y, int batch, int channels, int height, int width, int size,
                        int stride, int before, int out_height, int out_width) {
  int place = blockIdx.y, pixels = out_height * out_width;
  int channel = place / (size * size), i = place / size % size, j = place % size;
  int pixel = blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= batch * pixels) return;
  int image = pixel / pixels, row = pixel % pixels / out_width, column = pixel % out_width;
  int v = row * stride + i - before, u = column * stride + j - before;
  bool inside = 0 <= v && v < height && 0 <= u && u < width;
  size_t from = (((size_t)image * channels + channel) * height + v) * width + u;
  put(y + (size_t)place * batch * pixels + pixel, inside ? wide(x[from]) : 0.f);
}

extern "C" __global__ void adamw_f32(float *p, const float *g, float *m, float *v, long long count,
                                     float grad, float keep, float one_minus_beta1, float beta2,
                                     float one_minus_beta2, float root, float eps, float step) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
       i += (long long)gridDim.x * blockDim.x) {
    float d = g[i] * grad;
    float first = m[i] + (d - m[i]) * one_minus_beta1;
    float second = v[i] * beta2 + d * d * one_minus_beta2;
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * keep - step * first / (sqrtf(second) * root + eps);
  }
}

// The sum of squares of what each block sees.
extern "C" __global__ void squares_f32(const float *x, float *parts, long long count) {
  Pair sum = {0.f, 0.f};
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
       i += (long long)gridDim.x * blockDim.x)
    sum.a += x[i] * x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum.a;
}

#define KERNELS(T, type)                                                                            \
  extern "C" __global__ void group_norm_##type(const T *x, const T *w, const T *b, T *y,            \
                                               float *moments, int groups, int channels, int pixels, \
                                               int silu, float eps) {                               \
    group_norm(x, w, b, y, moments, groups, channels, pixels, silu, eps);                           \
  }                                                                                                 \
  extern "C" __global__ void group_norm_sums_##type(                                                \
      const T *x, const float *moments, const T *w, const T *b, const T *dy, float *sums,           \
      int groups, int channels, int pixels, int silu) {                                             \
    group_norm_sums(x, moments, w, b, dy, sums, groups, channels, pixels, silu);                    \
  }                                                                                                 \
  extern "C" __global__ void group_norm_backward_##type(                                            \
      const T *x, const float *moments, const T *w, const T *b, const T *dy, const float *sums,     \
      T *dx, int groups, int channels, int pixels, int silu) {                                      \
    group_norm_backward(x, moments, w, b, dy, sums, dx, groups, channels, pixels, silu);            \
  }                                                                                                 \
  extern "C" __global__ void layer_norm_##type(const T *x, const T *w, const T *b, T *y,            \
                                               float *moments, int rows, int width, float eps) {    \
    layer_norm(x, w, b, y, moments, rows, width, eps);                                              \
  }                                                                                                 \
  extern "C" __global__ void layer_norm_backward_##type(const T *x, const float *moments,           \
                                                        const T *w, const T *dy, T *dx, int rows,   \
                                                        int width) {                                \
    layer_norm_backward(x, moments, w, dy, dx, rows, width);                                        \
  }                                                                                                 \
  extern "C" __global__ void layer_norm_sums_##type(const T *x, const float *moments, const T *dy,  \
                                                    float *sums, int rows, int width, int chunk) {  \
    layer_norm_sums(x, moments, dy, sums, rows, width, chunk);                                      \
  }                                                                                                 \
  extern "C" __global__ void activate_##type(const T *x, T *y, int f, long long count) {            \
    activate(x, y, f, count);                                                                       \
  }                                                                                                 \
  extern "C" __global__ void activate_backward_##type(const T *x, const T *dy, T *dx, int f,        \
                                                      long long count) {                            \
    activate_backward(x, dy, dx, f, count);                                                         \
  }                                                                                                 \
  extern "C" __global__ void geglu_##type(const T *x, T *y, int half) { geglu(x, y, half); }        \
  extern "C" __global__ void geglu_backward_##type(const T *x, const T *dy, T *dx, int half) {      \
    geglu_backward(x, dy, dx, half);                                                                \
  }                                                                                                 \
  extern "C" __global__ void softmax_##type(const T *x, T *y, int rows, int width) {                \
    softmax(x, y, rows, width);                                                                     \
  }                                                                                                 \
  extern "C" __global__ void softmax_backward_##type(const T *p, const T *dp, T *dx, int rows,      \
                                                     int width) {                                   \
    softmax_backward(p, dp, dx, rows, width);                                                       \
  }                                                                                                 \
  extern "C" __global__ void add_bias_##type(const T *x, const T *b, T *y, int count, int inner,    \
                                             int channels) {                                        \
    add_bias(x, b, y, count, inner, channels);                                                      \
  }                                                                                                 \
  extern "C" __global__ void copy_##type(const T *x, T *y, int count, int size1, int size2,         \
                                         int size3, int start, int stride0, int stride1,            \
                                         int stride2, int stride3) {                                \
    copy(x, y, count, size1, size2, size3, start, stride0, stride1, stride2, stride3);              \
  }                                                                                                 \
  extern "C" __global__ void columns_##type(const T *x, T *y, int batch, int channels, int height,  \
                                            int width, int size, int stride, int before,            \
                                            int out_height, int out_width) {                        \
    columns(x, y, batch, channels, height, width, size, stride, before, out_height, out_width);     \
  }

KERNELS(float, f32)
KERNELS(__half, f16)
KERNELS(__nv_bfloat16, bf16)
