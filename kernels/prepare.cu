// Raw pixels to network input: type, scale, flips and turns; the codes are those of src/ops/prepare.rs.

// Comparisons let a NaN through.
template <class Args>
__device__ __forceinline__ float normalized(const Args& a, float v) {
  v = v * a.gain / a.divisor;
  if (!a.limited) return v;
  v = v < 0.f ? 0.f : v > 1.f ? 1.f : v;
  return a.is_signed ? v * 2.f - 1.f : v;
}

template <class Args>
__device__ void prepare(const Args& a) {
  constexpr int V = Args::V, TILE = Args::TILE;
  const int w = a.output.w, h = a.output.h, channels = a.output.c;
  const int x = blockIdx.x * TILE + threadIdx.x % TILE, y = blockIdx.y * TILE + threadIdx.x / TILE, n = blockIdx.z;
  if (x >= w || y >= h) return;
  const int code = a.codes[n];
  int from_y = code & 4 ? x : y, from_x = code & 4 ? y : x;
  if (code & 1) from_x = w - 1 - from_x;
  if (code & 2) from_y = h - 1 - from_y;
  const auto* from = a.raw + (size_t(n * h + from_y) * w + from_x) * channels;
  for (int c = 0; c < channels; c += V) {
    float v[V];
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = normalized(a, float(from[c + j]));
    store<V>(a.output, v, n, y, x, c);
  }
}
