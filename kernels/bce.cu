// Binary cross-entropy on logits.

// in: logit, the mean's gradient (a scalar). k: target, 1 / number of logits.
POINTWISE(bce_grad) { return in[1] * k[1] * (1.f / (1.f + expf(-in[0])) - k[0]); }

// Sums of term(logit) over the pixels of a part.
template <class Args, class Term>
__device__ __forceinline__ void sum_logits(const Args& a, Term term) {
  constexpr int V = Args::V;
  const Column at = column(a, a.x.c);
  float sum[V] = {};
#pragma unroll 4
  for (int p = at.begin; p < at.end; p += at.step) {
    float x[V];
    read<V>(x, pixel(a.x, p) + at.channel);
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] += term(x[j]);
  }
  store_total<V>(a, sum);
}

template <class Args>
__device__ void bce_logits(const Args& a) {
  sum_logits(a, [&](float x) { return (x > 0.f ? x : 0.f) - x * a.target + log1pf(expf(-fabsf(x))); });
}

template <class Args>
__device__ void mean_sigmoid(const Args& a) {
  sum_logits(a, [](float x) { return 1.f / (1.f + expf(-x)); });
}
