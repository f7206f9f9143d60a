// Channels of a tensor inside a wider one that is 0 elsewhere.

template <class Args>
__device__ void embed_channels(const Args& a) {
  constexpr int V = Args::V;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int vectors = a.output.c / V;
  const int c = item % vectors * V - a.offset, p = item / vectors;
  const int x = p % a.output.w, y = p / a.output.w % a.output.h, n = p / a.output.w / a.output.h;
  float v[V] = {};
  if (c >= 0 && c < a.x.c) load<V>(v, a.x, n, y, x, c);
  store<V>(a.output, v, n, y, x, c + a.offset);
}
