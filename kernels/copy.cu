// Zeros in the gaps of a concatenation.

template <class Args>
__device__ void clear(const Args& a) {
  const int i = blockIdx.x * Args::THREADS + threadIdx.x;
  if (i < a.items) a.to[i] = 0.f;
}
