// Sums over the extents that a smaller shape repeats, and the repetition.

// Sums of x, or of x * y, over the pixels of a part: of each channel, or of all.
template <class Args>
__device__ void sum_to(const Args& a) {
  constexpr int V = Args::V;
  const Column at = column(a, a.x.c);
  float sum[V] = {};
#pragma unroll 4
  for (int p = at.begin; p < at.end; p += at.step) {
    float x[V];
    read<V>(x, pixel(a.x, p) + at.channel);
    if constexpr (Args::PRODUCT) {
      float y[V];
      read<V>(y, pixel(a.y, p) + at.channel);
#pragma unroll
      for (int j = 0; j < V; ++j) x[j] *= y[j];
    }
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] += x[j];
  }
  if constexpr (Args::KEEP_C) {
    column_sum<Args::THREADS>(sum, a.lanes);
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] /= a.count;
    store_columns<V>(a, at, sum, 0, 1);
  } else {
    store_total<V>(a, sum);
  }
}

// The parts' sums: to[g][c] = sum over rows r of a.sums[g][r][c], divided by a.count. Blocks: channels, groups.
template <class Args>
__device__ void sum_rows(const Args& a) {
  const int rows = Args::THREADS / a.lanes, row = threadIdx.x / a.lanes;
  const int c = blockIdx.x * a.lanes + threadIdx.x % a.lanes;
  double sum[1] = {};
  if (row < rows && c < a.to.c) {
    const float* from = a.sums + size_t(blockIdx.y) * a.rows * a.to.c + c;
#pragma unroll 4
    for (int r = row; r < a.rows; r += rows) sum[0] += from[size_t(r) * a.to.c];
  }
  column_sum<Args::THREADS>(sum, a.lanes);
  if (row == 0 && c < a.to.c) pixel(a.to, blockIdx.y)[c] = float(sum[0] / a.count);
}

// The source positions that one position of the result stands for.
struct Repeated {
  int begin, end;
};

__device__ __forceinline__ Repeated repeated(int to, int from, int i) {
  return to == 1 ? Repeated{0, from} : Repeated{i, i + 1};
}

// Sums that keep pixels: a thread for each result.
template <class Args>
__device__ void sum_to_pixels(const Args& a) {
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int c = item % a.to.c, p = item / a.to.c;
  const Repeated cs = repeated(a.to.c, a.x.c, c), xs = repeated(a.to.w, a.x.w, p % a.to.w),
                 ys = repeated(a.to.h, a.x.h, p / a.to.w % a.to.h), ns = repeated(a.to.n, a.x.n, p / a.to.w / a.to.h);
  double sum = 0.0;
  for (int n = ns.begin; n < ns.end; ++n) {
    for (int y = ys.begin; y < ys.end; ++y) {
      for (int x = xs.begin; x < xs.end; ++x) {
        for (int k = cs.begin; k < cs.end; ++k) {
          const float v = pixel(a.x, n, y, x)[k];
          if constexpr (Args::PRODUCT) {
            sum += v * pixel(a.y, n, y, x)[k];
          } else {
            sum += v;
          }
        }
      }
    }
  }
  pixel(a.to, p)[c] = float(sum);
}

template <class Args>
__device__ void expand(const Args& a) {
  constexpr int V = Args::V;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int vectors = a.to.c / V, c = item % vectors * V, p = item / vectors;
  const int x = p % a.to.w, y = p / a.to.w % a.to.h, n = p / a.to.w / a.to.h;
  float v[V];
  load<V>(v, a.x, n, y, x, c);
  store<V>(a.to, v, n, y, x, c);
}
