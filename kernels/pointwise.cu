// Pointwise ops on a tensor in memory.

template <class Args>
__device__ void pointwise(const Args& a) {
  constexpr int V = Args::V;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int vectors = a.from.c / V;
  const int c = item % vectors * V, p = item / vectors;
  const int x = p % a.from.w, y = p / a.from.w % a.from.h, n = p / a.from.w / a.from.h;
  float v[V];
  load<V>(v, a.from, n, y, x, c);
  a.finish.template apply<V>(v, n, y, x, c);
}
