// Losses that compare images pixel by pixel: mean absolute error, spectral angle, total variation, PSNR. Each kernel
// reads the images once; a thread has a pixel with all its channels, whose second reading comes from the cache.

constexpr float PI = 3.14159265f;
// Spectral angle: shortest norm that counts, largest cosine, and the squared chord that belongs to it.
constexpr double ANGLE_EPS = 1e-8, COS_LIMIT = 1.0 - 1e-7;
constexpr float MIN_CHORD = 2e-7f;
// Absolute error, angle, vertical and horizontal differences, squared error.
constexpr int PIXEL_SUMS = 5;

// The angle between two band vectors by the plain formula in f64, for pixels too dark for the fast one.
struct PlainAngle {
  double cosine, norm_a, norm_b, denominator;
};

__device__ inline PlainAngle plain_angle(const float* a, const float* b, int channels) {
  double dot = 0.0, aa = 0.0, bb = 0.0;
  for (int c = 0; c < channels; ++c) {
    dot += double(a[c]) * b[c];
    aa += double(a[c]) * a[c];
    bb += double(b[c]) * b[c];
  }
  PlainAngle angle;
  angle.norm_a = sqrt(aa), angle.norm_b = sqrt(bb);
  angle.denominator = fmax(fmax(angle.norm_a, ANGLE_EPS) * fmax(angle.norm_b, ANGLE_EPS), ANGLE_EPS);
  angle.cosine = dot / angle.denominator;
  return angle;
}

// The angle by way of the chord between unit vectors, which keeps the digits of small angles.
struct Chord {
  // 1 / |a|; 1 / |b|, negative where the angle is over 90 degrees.
  float inv_a, inv_b;
  // Squared length of a / |a| - b / |b| or, over 90 degrees, of a / |a| + b / |b|.
  float square;
  // Whether the pixel needs the plain formula.
  bool dark;
};

template <int V>
__device__ __forceinline__ Chord chord(const float* a, const float* b, int channels) {
  float aa = 0.f, bb = 0.f;
  for (int c = 0; c < channels; c += V) {
    float u[V], w[V];
    read<V>(u, a + c);
    read<V>(w, b + c);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      aa = fmaf(u[j], u[j], aa);
      bb = fmaf(w[j], w[j], bb);
    }
  }
  constexpr float EPS = float(ANGLE_EPS);
  const float norm_a = sqrtf(aa), norm_b = sqrtf(bb);
  Chord chord;
  chord.dark = norm_a < EPS || norm_b < EPS || norm_a * norm_b < EPS;
  // Any finite number will do for a dark pixel; NaN stays NaN.
  chord.inv_a = 1.f / (norm_a < EPS ? 1.f : norm_a);
  chord.inv_b = 1.f / (norm_b < EPS ? 1.f : norm_b);
  float near = 0.f, far = 0.f;
  for (int c = 0; c < channels; c += V) {
    float u[V], w[V];
    read<V>(u, a + c);
    read<V>(w, b + c);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float unit_a = u[j] * chord.inv_a, unit_b = w[j] * chord.inv_b;
      near = fmaf(unit_a - unit_b, unit_a - unit_b, near);
      far = fmaf(unit_a + unit_b, unit_a + unit_b, far);
    }
  }
  chord.square = far < near ? far : near;
  if (far < near) chord.inv_b = -chord.inv_b;
  return chord;
}

// asin(sqrt(t)) / sqrt(t) on 0 <= t <= 1/2, to 3e-8 (a Chebyshev fit).
__device__ __forceinline__ float asin_ratio(float t) {
  const float fit[] = {1.f,          1.6666608e-1f,  7.5030744e-2f,  4.403984e-2f, 3.6227997e-2f,
                       -8.811485e-3f, 1.1168559e-1f, -1.4124756e-1f, 1.2660423e-1f};
  float sum = 0.f;
#pragma unroll
  for (int k = 8; k >= 0; --k) sum = fmaf(sum, t, fit[k]);
  return sum;
}

template <int V>
__device__ __forceinline__ float spectral_angle(const float* a, const float* b, int channels) {
  const Chord at = chord<V>(a, b, channels);
  if (at.dark) {
    const double cosine = plain_angle(a, b, channels).cosine;
    return float(acos(cosine > COS_LIMIT ? COS_LIMIT : cosine < -COS_LIMIT ? -COS_LIMIT : cosine));
  }
  const float square = at.square < MIN_CHORD ? MIN_CHORD : at.square;
  const float acute = sqrtf(square) * asin_ratio(0.25f * square);
  return at.inv_b < 0.f ? PI - acute : acute;
}

// The gradient alpha * a + beta * b of the angle by a, where the plain formula gives it.
struct PlainAngleGrad {
  double alpha, beta;
};

__device__ inline PlainAngleGrad plain_angle_grad(const float* a, const float* b, int channels) {
  const PlainAngle angle = plain_angle(a, b, channels);
  if (fabs(angle.cosine) > COS_LIMIT) return {0.0, 0.0};
  const double slope = -1.0 / sqrt(1.0 - angle.cosine * angle.cosine);
  const bool norms_count = angle.norm_a >= ANGLE_EPS && angle.norm_a * fmax(angle.norm_b, ANGLE_EPS) >= ANGLE_EPS;
  const double shrink = norms_count ? -angle.cosine / (angle.norm_a * angle.norm_a) : 0.0;
  return {slope * shrink, slope / angle.denominator};
}

// The sums over a part of image blockIdx.y, to a.sums [image][part][sum].
template <class Args>
__device__ void pixel_sums(const Args& a) {
  constexpr int V = Args::V;
  float sums[PIXEL_SUMS] = {};
  const int n = blockIdx.y, w = a.sr.w, h = a.sr.h;
  for (int p = blockIdx.x * Args::THREADS + threadIdx.x; p < h * w; p += gridDim.x * Args::THREADS) {
    const int x = p % w, y = p / w;
    const float *sr = pixel(a.sr, n, y, x), *hr = pixel(a.hr, n, y, x);
    const bool has_right = x + 1 < w, has_below = y + 1 < h;
    for (int c = 0; c < a.sr.c; c += V) {
      float s[V], t[V], right[V], below[V];
      read<V>(s, sr + c);
      read<V>(t, hr + c);
      read<V>(right, (has_right ? sr + a.sr.stride : sr) + c);
      read<V>(below, (has_below ? sr + size_t(w) * a.sr.stride : sr) + c);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float error = clamped(s[j], a.max_val) - clamped(t[j], a.max_val);
        sums[0] += fabsf(s[j] - t[j]);
        sums[2] += fabsf(below[j] - s[j]);
        sums[3] += fabsf(right[j] - s[j]);
        sums[4] = fmaf(error, error, sums[4]);
      }
    }
    sums[1] += spectral_angle<V>(sr, hr, a.sr.c);
  }
  float* to = a.sums + (size_t(n) * gridDim.x + blockIdx.x) * PIXEL_SUMS;
#pragma unroll
  for (int k = 0; k < PIXEL_SUMS; ++k) {
    const double total = block_sum<Args::THREADS>(double(sums[k]));
    if (threadIdx.x == 0) to[k] = float(total);
  }
}

// A mean over `count` values; 0 over none.
__device__ __forceinline__ double mean_of(double sum, double count) { return count > 0.0 ? sum / count : 0.0; }

// l1, sam, tv and psnr of the a.images images of each row of a.to, from the a.rows partial sums of these. A block for
// each row.
template <class Args>
__device__ void pixel_losses(const Args& a) {
  SHARED(double, totals, [PIXEL_SUMS]);
  const int rows = Args::THREADS / PIXEL_SUMS, row = threadIdx.x / PIXEL_SUMS, k = threadIdx.x % PIXEL_SUMS;
  double sum[1] = {};
  if (row < rows) {
    const float* from = a.sums + size_t(blockIdx.x) * a.rows * PIXEL_SUMS;
    for (int r = row; r < a.rows; r += rows) sum[0] += from[r * PIXEL_SUMS + k];
  }
  column_sum<Args::THREADS>(sum, PIXEL_SUMS);
  if (row == 0) totals[k] = sum[0];
  __syncthreads();
  if (threadIdx.x > 0) return;
  const double h = a.h, w = a.w, pixels = a.images * h * w, values = pixels * a.c;
  const double max_val = a.max_val;
  float* to = pixel(a.to, blockIdx.x);
  to[0] = float(totals[0] / values);
  to[1] = float(totals[1] / pixels);
  to[2] = float(mean_of(totals[2], a.images * (h - 1) * w * a.c) + mean_of(totals[3], a.images * h * (w - 1) * a.c));
  to[3] = float(10.0 * log10(max_val * max_val / (totals[4] / values)));
}

// k * sign(a - b), with sign(0) = 0.
__device__ __forceinline__ float signed_by(float k, float a, float b) { return a > b ? k : a < b ? -k : 0.f; }

// The gradient by sr: a thread for each pixel. Terms whose d_output is 0 are not computed.
template <class Args>
__device__ void pixel_losses_grad(const Args& a) {
  constexpr int V = Args::V;
  const int p = blockIdx.x * Args::THREADS + threadIdx.x;
  if (p >= a.items) return;
  const int w = a.sr.w, h = a.sr.h, x = p % w, y = p / w % h;
  const float by_error = a.d.ptr[0] * a.per_value, by_angle = a.d.ptr[1] * a.per_pixel;
  const float by_rows = a.d.ptr[2] * a.per_row_pair, by_columns = a.d.ptr[2] * a.per_column_pair;
  const float *sr = pixel(a.sr, p), *hr = pixel(a.hr, p);
  const size_t next = a.sr.stride, next_row = size_t(w) * a.sr.stride;

  Chord at = {};
  PlainAngleGrad plain = {};
  float factor = 0.f;
  if (by_angle != 0.f) {
    at = chord<V>(sr, hr, a.sr.c);
    const float sine = sqrtf(at.square * (1.f - 0.25f * at.square));
    if (at.dark) {
      plain = plain_angle_grad(sr, hr, a.sr.c);
    } else if (!(at.square < MIN_CHORD)) {
      factor = (at.inv_b < 0.f ? by_angle : -by_angle) * at.inv_a / sine;
    }
  }
  for (int c = 0; c < a.sr.c; c += V) {
    float s[V], t[V], other[V], d[V] = {};
    read<V>(s, sr + c);
    read<V>(t, hr + c);
    if (by_error != 0.f) {
#pragma unroll
      for (int j = 0; j < V; ++j) d[j] += signed_by(by_error, s[j], t[j]);
    }
    if (by_columns != 0.f) {
      // The border's neighbour is itself.
      for (int side = 0; side < 2; ++side) {
        const float* from = side == 0 ? (x > 0 ? sr - next : sr) : (x + 1 < w ? sr + next : sr);
        read<V>(other, from + c);
#pragma unroll
        for (int j = 0; j < V; ++j) d[j] += signed_by(by_columns, s[j], other[j]);
      }
    }
    if (by_rows != 0.f) {
      for (int side = 0; side < 2; ++side) {
        const float* from = side == 0 ? (y > 0 ? sr - next_row : sr) : (y + 1 < h ? sr + next_row : sr);
        read<V>(other, from + c);
#pragma unroll
        for (int j = 0; j < V; ++j) d[j] += signed_by(by_rows, s[j], other[j]);
      }
    }
    if (at.dark) {
#pragma unroll
      for (int j = 0; j < V; ++j) d[j] += float(by_angle * (plain.alpha * s[j] + plain.beta * t[j]));
    } else if (factor != 0.f) {
      // d cos / d a = (v - cos * u) / |a| with u = a / |a|, v = b / |b|, written without cancellation.
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float unit_a = s[j] * at.inv_a, unit_b = t[j] * at.inv_b;
        d[j] += factor * ((unit_b - unit_a) + 0.5f * at.square * unit_a);
      }
    }
    float* to = pixel(a.to, p) + c;
#pragma unroll
    for (int j = 0; j < V; ++j) to[j] = d[j];
  }
}
