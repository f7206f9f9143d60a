// bfloat16, the upper half of a float: how activations are stored in programs of that precision. Arithmetic is in f32.
#pragma once

// Two values rounded to nearest, ties to even; the first in the lower half. Every NaN becomes the same one.
__device__ __forceinline__ unsigned bf16_pair(float low, float high) {
#ifdef CUDA_HOST
  return __float2bfloat16_rn(low).bits | unsigned(__float2bfloat16_rn(high).bits) << 16;
#else
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#endif
}

__device__ __forceinline__ float bf16_low(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

struct bf16 {
  uint16_t bits;

  bf16() = default;
  // Explicit, so that a choice between a bf16 and a float is a float.
  __device__ __forceinline__ explicit bf16(float x) : bits(uint16_t(bf16_pair(x, 0.f))) {}
  __device__ __forceinline__ bf16& operator=(float x) { return *this = bf16(x); }
  __device__ __forceinline__ operator float() const { return bf16_low(bits); }
};
