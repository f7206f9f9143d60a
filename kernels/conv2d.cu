// Two-dimensional convolution as an implicit matrix product, in f32. Weights are O,kh,kw,I.
//
// Forward: result[p][o] = sum over taps and i of input[source(p, tap)][i] * weight[o][tap][i]. The input gradient is
// the same sum with the roles of o and i exchanged and sources found the other way round. The weight gradient is a
// product over pixels, cut into parts that are summed in order.

constexpr int DEPTH = 16;           // of the reduction that a block holds in shared memory
constexpr int ROWS = 4, COLS = 4;   // results of a thread
constexpr int PAD = 4;              // floats that spread rows of shared memory over the banks

// The source row (or column) of result r under tap k, or -1.
template <class Args>
__device__ __forceinline__ int source_index(const Args& a, int r, int k, int extent) {
  if constexpr (Args::TRANSPOSED) {
    const int s = r + a.pad - k * a.dilation;
    return s >= 0 && s % a.stride == 0 && s / a.stride < extent ? s / a.stride : -1;
  } else {
    const int s = r * a.stride + k * a.dilation - a.pad;
    return s >= 0 && s < extent ? s : -1;
  }
}

// The source's value for tap (ky, kx), channel c; 0 in the padding.
template <class Args>
__device__ __forceinline__ float source_value(const Args& a, int n, int y, int x, int ky, int kx, int c) {
  const int sy = source_index(a, y, ky, a.x.h), sx = source_index(a, x, kx, a.x.w);
  return sy >= 0 && sx >= 0 ? pixel(a.x, n, sy, sx)[c] : 0.f;
}

// One step of the product: acc += left[k][row] * right[k][col] over the depth in shared memory.
template <int LEFT, int RIGHT>
__device__ __forceinline__ void multiply(float (&acc)[ROWS][COLS], const float (&left)[DEPTH][LEFT],
                                         const float (&right)[DEPTH][RIGHT], int row, int col) {
#pragma unroll
  for (int k = 0; k < DEPTH; ++k) {
    const float4 l = *reinterpret_cast<const float4*>(&left[k][row]);
    const float4 r = *reinterpret_cast<const float4*>(&right[k][col]);
    const float ls[] = {l.x, l.y, l.z, l.w}, rs[] = {r.x, r.y, r.z, r.w};
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
      for (int j = 0; j < COLS; ++j) acc[i][j] = fmaf(ls[i], rs[j], acc[i][j]);
    }
  }
}

// Forward and input gradient: blocks of PIXELS results by WIDTH channels.
template <class Args>
__device__ void conv2d(const Args& a) {
  constexpr int WIDTH = Args::WIDTH, THREAD_COLS = WIDTH / COLS;
  constexpr int PIXELS = Args::THREADS / THREAD_COLS * ROWS;
  constexpr int LOADS = PIXELS * DEPTH / Args::THREADS;
  SHARED(float, xs, [DEPTH][PIXELS + PAD]);
  SHARED(float, ws, [DEPTH][WIDTH + PAD]);
  const int first_pixel = blockIdx.x * PIXELS, first_channel = blockIdx.y * WIDTH;
  const int count = a.images * a.rows * a.cols, taps = a.kh * a.kw, depth = taps * a.x.c;

  // A thread loads the same pixels in every step, at one place of the depth.
  const int lane = threadIdx.x % DEPTH;
  int n[LOADS], y[LOADS], x[LOADS];
#pragma unroll
  for (int l = 0; l < LOADS; ++l) {
    const int p = first_pixel + threadIdx.x / DEPTH + l * (Args::THREADS / DEPTH);
    x[l] = p % a.cols, y[l] = p / a.cols % a.rows, n[l] = p < count ? p / a.cols / a.rows : -1;
  }
  const int row = threadIdx.x / THREAD_COLS * ROWS, col = threadIdx.x % THREAD_COLS * COLS;
  float acc[ROWS][COLS] = {};
  for (int start = 0; start < depth; start += DEPTH) {
    const int at = start + lane, tap = at / a.x.c, c = at % a.x.c;
#pragma unroll
    for (int l = 0; l < LOADS; ++l) {
      const bool valid = n[l] >= 0 && at < depth;
      xs[lane][threadIdx.x / DEPTH + l * (Args::THREADS / DEPTH)] =
          valid ? source_value(a, n[l], y[l], x[l], tap / a.kw, tap % a.kw, c) : 0.f;
    }
    for (int i = threadIdx.x; i < DEPTH * WIDTH; i += Args::THREADS) {
      // Neighbouring threads read neighbouring weights: along the source channels, or along the results.
      const int k = Args::TRANSPOSED ? i / WIDTH : i % DEPTH, r = Args::TRANSPOSED ? i % WIDTH : i / DEPTH;
      const int s = start + k, result = first_channel + r;
      float w = 0.f;
      if (s < depth && result < a.channels) {
        w = Args::TRANSPOSED ? a.w.ptr[(size_t(s % a.x.c) * taps + s / a.x.c) * a.channels + result]
                             : a.w.ptr[size_t(result) * depth + s];
      }
      ws[k][r] = w;
    }
    __syncthreads();
    multiply(acc, xs, ws, row, col);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const int p = first_pixel + row + i, c = first_channel + col;
    if (p >= count) continue;
    const int px = p % a.cols, py = p / a.cols % a.rows, image = p / a.cols / a.rows;
    if constexpr (Args::V == COLS) {
      if (c < a.channels) a.finish.template apply<COLS>(acc[i], image, py, px, c);
    } else {
#pragma unroll
      for (int j = 0; j < COLS; ++j) {
        float v[1] = {acc[i][j]};
        if (c + j < a.channels) a.finish.template apply<1>(v, image, py, px, c + j);
      }
    }
  }
}

// Forward and input gradient where each channel has its own taps: a thread computes V channels of a pixel.
template <class Args>
__device__ void conv2d_depthwise(const Args& a) {
  constexpr int V = Args::V;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int vectors = a.channels / V, taps = a.kh * a.kw;
  const int c = item % vectors * V, p = item / vectors;
  const int x = p % a.cols, y = p / a.cols % a.rows, n = p / a.cols / a.rows;
  float v[V] = {};
  for (int ky = 0; ky < a.kh; ++ky) {
    const int sy = source_index(a, y, ky, a.x.h);
    if (sy < 0) continue;
    for (int kx = 0; kx < a.kw; ++kx) {
      const int sx = source_index(a, x, kx, a.x.w);
      if (sx < 0) continue;
      float from[V];
      load<V>(from, a.x, n, sy, sx, c);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = fmaf(from[j], a.w.ptr[(c + j) * taps + ky * a.kw + kx], v[j]);
    }
  }
  a.finish.template apply<V>(v, n, y, x, c);
}

// Weight gradient: blocks of 64 output channels by 64 weights of a channel, over the pixels of one part. The sums go
// to a.sums, [part][output channel][weight].
template <class Args>
__device__ void conv2d_weight_grad(const Args& a) {
  constexpr int WIDTH = 64, THREAD_COLS = WIDTH / COLS;
  SHARED(float, ds, [DEPTH][WIDTH + PAD]);
  SHARED(float, xs, [DEPTH][WIDTH + PAD]);
  const int first_weight = blockIdx.x * WIDTH, first_channel = blockIdx.y * WIDTH;
  const int weights = a.kh * a.kw * a.x.c, count = pixels(a.d);
  const int begin = blockIdx.z * a.part_pixels, end = min(begin + a.part_pixels, count);

  // A thread loads one channel of d_output and one weight's source, at every fourth pixel of the depth.
  const int lane = threadIdx.x % WIDTH, channel = first_channel + lane, weight = first_weight + lane;
  const int tap = weight / a.x.c, c = weight % a.x.c, ky = tap / a.kw, kx = tap % a.kw;
  const int row = threadIdx.x / THREAD_COLS * ROWS, col = threadIdx.x % THREAD_COLS * COLS;
  float acc[ROWS][COLS] = {};
  for (int start = begin; start < end; start += DEPTH) {
    for (int k = threadIdx.x / WIDTH; k < DEPTH; k += Args::THREADS / WIDTH) {
      const int p = start + k;
      float d = 0.f, v = 0.f;
      if (p < end) {
        if (channel < a.d.c) d = pixel(a.d, p)[channel];
        if (weight < weights) {
          v = source_value(a, p / a.d.w / a.d.h, p / a.d.w % a.d.h, p % a.d.w, ky, kx, c);
        }
      }
      ds[k][lane] = d;
      xs[k][lane] = v;
    }
    __syncthreads();
    multiply(acc, ds, xs, row, col);
    __syncthreads();
  }
  float* sums = a.sums + size_t(blockIdx.z) * a.d.c * weights;
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
#pragma unroll
    for (int j = 0; j < COLS; ++j) {
      const int o = first_channel + row + i, w = first_weight + col + j;
      if (o < a.d.c && w < weights) sums[size_t(o) * weights + w] = acc[i][j];
    }
  }
}

// Weight gradient of a depthwise convolution: a block has 32 channels, one tap and one part of the pixels.
template <class Args>
__device__ void conv2d_depthwise_weight_grad(const Args& a) {
  constexpr int LANES = 32, GROUPS = Args::THREADS / LANES;
  SHARED(float, partial, [GROUPS][LANES]);
  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES, c = blockIdx.x * LANES + lane;
  const int ky = blockIdx.y / a.kw, kx = blockIdx.y % a.kw;
  const int begin = blockIdx.z * a.part_pixels, end = min(begin + a.part_pixels, pixels(a.d));
  float sum = 0.f;
  for (int p = begin + group; p < end; p += GROUPS) {
    if (c >= a.d.c) break;
    const float v = source_value(a, p / a.d.w / a.d.h, p / a.d.w % a.d.h, p % a.d.w, ky, kx, c);
    sum = fmaf(pixel(a.d, p)[c], v, sum);
  }
  partial[group][lane] = sum;
  __syncthreads();
  if (group == 0 && c < a.d.c) {
    for (int g = 1; g < GROUPS; ++g) sum += partial[g][lane];
    a.sums[(size_t(blockIdx.z) * a.d.c + c) * (a.kh * a.kw) + blockIdx.y] = sum;
  }
}

// The parts' sums, in order; some are loaded while others are added.
template <class Args>
__device__ void conv2d_sum_parts(const Args& a) {
  constexpr int AHEAD = 16;
  const int i = blockIdx.x * Args::THREADS + threadIdx.x;
  if (i >= a.items) return;
  const float* from = a.sums + i;
  double sum = 0.0;
  int part = 0;
  for (; part + AHEAD <= a.parts; part += AHEAD) {
    float values[AHEAD];
#pragma unroll
    for (int j = 0; j < AHEAD; ++j) values[j] = from[size_t(part + j) * a.items];
#pragma unroll
    for (int j = 0; j < AHEAD; ++j) sum += values[j];
  }
  for (; part < a.parts; ++part) sum += from[size_t(part) * a.items];
  a.to[i] = float(sum);
}
