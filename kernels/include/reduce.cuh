// Sums in a fixed order.
#pragma once

// The sum over a warp, in every lane.
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) v += __shfl_xor_sync(0xffffffffu, v, lanes);
  return v;
}

// The sum over a block of THREADS threads (a multiple of 32), in every thread. All threads of the block must call it.
template <int THREADS, class T>
__device__ T block_sum(T v) {
  SHARED(T, partial, [THREADS / 32]);
  v = warp_sum(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  T sum = partial[0];
#pragma unroll
  for (int w = 1; w < THREADS / 32; ++w) sum += partial[w];
  return sum;
}
