// Pointwise ops are functions of the values at one position (`in`) and of constants (`k`):
//   POINTWISE(leaky_relu) { return in[0] > 0.f ? in[0] : k[0] * in[0]; }
#pragma once

#define POINTWISE(name) __device__ __forceinline__ float name(const float* in, const float* k)

template <int V>
__device__ __forceinline__ void carry(float (&to)[V], const float (&from)[V]) {
#pragma unroll
  for (int j = 0; j < V; ++j) to[j] = from[j];
}
