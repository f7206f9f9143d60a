// Tensors in device memory. Layout NHWC; pixels are `stride` elements apart, so that a channel slice of a wider
// tensor is a view as well. View and FixedView have the same members; those of FixedView are constants. Elements are
// float or bf16, with `const` where they are only read.
#pragma once

template <class T>
struct View {
  T* ptr;
  int n, h, w, c, stride;
};

template <class T, int N, int H, int W, int C, int STRIDE>
struct FixedView {
  T* ptr;
  static constexpr int n = N, h = H, w = W, c = C, stride = STRIDE;
};

// First channel of pixel (n, y, x).
template <class V>
__device__ __forceinline__ auto pixel(const V& v, int n, int y, int x) {
  return v.ptr + size_t((n * v.h + y) * v.w + x) * v.stride;
}

// First channel of pixel number p, counted over all images.
template <class V>
__device__ __forceinline__ auto pixel(const V& v, int p) {
  return v.ptr + size_t(p) * v.stride;
}

template <class V>
__device__ __forceinline__ int pixels(const V& v) {
  return v.n * v.h * v.w;
}

// W values at an address; four at a multiple of their size.
template <int W>
__device__ __forceinline__ void read(float (&to)[W], const float* from) {
  if constexpr (W == 4) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
  } else {
#pragma unroll
    for (int j = 0; j < W; ++j) to[j] = from[j];
  }
}

template <int W>
__device__ __forceinline__ void read(float (&to)[W], const bf16* from) {
  if constexpr (W == 4) {
    const uint2 four = *reinterpret_cast<const uint2*>(from);
    to[0] = bf16_low(four.x), to[1] = bf16_high(four.x), to[2] = bf16_low(four.y), to[3] = bf16_high(four.y);
  } else {
#pragma unroll
    for (int j = 0; j < W; ++j) to[j] = from[j];
  }
}

template <int W>
__device__ __forceinline__ void write(float* to, const float (&from)[W]) {
  if constexpr (W == 4) {
    *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  } else {
#pragma unroll
    for (int j = 0; j < W; ++j) to[j] = from[j];
  }
}

template <int W>
__device__ __forceinline__ void write(bf16* to, const float (&from)[W]) {
  if constexpr (W == 4) {
    *reinterpret_cast<uint2*>(to) = make_uint2(bf16_pair(from[0], from[1]), bf16_pair(from[2], from[3]));
  } else {
#pragma unroll
    for (int j = 0; j < W; ++j) to[j] = from[j];
  }
}

// W channels from c on; extents of 1 repeat.
template <int W, class V>
__device__ __forceinline__ void load(float (&to)[W], const V& v, int n, int y, int x, int c) {
  const auto from = pixel(v, v.n == 1 ? 0 : n, v.h == 1 ? 0 : y, v.w == 1 ? 0 : x);
  if (v.c == 1) {
#pragma unroll
    for (int j = 0; j < W; ++j) to[j] = from[0];
  } else {
    read<W>(to, from + c);
  }
}

template <int W, class V>
__device__ __forceinline__ void store(const V& v, const float (&from)[W], int n, int y, int x, int c) {
  write<W>(pixel(v, n, y, x) + c, from);
}
