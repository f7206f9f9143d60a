// Adam over a flat buffer; the formulas are in src/ops/adam.rs. adam_weights and adam_commit give the same bits:
// adam_element writes every sum of products as fmaf, which leaves the compiler nothing to contract.

// The numbers of one update.
struct AdamRates {
  float step_size, root_correction2, clip_scale;
};

// All threads of the block must call it.
template <class Args>
__device__ AdamRates adam_rates(const Args& a) {
  SHARED(float, rates, [2]);
  if (threadIdx.x == 0) {
    const double t = double(*a.done.ptr) + 1;
    rates[0] = float(double(*a.lr.ptr) / (1 - pow(a.beta1, t)));
    rates[1] = float(sqrt(1 - pow(a.beta2, t)));
  }
  __syncthreads();
  return {rates[0], rates[1], *a.clip_scale.ptr};
}

// Weight decay of elements i to i + V.
template <int V, class Args>
__device__ __forceinline__ void weight_decays(const Args& a, float (&decay)[V], int i) {
  int range = 0;  // The first that ends behind i.
  for (int after = a.decayed_count / 2; range < after;) {
    const int middle = (range + after) / 2;
    if (a.decayed(2 * middle + 1) <= i) {
      range = middle + 1;
    } else {
      after = middle;
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) {
    while (2 * range < a.decayed_count && a.decayed(2 * range + 1) <= i + j) ++range;
    decay[j] = 2 * range < a.decayed_count && a.decayed(2 * range) <= i + j ? a.weight_decay : 0.f;
  }
}

template <class Args>
__device__ __forceinline__ void adam_element(const Args& a, const AdamRates& rates, float decay, float grad,
                                             float& w, float& m, float& v) {
  const float beta1 = float(a.beta1), rest1 = float(1 - a.beta1);
  const float beta2 = float(a.beta2), rest2 = float(1 - a.beta2);
  const float g = fmaf(rates.clip_scale, grad, decay * w);
  m = fmaf(beta1, m, rest1 * g);
  v = fmaf(beta2, v, rest2 * (g * g));
  const float denominator = sqrtf(v) / rates.root_correction2 + a.eps;
  w = fmaf(-rates.step_size, m / denominator, w);
}

// Elements i to i + V: their new weights and moments.
template <int V, class Args>
__device__ __forceinline__ void adam_elements(const Args& a, const AdamRates& rates, int i, float (&w)[V],
                                              float (&m)[V], float (&v)[V]) {
  float decay[V], grad[V];
  weight_decays<V>(a, decay, i);
  load<V>(w, a.weights, 0, 0, 0, i);
  load<V>(m, a.exp_avg, 0, 0, 0, i);
  load<V>(v, a.exp_avg_sq, 0, 0, 0, i);
  load<V>(grad, a.grad, 0, 0, 0, i);
#pragma unroll
  for (int j = 0; j < V; ++j) adam_element(a, rates, decay[j], grad[j], w[j], m[j], v[j]);
}

template <class Args>
__device__ void adam_weights(const Args& a) {
  constexpr int V = Args::V;
  const AdamRates rates = adam_rates(a);
  for (int i = (blockIdx.x * Args::THREADS + threadIdx.x) * V; i < a.grad.c; i += gridDim.x * Args::THREADS * V) {
    float w[V], m[V], v[V];
    adam_elements<V>(a, rates, i, w, m, v);
    store<V>(a.output, w, 0, 0, 0, i);
  }
}

template <class Args>
__device__ void adam_commit(const Args& a) {
  constexpr int V = Args::V;
  if (*a.ok == 0) return;
  const AdamRates rates = adam_rates(a);
  for (int i = (blockIdx.x * Args::THREADS + threadIdx.x) * V; i < a.grad.c; i += gridDim.x * Args::THREADS * V) {
    float w[V], m[V], v[V];
    adam_elements<V>(a, rates, i, w, m, v);
    store<V>(a.weights, w, 0, 0, 0, i);
    store<V>(a.exp_avg, m, 0, 0, 0, i);
    store<V>(a.exp_avg_sq, v, 0, 0, 0, i);
  }
}

template <class Args>
__device__ void adam_count(const Args& a) {
  if (threadIdx.x == 0 && *a.ok != 0) *a.done.ptr += 1.f;
}
