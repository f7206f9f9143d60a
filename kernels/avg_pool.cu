// Adaptive average pooling: cell i of n covers rows floor(i * h / n) to ceil((i + 1) * h / n); columns alike.

// Pixels of a window that are summed in f32 before f64 takes over.
constexpr int POOL_RUN = 64;

// The part of `len` that cell `i` of `cells` covers.
struct Window {
  int begin, end;
};

__device__ __forceinline__ Window window(int i, int len, int cells) {
  return {i * len / cells, ((i + 1) * len + cells - 1) / cells};
}

// The cells of `cells` whose windows cover position `at` of `len`.
__device__ __forceinline__ Window covering(int at, int len, int cells) {
  return {at * cells / len, min(((at + 1) * cells + len - 1) / len, cells)};
}

// A block for each cell (along x) and share of the channels (along y); its rows of threads go through the window.
template <class Args>
__device__ void avg_pool(const Args& a) {
  constexpr int V = Args::V;
  const int j = blockIdx.x % a.to.w, i = blockIdx.x / a.to.w % a.to.h, n = blockIdx.x / a.to.w / a.to.h;
  const Window ys = window(i, a.x.h, a.to.h), xs = window(j, a.x.w, a.to.w);
  const int width = xs.end - xs.begin, area = (ys.end - ys.begin) * width;
  const int rows = Args::THREADS / a.lanes, row = threadIdx.x / a.lanes;
  const int c = (blockIdx.y * a.lanes + threadIdx.x % a.lanes) * V;
  const int end = row < rows && c < a.x.c ? area : 0;
  double sum[V] = {};
  for (int at = row; at < end;) {
    float run[V] = {};
    for (int k = 0; k < POOL_RUN && at < end; ++k, at += rows) {
      float v[V];
      read<V>(v, pixel(a.x, n, ys.begin + at / width, xs.begin + at % width) + c);
#pragma unroll
      for (int l = 0; l < V; ++l) run[l] += v[l];
    }
#pragma unroll
    for (int l = 0; l < V; ++l) sum[l] += run[l];
  }
  column_sum<Args::THREADS>(sum, a.lanes);
  if (row > 0 || c >= a.x.c) return;
#pragma unroll
  for (int l = 0; l < V; ++l) pixel(a.to, blockIdx.x)[c + l] = float(sum[l] / area);
}

// Spreads each cell over its window, divided by the window's area: a thread for V channels of a pixel.
template <class Args>
__device__ void avg_pool_grad(const Args& a) {
  constexpr int V = Args::V;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int vectors = a.to.c / V, c = item % vectors * V, p = item / vectors;
  const int x = p % a.to.w, y = p / a.to.w % a.to.h, n = p / a.to.w / a.to.h;
  const Window is = covering(y, a.to.h, a.d.h), js = covering(x, a.to.w, a.d.w);
  float sum[V] = {};
  for (int i = is.begin; i < is.end; ++i) {
    const Window ys = window(i, a.to.h, a.d.h);
    for (int j = js.begin; j < js.end; ++j) {
      const Window xs = window(j, a.to.w, a.d.w);
      const float share = 1.f / float((ys.end - ys.begin) * (xs.end - xs.begin));
      float d[V];
      read<V>(d, pixel(a.d, n, i, j) + c);
#pragma unroll
      for (int l = 0; l < V; ++l) sum[l] = fmaf(share, d[l], sum[l]);
    }
  }
  store<V>(a.to, sum, n, y, x, c);
}
