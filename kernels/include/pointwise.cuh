// Pointwise ops are functions of the values at one position (`in`) and of constants (`k`):
//   POINTWISE(leaky_relu) { return in[0] > 0.f ? in[0] : k[0] * in[0]; }
#pragma once

#define POINTWISE(name) __device__ __forceinline__ float name(const float* in, const float* k)

template <int V>
__device__ __forceinline__ void carry(float (&to)[V], const float (&from)[V]) {
#pragma unroll
  for (int j = 0; j < V; ++j) to[j] = from[j];
}

// v limited to 0 to max_val; other than by fminf and fmaxf a NaN stays one.
__device__ __forceinline__ float clamped(float v, float max_val) { return v < 0.f ? 0.f : v > max_val ? max_val : v; }

// Where a pixel shuffle puts channel c of pixel (y, x), in the order of kernels/pixel_shuffle.cu. The channels of a
// square follow each other, so neighbouring threads with vectors of whole squares store neighbouring channels.
struct Shuffled {
  int y, x, c;

  __device__ __forceinline__ Shuffled(int factor, int y, int x, int c)
      : y(y * factor + c / factor % factor), x(x * factor + c % factor), c(c / (factor * factor)) {}
};
