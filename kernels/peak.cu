// What a device can do at most: a copy, and multiply-adds in registers.

template <class Args>
__device__ void peak_copy(const Args& a) {
  const int i = blockIdx.x * Args::THREADS + threadIdx.x;
  if (i < a.items) a.to[i] = a.from[i];
}

// CHAINS independent chains hide the latency of one multiply-add.
template <class Args>
__device__ void peak_multiply_add(const Args& a) {
  float v[Args::CHAINS];
#pragma unroll
  for (int j = 0; j < Args::CHAINS; ++j) v[j] = float(threadIdx.x + j);
  for (int step = 0; step < a.steps; ++step) {
#pragma unroll
    for (int j = 0; j < Args::CHAINS; ++j) v[j] = fmaf(v[j], 0.999f, 0.5f);
  }
  float sum = 0.f;
#pragma unroll
  for (int j = 0; j < Args::CHAINS; ++j) sum += v[j];
  a.to[blockIdx.x * Args::THREADS + threadIdx.x] = sum;
}
