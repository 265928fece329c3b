// In place of CUDA's: f16 on a CPU.
#pragma once
typedef _Float16 __half;
inline float __half2float(__half x) { return (float)x; }
inline __half __float2half(float x) { return (__half)x; }
