// PReLU with one learned slope.

// in: x, slope.
POINTWISE(prelu) { return in[0] > 0.f ? in[0] : in[1] * in[0]; }

// in: d_output, x, slope.
POINTWISE(prelu_grad) { return in[1] > 0.f ? in[0] : in[2] * in[0]; }

// The slope's gradient: sums of d_output * min(x, 0) over the pixels of a part.
template <class Args>
__device__ void prelu_slope_grad(const Args& a) {
  constexpr int V = Args::V;
  const Column at = column(a, a.x.c);
  float sum[V] = {};
#pragma unroll 4
  for (int p = at.begin; p < at.end; p += at.step) {
    float d[V], x[V];
    read<V>(d, pixel(a.d, p) + at.channel);
    read<V>(x, pixel(a.x, p) + at.channel);
    // fminf would lose a NaN.
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] += x[j] > 0.f ? 0.f : d[j] * x[j];
  }
  store_total<V>(a, sum);
}
