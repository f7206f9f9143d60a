// Channels in segments, each of which is followed by channels of zeros; and the segments without these.

// The place of channel c among `from` widths under `to` widths, or -1 where it is padding.
template <class From, class To>
__device__ __forceinline__ int other_place(int c, int segments, From from, To to) {
  int start = 0;
  for (int s = 0; s < segments; ++s) {
    if (c < from(s)) return c < to(s) ? start + c : -1;
    c -= from(s), start += to(s);
  }
  return -1;
}

template <class Args>
__device__ void pad_channels(const Args& a) {
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int c = item % a.to.c, p = item / a.to.c, n = p / (a.to.h * a.to.w), inside = p % (a.to.h * a.to.w);
  const auto width = [&](int s) { return a.width(s); };
  const auto padded = [&](int s) { return a.padded(s); };
  const int from = Args::PAD ? other_place(c, a.width_count, padded, width) : other_place(c, a.width_count, width, padded);
  const bool valid = from >= 0 && n < a.from.n;
  pixel(a.to, p)[c] = valid ? float(pixel(a.from, n * a.from.h * a.from.w + inside)[from]) : 0.f;
}
