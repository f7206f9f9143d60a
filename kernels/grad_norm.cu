// The L2 norm of a flat buffer, and the factor that clips it. Squares are added in double, as src/ops/grad_norm.rs
// says.

// Each block adds the squares of every gridDim-th part of the buffer.
template <class Args>
__device__ void grad_norm_squares(const Args& a) {
  constexpr int V = Args::V;
  double sum = 0;
  for (int i = (blockIdx.x * Args::THREADS + threadIdx.x) * V; i < a.grad.c; i += gridDim.x * Args::THREADS * V) {
    float g[V];
    load<V>(g, a.grad, 0, 0, 0, i);
#pragma unroll
    for (int j = 0; j < V; ++j) sum += double(g[j]) * g[j];
  }
  sum = block_sum<Args::THREADS>(sum);
  if (threadIdx.x == 0) a.partials[blockIdx.x] = sum;
}

// One block.
template <class Args>
__device__ void grad_norm_root(const Args& a) {
  double sum = 0;
  for (int i = threadIdx.x; i < a.count; i += Args::THREADS) sum += a.partials[i];
  sum = block_sum<Args::THREADS>(sum);
  if (threadIdx.x == 0) *a.output.ptr = float(sqrt(sum));
}

template <class Args>
__device__ void clip_scale(const Args& a) {
  const double scale = double(a.max_norm) / (double(*a.norm.ptr) + 1e-6);
  // A norm that is not a number stays visible.
  if (threadIdx.x == 0) *a.output.ptr = scale > 1 ? 1.f : float(scale);
}
