// Dense convolutions on tensor cores, in bf16 or tf32 with f32 sums, as the implicit matrix products of conv2d.cu.
// Forward and input gradient: results (pixels) by channels, K = (tap, source channel). Weight gradient: output channels
// by weights of a channel (tap, input channel), K = pixels. Other than for wgmma, any channels, offsets and pixel
// strides will do. Launched by src/ops/conv2d/mma.rs.

// Results of a block of the forward pass and the input gradient.
constexpr int BLOCK_PIXELS = 128;
// Weights of a block of the weight gradient.
constexpr int BLOCK_WEIGHTS = 128;

// Results that are sums over the same taps. In input gradients of strided convolutions a result has only taps of one
// remainder modulo the stride (`split`), by its row and its column: each such class is a layer of the grid. Elsewhere
// `split` is 1, and the only class has all results and all taps.
template <class Args>
struct ResultClass {
  const Args& a;
  // The first result, and how many; the same of taps.
  int y0, x0, rows, cols;
  int tap_y0, tap_x0, tap_rows, tap_cols;

  __device__ __forceinline__ explicit ResultClass(const Args& a) : a(a) {
    y0 = a.split == 1 ? 0 : blockIdx.z / a.split, x0 = a.split == 1 ? 0 : blockIdx.z % a.split;
    rows = every(a.rows, y0), cols = every(a.cols, x0);
    tap_y0 = (y0 + a.pad) % a.split, tap_x0 = (x0 + a.pad) % a.split;
    tap_rows = every(a.kh, tap_y0), tap_cols = every(a.kw, tap_x0);
  }

  // How many of `extent` there are from `first` on in steps of `split`.
  __device__ __forceinline__ int every(int extent, int first) const { return (extent - first + a.split - 1) / a.split; }
  __device__ __forceinline__ int count() const { return a.images * rows * cols; }
  __device__ __forceinline__ int taps() const { return tap_rows * tap_cols; }
  __device__ __forceinline__ int x(int p) const { return x0 + p % cols * a.split; }
  __device__ __forceinline__ int y(int p) const { return y0 + p / cols % rows * a.split; }
  __device__ __forceinline__ int image(int p) const { return p / cols / rows; }
  __device__ __forceinline__ int tap_x(int tap) const { return tap_x0 + tap % tap_cols * a.split; }
  __device__ __forceinline__ int tap_y(int tap) const { return tap_y0 + tap / tap_cols * a.split; }
};

// A of the forward pass and the input gradient: sources of the results from `first` on, by (tap, channel).
template <class E, class Args, class Own>
struct Sources {
  const Args& a;
  const ResultClass<Args>& of;
  int image[Own::COUNT], y[Own::COUNT], x[Own::COUNT];

  __device__ __forceinline__ Sources(const Args& a, const ResultClass<Args>& of, int first) : a(a), of(of) {
#pragma unroll
    for (int i = 0; i < Own::COUNT; ++i) {
      const int p = first + Own::row(i);
      image[i] = p < of.count() ? of.image(p) : -1, y[i] = of.y(p), x[i] = of.x(p);
    }
  }

  __device__ __forceinline__ auto base() const { return a.x.ptr; }

  __device__ __forceinline__ auto from(int k, int i, int e) const -> decltype(a.x.ptr) {
    const int at = k + Own::chunk() * E::CHUNK + e, tap = at / a.x.c, c = at % a.x.c;
    if (image[i] < 0 || tap >= of.taps()) return nullptr;
    const int sy = source_index(a, y[i], of.tap_y(tap), a.x.h), sx = source_index(a, x[i], of.tap_x(tap), a.x.w);
    return sy >= 0 && sx >= 0 ? pixel(a.x, image[i], sy, sx) + c : nullptr;
  }
};

// B of the forward pass: the weights of output channels from `first` on, which lie in K's order.
template <class E, class Args, class Own>
struct Weights {
  const Args& a;
  int first;

  __device__ __forceinline__ auto base() const { return a.w.ptr; }

  __device__ __forceinline__ auto from(int k, int i, int e) const -> decltype(a.w.ptr) {
    const int depth = a.kh * a.kw * a.x.c, at = k + Own::chunk() * E::CHUNK + e, channel = first + Own::row(i);
    return at < depth && channel < a.channels ? a.w.ptr + size_t(channel) * depth + at : nullptr;
  }
};

// B of the input gradient: the weights of input channels from `first` on, by the class's taps and output channels.
template <class E, class Args, class Own>
struct TransposedWeights {
  const Args& a;
  const ResultClass<Args>& of;
  int first;

  __device__ __forceinline__ auto base() const { return a.w.ptr; }

  __device__ __forceinline__ auto from(int k, int i, int e) const -> decltype(a.w.ptr) {
    const int at = k + Own::row(i), tap = at / a.x.c, o = at % a.x.c, channel = first + Own::chunk() * E::CHUNK + e;
    if (tap >= of.taps() || channel >= a.channels) return nullptr;
    return a.w.ptr + (size_t(o * a.kh + of.tap_y(tap)) * a.kw + of.tap_x(tap)) * a.channels + channel;
  }
};

// Steps along (tap, channel). Where a step lies in one tap, all taps of a few channels follow each other: they read
// nearly the same sources, which the first-level cache still holds.
template <class E>
struct TapDepth {
  int channels, taps, steps;

  __device__ __forceinline__ TapDepth(int channels, int taps)
      : channels(channels), taps(taps), steps((channels * taps + E::STEP - 1) / E::STEP) {}

  __device__ __forceinline__ int first(int step) const {
    return channels % E::STEP == 0 ? step % taps * channels + step / taps * E::STEP : step * E::STEP;
  }
};

// How a block of ROWS by COLS results is divided among its warps: parts of at most 64 by 32.
template <int ROWS, int COLS, int THREADS>
struct Warps {
  static constexpr int WIDTH = COLS < 32 ? COLS : 32, ACROSS = COLS / WIDTH;
  static constexpr int HEIGHT = ROWS / (THREADS / 32 / ACROSS);
  static constexpr int M_TILES = HEIGHT / 16, N_TILES = WIDTH / 8;

  __device__ __forceinline__ static int row() { return threadIdx.x / 32 / ACROSS * HEIGHT; }
  __device__ __forceinline__ static int col() { return threadIdx.x / 32 % ACROSS * WIDTH; }
};

// Applies the finish to a block's results, by vectors along a pixel's channels, which go through shared memory.
template <class Split, class Args>
__device__ __forceinline__ void finish_block(const Args& a, const ResultClass<Args>& of,
                                             const float (&c)[Split::M_TILES][Split::N_TILES][4], float* results,
                                             int first_pixel, int first_channel) {
  // 8 floats apart in the banks, four rows of pairs meet none.
  constexpr int V = Args::V, WIDTH = Args::WIDTH, PITCH = WIDTH + 8;
  const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
  for (int i = 0; i < Split::M_TILES; ++i) {
#pragma unroll
    for (int j = 0; j < Split::N_TILES; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = Split::row() + 16 * i + 8 * half + g, col = Split::col() + 8 * j + 2 * t;
        *reinterpret_cast<float2*>(results + row * PITCH + col) = make_float2(c[i][j][2 * half], c[i][j][2 * half + 1]);
      }
    }
  }
  __syncthreads();
  for (int item = threadIdx.x; item < BLOCK_PIXELS * (WIDTH / V); item += Args::THREADS) {
    const int row = item / (WIDTH / V), col = item % (WIDTH / V) * V;
    const int p = first_pixel + row, channel = first_channel + col;
    if (p >= of.count() || channel >= a.channels) continue;
    float v[V];
    read<V>(v, results + row * PITCH + col);
    a.finish.template apply<V>(v, of.image(p), of.y(p), of.x(p), channel);
  }
}

// Forward and input gradient. Blocks of the same pixels follow each other, then those of the pixels behind: they run
// at the same time and share sources in the second-level cache.
template <class Args>
__device__ void conv2d_mma(const Args& a) {
  using E = typename ProductElement<Args::BF16>::type;
  using Split = Warps<BLOCK_PIXELS, Args::WIDTH, Args::THREADS>;
  DYNAMIC_SHARED(unsigned char, shared);
  const int layers = (a.channels + Args::WIDTH - 1) / Args::WIDTH;
  const int first_pixel = blockIdx.x / layers * BLOCK_PIXELS, first_channel = blockIdx.x % layers * Args::WIDTH;
  const ResultClass<Args> of(a);
  if (first_pixel >= of.count()) return;

  using TileA = KMajor<E, BLOCK_PIXELS>;
  using SourceA = Sources<E, Args, Share<TileA, Args::THREADS>>;
  Loader<E, TileA, Args::FETCH_A, Args::THREADS, SourceA> left(SourceA(a, of, first_pixel));
  const TapDepth<E> depth(a.x.c, of.taps());
  float c[Split::M_TILES][Split::N_TILES][4] = {};
  if constexpr (Args::TRANSPOSED) {
    using TileB = MnMajor<E, Args::WIDTH>;
    using SourceB = TransposedWeights<E, Args, Share<TileB, Args::THREADS>>;
    Loader<E, TileB, Args::FETCH_B, Args::THREADS, SourceB> right(SourceB{a, of, first_channel});
    multiply<Args::STAGES, E>(c, left, right, depth, shared, Split::row(), Split::col());
  } else {
    using TileB = KMajor<E, Args::WIDTH>;
    using SourceB = Weights<E, Args, Share<TileB, Args::THREADS>>;
    Loader<E, TileB, Args::FETCH_B, Args::THREADS, SourceB> right(SourceB{a, first_channel});
    multiply<Args::STAGES, E>(c, left, right, depth, shared, Split::row(), Split::col());
  }
  finish_block<Split>(a, of, c, reinterpret_cast<float*>(shared), first_pixel, first_channel);
}

// A of the weight gradient: d_output at pixels, output channels from `first` on.
template <class E, class Args, class Own>
struct OutputGradients {
  const Args& a;
  int first, end;

  __device__ __forceinline__ auto base() const { return a.d.ptr; }

  __device__ __forceinline__ auto from(int k, int i, int e) const -> decltype(a.d.ptr) {
    const int p = k + Own::row(i), channel = first + Own::chunk() * E::CHUNK + e;
    return p < end && channel < a.d.c ? pixel(a.d, p) + channel : nullptr;
  }
};

// B of the weight gradient: what the weights from `first` on multiply at pixels.
template <class E, class Args, class Own>
struct Inputs {
  const Args& a;
  int first, end;

  __device__ __forceinline__ auto base() const { return a.x.ptr; }

  __device__ __forceinline__ auto from(int k, int i, int e) const -> decltype(a.x.ptr) {
    const int p = k + Own::row(i), weight = first + Own::chunk() * E::CHUNK + e;
    const int tap = weight / a.x.c, c = weight % a.x.c;
    if (p >= end || tap >= a.kh * a.kw) return nullptr;
    const int sy = source_index(a, p / a.d.w % a.d.h, tap / a.kw, a.x.h);
    const int sx = source_index(a, p % a.d.w, tap % a.kw, a.x.w);
    return sy >= 0 && sx >= 0 ? pixel(a.x, p / a.d.w / a.d.h, sy, sx) + c : nullptr;
  }
};

// Steps along pixels.
template <class E>
struct PixelDepth {
  int begin, steps;

  __device__ __forceinline__ PixelDepth(int begin, int end) : begin(begin), steps((end - begin + E::STEP - 1) / E::STEP) {}

  __device__ __forceinline__ int first(int step) const { return begin + step * E::STEP; }
};

// Weight gradient: blocks of HEIGHT output channels by weights, over the pixels of one part. The sums go to a.sums,
// [part][output channel][weight].
template <class Args>
__device__ void conv2d_weight_grad_mma(const Args& a) {
  using E = typename ProductElement<Args::BF16>::type;
  using Split = Warps<Args::HEIGHT, BLOCK_WEIGHTS, Args::THREADS>;
  DYNAMIC_SHARED(unsigned char, shared);
  const int first_weight = blockIdx.x * BLOCK_WEIGHTS, first_channel = blockIdx.y * Args::HEIGHT;
  const int begin = blockIdx.z * a.part_pixels, end = min(begin + a.part_pixels, pixels(a.d));

  using TileA = MnMajor<E, Args::HEIGHT>;
  using SourceA = OutputGradients<E, Args, Share<TileA, Args::THREADS>>;
  using TileB = MnMajor<E, BLOCK_WEIGHTS>;
  using SourceB = Inputs<E, Args, Share<TileB, Args::THREADS>>;
  Loader<E, TileA, Args::FETCH_A, Args::THREADS, SourceA> left(SourceA{a, first_channel, end});
  Loader<E, TileB, Args::FETCH_B, Args::THREADS, SourceB> right(SourceB{a, first_weight, end});
  float c[Split::M_TILES][Split::N_TILES][4] = {};
  multiply<Args::STAGES, E>(c, left, right, PixelDepth<E>(begin, end), shared, Split::row(), Split::col());

  const int g = lane_index() / 4, t = lane_index() % 4, weights = a.kh * a.kw * a.x.c;
  float* sums = a.sums + size_t(blockIdx.z) * a.d.c * weights;
#pragma unroll
  for (int i = 0; i < Split::M_TILES; ++i) {
#pragma unroll
    for (int j = 0; j < Split::N_TILES; ++j) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int o = first_channel + Split::row() + 16 * i + part / 2 * 8 + g;
        const int w = first_weight + Split::col() + 8 * j + 2 * t + part % 2;
        if (o < a.d.c && w < weights) sums[size_t(o) * weights + w] = c[i][j][part];
      }
    }
  }
}
