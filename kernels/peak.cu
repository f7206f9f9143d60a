// What a device can do at most: a copy, multiply-adds and products of matrices in registers; and what empties its cache.

template <class Args>
__device__ void peak_copy(const Args& a) {
  const int i = blockIdx.x * Args::THREADS + threadIdx.x;
  if (i < a.items) a.to[i] = a.from[i];
}

// Reads a buffer that is larger than the second-level cache. What lay there before is gone, and nearly nothing is left
// that has to be written back.
template <class Args>
__device__ void peak_sweep(const Args& a) {
  const int thread = blockIdx.x * Args::THREADS + threadIdx.x;
  float sum = 0.f;
  for (int i = thread; i < a.items; i += a.threads) {
    const float4 v = a.from[i];
    sum += v.x + v.y + v.z + v.w;
  }
  a.to[thread] = sum;
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

// A register of a fragment, all of whose elements are `x`.
template <int BF16>
__device__ __forceinline__ unsigned peak_fragment(float x) {
  return BF16 ? bf16_pair(x, x) : __float_as_uint(x);
}

// The same on tensor cores. Row r of A is r + 1 everywhere and column n of B n + 1, so that each of the `steps` products
// adds K (r + 1) (n + 1); chain j starts at j. A thread writes the sum of its elements of all chains.
template <class Args>
__device__ void peak_multiply_matrices(const Args& a) {
  using E = typename ProductElement<Args::BF16>::type;
  const int group = lane_index() / 4;
  unsigned lhs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) lhs[i] = peak_fragment<Args::BF16>(float(group + i % 2 * 8 + 1));
  const unsigned column = peak_fragment<Args::BF16>(float(group + 1)), rhs[2] = {column, column};
  float c[Args::CHAINS][4];
#pragma unroll
  for (int j = 0; j < Args::CHAINS; ++j) c[j][0] = c[j][1] = c[j][2] = c[j][3] = float(j);
  for (int step = 0; step < a.steps; ++step) {
#pragma unroll
    for (int j = 0; j < Args::CHAINS; ++j) E::multiply(c[j], lhs, rhs);
  }
  float sum = 0.f;
#pragma unroll
  for (int j = 0; j < Args::CHAINS; ++j) sum += c[j][0] + c[j][1] + c[j][2] + c[j][3];
  a.to[blockIdx.x * Args::THREADS + threadIdx.x] = sum;
}
