// Channels to pixels and back. A thread moves one square: its r * r values lie side by side among the channels of the
// small image, and neighbouring threads move neighbouring channels of the large one, so both sides are coalesced.

template <class Args>
__device__ void pixel_shuffle(const Args& a) {
  constexpr int V = Args::V;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int r = a.factor, square = r * r, channels = a.x.c / square;
  const int c = item % channels, p = item / channels;
  const int x = p % a.x.w, y = p / a.x.w % a.x.h, n = p / a.x.w / a.x.h;
  for (int k = 0; k < square; k += V) {
    float values[V];
    load<V>(values, a.x, n, y, x, c * square + k);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      float v[1] = {values[j]};
      a.finish.template apply<1>(v, n, y * r + (k + j) / r, x * r + (k + j) % r, c);
    }
  }
}

template <class Args>
__device__ void pixel_unshuffle(const Args& a) {
  constexpr int V = Args::V;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int r = a.factor, square = r * r, channels = a.x.c;
  const int c = item % channels, p = item / channels;
  const int x = p % a.output.w, y = p / a.output.w % a.output.h, n = p / a.output.w / a.output.h;
  for (int k = 0; k < square; k += V) {
    float values[V];
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] = pixel(a.x, n, y * r + (k + j) / r, x * r + (k + j) % r)[c];
    store<V>(a.output, values, n, y, x, c * square + k);
  }
}
