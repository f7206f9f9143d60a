// The distance of one layer of LPIPS. A warp has a pixel with all its channels, and reads it again from the cache.

// The numbers by which a pixel's features are scaled: 1 / (norm + eps) of both.
struct Scales {
  float a, b;
  float norm_a;
};

template <int V, class Args, class A, class B>
__device__ __forceinline__ Scales scales(const Args& a, A pa, B pb) {
  float aa = 0.f, bb = 0.f;
  for (int c = threadIdx.x % 32 * V; c < a.a.c; c += 32 * V) {
    float u[V], v[V];
    read<V>(u, pa + c);
    read<V>(v, pb + c);
#pragma unroll
    for (int l = 0; l < V; ++l) {
      aa = fmaf(u[l], u[l], aa);
      bb = fmaf(v[l], v[l], bb);
    }
  }
  const float norm_a = sqrtf(warp_sum(aa)), norm_b = sqrtf(warp_sum(bb));
  return {1.f / (norm_a + a.eps), 1.f / (norm_b + a.eps), norm_a};
}

// Products are rounded by themselves: one that is fused into the difference would leave a rest where a is b.
__device__ __forceinline__ float difference(const Scales& scale, float u, float v) {
  return __fadd_rn(__fmul_rn(u, scale.a), -__fmul_rn(v, scale.b));
}

// The sum over a part of the pixels of image blockIdx.y, to a.sums [image][part].
template <class Args>
__device__ void lpips_distance(const Args& a) {
  constexpr int V = Args::V, WARPS = Args::THREADS / 32;
  const int pixels = a.a.h * a.a.w, first = blockIdx.y * pixels;
  double total = 0.0;
  for (int p = blockIdx.x * WARPS + threadIdx.x / 32; p < pixels; p += gridDim.x * WARPS) {
    const auto pa = pixel(a.a, first + p);
    const auto pb = pixel(a.b, first + p);
    const Scales scale = scales<V>(a, pa, pb);
    float sum = 0.f;
    for (int c = threadIdx.x % 32 * V; c < a.a.c; c += 32 * V) {
      float u[V], v[V], weight[V];
      read<V>(u, pa + c);
      read<V>(v, pb + c);
      read<V>(weight, a.weight.ptr + c);
#pragma unroll
      for (int l = 0; l < V; ++l) {
        const float e = difference(scale, u[l], v[l]);
        sum = fmaf(weight[l] * e, e, sum);
      }
    }
    total += sum;
  }
  total = block_sum<Args::THREADS>(total);
  if (threadIdx.x == 0) a.sums[blockIdx.y * gridDim.x + blockIdx.x] = float(total);
}

// The gradient by a. With s = 1 / (norm + eps), t = weight * difference and k = 2 d_output / pixels it is
// k s (t - <t, s a> a / norm).
template <class Args>
__device__ void lpips_distance_grad(const Args& a) {
  constexpr int V = Args::V, WARPS = Args::THREADS / 32;
  const int p = blockIdx.x * WARPS + threadIdx.x / 32;
  if (p >= a.pixels) return;
  const auto pa = pixel(a.a, p);
  const auto pb = pixel(a.b, p);
  const Scales scale = scales<V>(a, pa, pb);
  float product = 0.f;
  for (int c = threadIdx.x % 32 * V; c < a.a.c; c += 32 * V) {
    float u[V], v[V], weight[V];
    read<V>(u, pa + c);
    read<V>(v, pb + c);
    read<V>(weight, a.weight.ptr + c);
#pragma unroll
    for (int l = 0; l < V; ++l) {
      product = fmaf(weight[l] * difference(scale, u[l], v[l]), u[l] * scale.a, product);
    }
  }
  product = warp_sum(product);
  const bool is_zero = scale.norm_a == 0.f;
  const float along = is_zero ? 0.f : product / scale.norm_a;
  const float factor = is_zero ? 0.f : a.factor * pixel(a.d, p / (a.a.h * a.a.w))[0] * scale.a;
  const auto to = pixel(a.to, p);
  for (int c = threadIdx.x % 32 * V; c < a.a.c; c += 32 * V) {
    float u[V], v[V], weight[V], d[V];
    read<V>(u, pa + c);
    read<V>(v, pb + c);
    read<V>(weight, a.weight.ptr + c);
#pragma unroll
    for (int l = 0; l < V; ++l) {
      d[l] = is_zero ? 0.f : factor * (weight[l] * difference(scale, u[l], v[l]) - along * u[l]);
    }
    write<V>(to + c, d);
  }
}
