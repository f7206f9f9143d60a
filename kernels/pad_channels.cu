// Channels in segments that become wider, by zeros, or narrower; and images.

// The place in the operand of channel c of the output, or -1 where there is none.
template <class Args>
__device__ __forceinline__ int source_of(const Args& a, int c) {
  int start = 0;
  for (int s = 0; s < a.to_width_count; ++s) {
    if (c < a.to_width(s)) return c < a.from_width(s) ? start + c : -1;
    c -= a.to_width(s), start += a.from_width(s);
  }
  return -1;
}

template <class Args>
__device__ void pad_channels(const Args& a) {
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int c = item % a.to.c, p = item / a.to.c, n = p / (a.to.h * a.to.w), inside = p % (a.to.h * a.to.w);
  const int from = source_of(a, c);
  const bool valid = from >= 0 && n < a.from.n;
  pixel(a.to, p)[c] = valid ? float(pixel(a.from, n * a.from.h * a.from.w + inside)[from]) : 0.f;
}
