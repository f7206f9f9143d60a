// The flag that a step's state changes depend on: every checked value is finite.

template <class Args>
__device__ void set_ok(const Args& a) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *a.ok = 1;
}

// One block. Several threads may write the same 0.
template <class Args>
__device__ void all_finite(const Args& a) {
  const int count = pixels(a.x) * a.x.c;
  for (int i = threadIdx.x; i < count; i += Args::THREADS) {
    const float v = pixel(a.x, i / a.x.c)[i % a.x.c];
    if (!(fabsf(v) <= 3.402823466e38f)) *a.ok = 0;
  }
}
