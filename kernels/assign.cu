// Plain state changes. A state is contiguous, the value may be a channel slice.

// V elements of the value, from element i on of the value without its gaps.
template <int V, class Tensor>
__device__ __forceinline__ void load_elements(float (&v)[V], const Tensor& value, int i) {
  const int p = i / value.c;
  const int x = p % value.w, y = p / value.w % value.h, n = p / value.w / value.h;
  load<V>(v, value, n, y, x, i % value.c);
}

template <class Args>
__device__ void assign(const Args& a) {
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items || *a.ok == 0) return;
  float v[Args::V];
  load_elements<Args::V>(v, a.value, item * Args::V);
  store<Args::V>(a.state, v, 0, 0, 0, item * Args::V);
}

template <class Args>
__device__ void add_to(const Args& a) {
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items || *a.ok == 0) return;
  float v[Args::V], sum[Args::V];
  load_elements<Args::V>(v, a.value, item * Args::V);
  load<Args::V>(sum, a.state, 0, 0, 0, item * Args::V);
#pragma unroll
  for (int j = 0; j < Args::V; ++j) sum[j] += v[j];
  store<Args::V>(a.state, sum, 0, 0, 0, item * Args::V);
}

template <class Args>
__device__ void clear_state(const Args& a) {
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items || *a.ok == 0) return;
  const float zeros[Args::V] = {};
  store<Args::V>(a.state, zeros, 0, 0, 0, item * Args::V);
}
