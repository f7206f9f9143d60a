// Sums of channels by a matrix (rows, 1, 1, columns), in f32: a thread for an element of the result.

template <class Args>
__device__ void mix_channels(const Args& a) {
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int k = item % a.to.c, p = item / a.to.c;
  float sum = 0.f;
  for (int c = 0; c < a.x.c; ++c) {
    const float factor = Args::TRANSPOSED ? pixel(a.matrix, c)[k] : pixel(a.matrix, k)[c];
    sum = fmaf(factor, pixel(a.x, p)[c], sum);
  }
  pixel(a.to, p)[k] = sum;
}
