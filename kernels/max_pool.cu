// Maxima over square windows without padding; windows overlap where the stride is smaller than they are.

// The maxima of V channels of a window, and their places in it, row by row. A value takes the maximum's place if it is
// larger or not a number.
template <int V>
struct Maximum {
  float value[V];
  int place[V];
};

// The maxima of window (n, i, j) for the channels from c on.
template <int V, class Args>
__device__ __forceinline__ Maximum<V> maximum(const Args& a, int n, int i, int j, int c) {
  const int y0 = i * a.stride, x0 = j * a.stride;
  Maximum<V> best;
  read<V>(best.value, pixel(a.x, n, y0, x0) + c);
#pragma unroll
  for (int l = 0; l < V; ++l) best.place[l] = 0;
#pragma unroll
  for (int y = 0; y < a.ksize; ++y) {
#pragma unroll
    for (int x = 0; x < a.ksize; ++x) {
      float v[V];
      read<V>(v, pixel(a.x, n, y0 + y, x0 + x) + c);
#pragma unroll
      for (int l = 0; l < V; ++l) {
        if (v[l] > best.value[l] || v[l] != v[l]) best.value[l] = v[l], best.place[l] = y * a.ksize + x;
      }
    }
  }
  return best;
}

// A thread for V channels of a pixel of the result.
template <class Args>
__device__ void max_pool(const Args& a) {
  constexpr int V = Args::V;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int vectors = a.to.c / V, c = item % vectors * V, p = item / vectors;
  const int x = p % a.to.w, y = p / a.to.w % a.to.h, n = p / a.to.w / a.to.h;
  store<V>(a.to, maximum<V>(a, n, y, x, c).value, n, y, x, c);
}

// The windows along one axis that cover position `at`.
struct Covering {
  int begin, end;
};

template <class Args>
__device__ __forceinline__ Covering covering(const Args& a, int at, int windows) {
  return {at < a.ksize ? 0 : (at - a.ksize) / a.stride + 1, min(at / a.stride + 1, windows)};
}

// A thread for V channels of a pixel of the input: sums over the windows whose maximum it is.
template <class Args>
__device__ void max_pool_grad(const Args& a) {
  constexpr int V = Args::V;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int vectors = a.to.c / V, c = item % vectors * V, p = item / vectors;
  const int x = p % a.to.w, y = p / a.to.w % a.to.h, n = p / a.to.w / a.to.h;
  const Covering is = covering(a, y, a.d.h), js = covering(a, x, a.d.w);
  float sum[V] = {};
  for (int i = is.begin; i < is.end; ++i) {
    for (int j = js.begin; j < js.end; ++j) {
      const Maximum<V> best = maximum<V>(a, n, i, j, c);
      const int place = (y - i * a.stride) * a.ksize + x - j * a.stride;
      float d[V];
      read<V>(d, pixel(a.d, n, i, j) + c);
#pragma unroll
      for (int l = 0; l < V; ++l) {
        if (best.place[l] == place) sum[l] += d[l];
      }
    }
  }
  store<V>(a.to, sum, n, y, x, c);
}
