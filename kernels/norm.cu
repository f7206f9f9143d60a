// Batch and instance normalisation. Statistics are vectors per group: mean, 1 / standard deviation, variance.

// in: x, mean, invstd, gamma, beta. k: whether there is a gamma, a beta.
POINTWISE(norm_apply) {
  const float scale = k[0] != 0.f ? in[2] * in[3] : in[2];
  return (in[0] - in[1]) * scale + (k[1] != 0.f ? in[4] : 0.f);
}

// in: d, x, mean, invstd, sum of d, sum of d * normalised x, gamma. k: 1 / pixels of a group, whether there is a gamma.
POINTWISE(norm_input_grad) {
  const float scale = k[1] != 0.f ? in[3] * in[6] : in[3];
  const float slope = scale * in[3] * in[5] * k[0];
  return scale * in[0] - scale * in[4] * k[0] - slope * (in[1] - in[2]);
}

// in: u, d, x, mean, invstd, sums of u (plain, with normalised x), sums of d, sum of u * d, gamma; k as above.
POINTWISE(norm_second_grad) {
  const float inv = in[4];
  const float factor = k[1] != 0.f ? inv * inv * in[10] : inv * inv;
  const float u1 = in[5] * k[0], u2 = in[6] * k[0], d1 = in[7] * k[0], d2 = in[8] * k[0];
  const float by_x = factor * inv * (in[9] * k[0] - u1 * d1 - 3.f * u2 * d2);
  return factor * (u1 * d2 + d1 * u2) - by_x * (in[2] - in[3]) - factor * (d2 * in[0] + u2 * in[1]);
}

// Pixels whose mean a thread's sums are taken about.
constexpr int NORM_FIRST_PIXELS = 8;

// For each part and channel: a value m near the part's mean, the sums of x - m and of its square. Sums of differences
// keep their digits where the mean is large against the deviation.
template <class Args>
__device__ void norm_statistics_parts(const Args& a) {
  constexpr int V = Args::V;
  SHARED(float, centres, [V][Args::THREADS]);
  const Column at = column(a, a.x.c);
  const int count = at.end > at.begin ? (at.end - at.begin + at.step - 1) / at.step : 0;
  const int first = min(count, NORM_FIRST_PIXELS);
  float m[V] = {}, sum[V] = {}, squares[V] = {};
  for (int i = 0; i < first; ++i) {
    float x[V];
    read<V>(x, pixel(a.x, at.begin + i * at.step) + at.channel);
#pragma unroll
    for (int j = 0; j < V; ++j) m[j] += x[j] / first;
  }
#pragma unroll 4
  for (int p = at.begin; p < at.end; p += at.step) {
    float x[V];
    read<V>(x, pixel(a.x, p) + at.channel);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float d = x[j] - m[j];
      sum[j] += d;
      squares[j] = fmaf(d, d, squares[j]);
    }
  }
  // The block's sums are about the m of its first row of threads.
#pragma unroll
  for (int j = 0; j < V; ++j) centres[j][threadIdx.x] = m[j];
  __syncthreads();
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const float centre = centres[j][at.lane], off = m[j] - centre;
    squares[j] += off * (2.f * sum[j] + count * off);
    sum[j] += count * off;
    m[j] = centre;
  }
  column_sum<Args::THREADS>(sum, a.lanes);
  column_sum<Args::THREADS>(squares, a.lanes);
  store_columns<V>(a, at, m, 0, 3);
  store_columns<V>(a, at, sum, 1, 3);
  store_columns<V>(a, at, squares, 2, 3);
}

// Mean, 1 / standard deviation and biased variance from the parts' sums. Blocks: channels, groups.
template <class Args>
__device__ void norm_statistics(const Args& a) {
  const int rows = Args::THREADS / a.lanes, row = threadIdx.x / a.lanes, channels = a.to.c / 3;
  const int c = blockIdx.x * a.lanes + threadIdx.x % a.lanes;
  const int parts = row < rows && c < channels ? a.parts : 0;
  const float* from = a.sums + size_t(blockIdx.y) * a.parts * a.to.c + c;
  double sum[1] = {}, squares[1] = {};
  for (int r = row; r < parts; r += rows) {
    const float* part = from + size_t(r) * a.to.c;
    const int count = min(a.part_pixels, a.group_pixels - r * a.part_pixels);
    sum[0] += double(count) * part[0] + part[channels];
  }
  column_sum<Args::THREADS>(sum, a.lanes);
  const double mean = sum[0] / a.group_pixels;
  for (int r = row; r < parts; r += rows) {
    const float* part = from + size_t(r) * a.to.c;
    const int count = min(a.part_pixels, a.group_pixels - r * a.part_pixels);
    const double off = part[0] - mean;
    squares[0] += part[2 * channels] + off * (2.0 * part[channels] + count * off);
  }
  column_sum<Args::THREADS>(squares, a.lanes);
  if (row > 0 || c >= channels) return;
  // Rounding may leave a tiny negative number; a NaN stays one.
  const double variance = squares[0] < 0.0 ? 0.0 : squares[0] / a.group_pixels;
  float* to = pixel(a.to, blockIdx.y) + c;
  to[0] = float(mean);
  to[channels] = float(1.0 / sqrt(variance + a.eps));
  to[2 * channels] = float(variance);
}

// For each part and channel: the sums of d and of d * (x - mean).
template <class Args>
__device__ void norm_grad_parts(const Args& a) {
  constexpr int V = Args::V;
  const Column at = column(a, a.x.c);
  float mean[V] = {}, sum[V] = {}, product[V] = {};
  if (at.begin < at.end) {
#pragma unroll
    for (int j = 0; j < V; ++j) mean[j] = pixel(a.stats, blockIdx.z)[at.channel + j];
  }
#pragma unroll 4
  for (int p = at.begin; p < at.end; p += at.step) {
    float d[V], x[V];
    read<V>(d, pixel(a.d, p) + at.channel);
    read<V>(x, pixel(a.x, p) + at.channel);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sum[j] += d[j];
      product[j] = fmaf(d[j], x[j] - mean[j], product[j]);
    }
  }
  column_sum<Args::THREADS>(sum, a.lanes);
  column_sum<Args::THREADS>(product, a.lanes);
  store_columns<V>(a, at, sum, 0, 2);
  store_columns<V>(a, at, product, 1, 2);
}

// The sums of d and of d * normalised x from those of the parts. Blocks: channels, groups.
template <class Args>
__device__ void norm_grad_sums(const Args& a) {
  const int rows = Args::THREADS / a.lanes, row = threadIdx.x / a.lanes, channels = a.to.c / 2;
  const int c = blockIdx.x * a.lanes + threadIdx.x % a.lanes;
  double sums[2] = {};
  if (row < rows && c < channels) {
    const float* from = a.sums + size_t(blockIdx.y) * a.parts * a.to.c + c;
    for (int r = row; r < a.parts; r += rows) {
      sums[0] += from[size_t(r) * a.to.c];
      sums[1] += from[size_t(r) * a.to.c + channels];
    }
  }
  column_sum<Args::THREADS>(sums, a.lanes);
  if (row > 0 || c >= channels) return;
  float* to = pixel(a.to, blockIdx.y) + c;
  to[0] = float(sums[0]);
  to[channels] = float(sums[1] * pixel(a.stats, blockIdx.y)[channels + c]);
}

// 1 / standard deviation of a stored variance.
template <class Args>
__device__ void norm_inv_std(const Args& a) {
  const int c = blockIdx.x * Args::THREADS + threadIdx.x;
  if (c < a.items) a.to.ptr[c] = 1.f / sqrtf(a.variance.ptr[c] + a.eps);
}

// The statistics of parts of equally many pixels, one in each row of x, as those of all. One thread for each channel.
template <class Args>
__device__ void norm_joined(const Args& a) {
  const int c = blockIdx.x * Args::THREADS + threadIdx.x, channels = a.items, rows = a.x.n;
  if (c >= channels) return;
  double mean = 0.0, variance = 0.0;
  for (int r = 0; r < rows; ++r) mean += pixel(a.x, r)[c];
  mean /= rows;
  for (int r = 0; r < rows; ++r) {
    const double off = pixel(a.x, r)[c] - mean;
    variance += pixel(a.x, r)[2 * channels + c] + off * off;
  }
  variance /= rows;
  float* to = pixel(a.to, 0);
  to[c] = float(mean);
  to[channels + c] = float(1.0 / sqrt(variance + a.eps));
  to[2 * channels + c] = float(variance);
}
