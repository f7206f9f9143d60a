// Bicubic resizing along one axis, with the weights of src/ops/resize_taps.rs. A thread computes its weights anew: they
// cost less than reading them, and a window's samples stay in the cache for its neighbours.

// Keys' cubic convolution at distance x.
__device__ inline float cubic(float sharpness, float x) {
  if (x < 1.f) return ((sharpness + 2.f) * x - (sharpness + 3.f)) * x * x + 1.f;
  return x < 2.f ? (((x - 5.f) * x + 8.f) * x - 4.f) * sharpness : 0.f;
}

template <class Args>
__device__ void resize_axis(const Args& a) {
  constexpr int V = Args::V;
  constexpr bool ROWS = Args::ALONG_ROWS != 0, ANTIALIAS = Args::ANTIALIAS != 0;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int vectors = a.output.c / V;
  const int c = item % vectors * V, p = item / vectors;
  const int x = p % a.output.w, y = p / a.output.w % a.output.h, n = p / a.output.w / a.output.h;

  const int samples = ROWS ? a.x.h : a.x.w;
  const float stretch = ANTIALIAS ? fmaxf(a.scale, 1.f) : 1.f, sharpness = ANTIALIAS ? -0.5f : -0.75f;
  // Rounded here, as the table is: fused with a sum below it would move the window of a large image.
  const float center = __fmul_rn(a.scale, float(ROWS ? y : x) + 0.5f);
  // With antialiasing the kernel is cut off at the border, without it the border is repeated.
  const int first = ANTIALIAS ? int(fmaxf(center - 2.f * stretch + 0.5f, 0.f)) : int(floorf(center - 0.5f)) - 1;
  const int end = ANTIALIAS ? min(int(center + 2.f * stretch + 0.5f), samples) : first + 4;

  float sum[V] = {}, total = 0.f;
  for (int i = first; i < end; ++i) {
    const float weight = cubic(sharpness, fabsf((float(i) - center + 0.5f) * (1.f / stretch)));
    const int from = min(max(i, 0), samples - 1);
    float v[V];
    load<V>(v, a.x, n, ROWS ? from : y, ROWS ? x : from, c);
    total += weight;
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] += weight * v[j];
  }
#pragma unroll
  for (int j = 0; j < V; ++j) sum[j] /= total;
  store<V>(a.output, sum, n, y, x, c);
}
