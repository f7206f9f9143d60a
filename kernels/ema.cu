// Exponential moving average of weights; the formulas are in src/ops/ema.rs.

// The decay of update number k, from 1.
template <class Args>
__device__ double ema_decay_at(const Args& a, double k) {
  const double start = (1 + k) / (10 + k);
  return a.use_num_updates && start < a.decay ? start : a.decay;
}

template <class Args>
__device__ void ema_decay(const Args& a) {
  if (threadIdx.x != 0) return;
  *a.output.ptr = *a.enabled.ptr == 0.f ? 0.f : float(ema_decay_at(a, double(*a.num_updates.ptr) + 1));
}

template <class Args>
__device__ void ema_commit(const Args& a) {
  constexpr int V = Args::V;
  if (*a.ok == 0 || *a.enabled.ptr == 0.f) return;
  // The number of updates is a float, and so is the next one.
  const double exact = ema_decay_at(a, *a.num_updates.ptr + 1.f);
  const float decay = float(exact), weight = float(1 - exact);
  for (int i = (blockIdx.x * Args::THREADS + threadIdx.x) * V; i < a.ema.c; i += gridDim.x * Args::THREADS * V) {
    float average[V], live[V];
    load<V>(average, a.ema, 0, 0, 0, i);
    load<V>(live, a.live, 0, 0, 0, i);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float way = live[j] - average[j];
      // The nearer end is the starting point, as in PyTorch's lerp: a weight of 1 copies.
      average[j] = weight < 0.5f ? average[j] + weight * way : live[j] - way * decay;
    }
    store<V>(a.ema, average, 0, 0, 0, i);
  }
}

template <class Args>
__device__ void ema_count(const Args& a) {
  if (threadIdx.x == 0 && *a.ok != 0 && *a.enabled.ptr != 0.f) *a.num_updates.ptr += 1.f;
}

template <class Args>
__device__ void ema_buffers(const Args& a) {
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items || *a.ok == 0 || *a.enabled.ptr == 0.f) return;
  float v[Args::V];
  load<Args::V>(v, a.live, 0, 0, 0, item * Args::V);
  store<Args::V>(a.ema, v, 0, 0, 0, item * Args::V);
}
