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
  __device__ __forceinline__ int x(int p) const { return x0 + p % cols * a.split; }
  __device__ __forceinline__ int y(int p) const { return y0 + p / cols % rows * a.split; }
  __device__ __forceinline__ int image(int p) const { return p / cols / rows; }

  // Row and column of the source of a result under the class's first tap. Those of tap (row, col) are `tap_step` times
  // as far from there.
  __device__ __forceinline__ int source(int result, int first_tap) const {
    return Args::TRANSPOSED ? (result + a.pad - first_tap) / a.split : result * a.stride - a.pad;
  }
  __device__ __forceinline__ int tap_step() const { return Args::TRANSPOSED ? -a.dilation : a.dilation; }
};

// K = (tap, channel), step by step. Where channels are whole steps, all taps of a few channels follow each other: they
// read nearly the same sources, which the first-level cache still holds. Otherwise steps straddle taps.
template <class E, class Args>
struct TapDepth {
  const Args& a;
  int tap_rows, tap_cols, steps;
  // The step's tap, and its first channel; where steps straddle taps the first element of K.
  int row = 0, col = 0, first = 0;

  // An element of K.
  struct Place {
    int row, col, channel, index;
    bool valid;
  };

  __device__ __forceinline__ TapDepth(const Args& a, int tap_rows, int tap_cols)
      : a(a), tap_rows(tap_rows), tap_cols(tap_cols), steps((tap_rows * tap_cols * a.x.c + E::STEP - 1) / E::STEP) {}

  __device__ __forceinline__ void advance() {
    if (a.x.c % E::STEP != 0) {
      first += E::STEP;
    } else if (++col == tap_cols) {
      col = 0;
      if (++row == tap_rows) row = 0, first += E::STEP;
    }
  }

  // Element `i` of the step.
  __device__ __forceinline__ Place at(int i) const {
    if (a.x.c % E::STEP == 0) return {row, col, first + i, (row * tap_cols + col) * a.x.c + first + i, true};
    const int tap = (first + i) / a.x.c;
    return {tap / tap_cols, tap % tap_cols, (first + i) % a.x.c, first + i, tap < tap_rows * tap_cols};
  }
};

// A of the forward pass and the input gradient: sources of the results from `first` on.
template <class E, class Args, class Own>
struct Sources {
  const Args& a;
  int tap_step;
  // Under the first tap, perhaps outside of the image: row, column, and number of the pixel. Rows of results that do
  // not exist are far outside.
  int y[Own::COUNT], x[Own::COUNT], number[Own::COUNT];

  __device__ __forceinline__ Sources(const Args& a, const ResultClass<Args>& of, int first)
      : a(a), tap_step(of.tap_step()) {
    constexpr int NOWHERE = -(1 << 30);
#pragma unroll
    for (int i = 0; i < Own::COUNT; ++i) {
      const int p = first + Own::row(i), row = of.source(of.y(p), of.tap_y0);
      y[i] = p < of.count() ? row : NOWHERE, x[i] = of.source(of.x(p), of.tap_x0);
      number[i] = (of.image(p) * a.x.h + row) * a.x.w + x[i];
    }
  }

  __device__ __forceinline__ auto find(const TapDepth<E, Args>& k, int i, int e) const {
    const auto place = k.at(Own::chunk() * E::CHUNK + e);
    const int dy = place.row * tap_step, dx = place.col * tap_step;
    const bool inside = unsigned(y[i] + dy) < unsigned(a.x.h) && unsigned(x[i] + dx) < unsigned(a.x.w);
    const auto at = a.x.ptr + place.channel + ptrdiff_t(number[i] + dy * a.x.w + dx) * a.x.stride;
    return Found{at, place.valid && inside};
  }
};

// B of the forward pass: the weights of output channels from `first` on, which lie in K's order.
template <class E, class Args, class Own>
struct Weights {
  const Args& a;
  int first;

  __device__ __forceinline__ auto find(const TapDepth<E, Args>& k, int i, int e) const {
    const auto place = k.at(Own::chunk() * E::CHUNK + e);
    const int channel = first + Own::row(i);
    const auto row = a.w.ptr + size_t(channel) * (a.kh * a.kw * a.x.c);
    return Found{row + place.index, place.valid && channel < a.channels};
  }
};

// B of the input gradient: the weights of input channels from `first` on, by the class's taps and output channels.
template <class E, class Args, class Own>
struct TransposedWeights {
  const Args& a;
  const ResultClass<Args>& of;
  int first;

  __device__ __forceinline__ auto find(const TapDepth<E, Args>& k, int i, int e) const {
    const auto place = k.at(Own::row(i));
    const int ky = of.tap_y0 + place.row * a.split, kx = of.tap_x0 + place.col * a.split;
    const int channel = first + Own::chunk() * E::CHUNK + e;
    const auto tap = a.w.ptr + (place.channel * (a.kh * a.kw) + ky * a.kw + kx) * a.channels;
    return Found{tap + channel, place.valid && channel < a.channels};
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
  Loader<E, TileA, Args::ASYNC_A, Args::RUN_A, Args::THREADS, SourceA> left(SourceA(a, of, first_pixel));
  const TapDepth<E, Args> depth(a, of.tap_rows, of.tap_cols);
  float c[Split::M_TILES][Split::N_TILES][4] = {};
  if constexpr (Args::TRANSPOSED) {
    using TileB = MnMajor<E, Args::WIDTH>;
    using SourceB = TransposedWeights<E, Args, Share<TileB, Args::THREADS>>;
    Loader<E, TileB, Args::ASYNC_B, Args::RUN_B, Args::THREADS, SourceB> right(SourceB{a, of, first_channel});
    multiply<Args::STAGES, E>(c, left, right, depth, shared, Split::row(), Split::col());
  } else {
    using TileB = KMajor<E, Args::WIDTH>;
    using SourceB = Weights<E, Args, Share<TileB, Args::THREADS>>;
    Loader<E, TileB, Args::ASYNC_B, Args::RUN_B, Args::THREADS, SourceB> right(SourceB{a, first_channel});
    multiply<Args::STAGES, E>(c, left, right, depth, shared, Split::row(), Split::col());
  }
  finish_block<Split>(a, of, c, reinterpret_cast<float*>(shared), first_pixel, first_channel);
}

// K = pixels, step by step.
template <class E>
struct PixelDepth {
  int first, end, steps;

  __device__ __forceinline__ PixelDepth(int first, int end)
      : first(first), end(end), steps((end - first + E::STEP - 1) / E::STEP) {}

  __device__ __forceinline__ void advance() { first += E::STEP; }
};

// A of the weight gradient: d_output of the output channels from `first` on.
template <class E, class Args, class Own>
struct OutputGradients {
  const Args& a;
  int first;

  __device__ __forceinline__ auto find(const PixelDepth<E>& k, int i, int e) const {
    const int p = k.first + Own::row(i), channel = first + Own::chunk() * E::CHUNK + e;
    return Found{pixel(a.d, p) + channel, p < k.end && channel < a.d.c};
  }
};

// B of the weight gradient: the inputs that weights from `first` on multiply.
template <class E, class Args, class Own>
struct Inputs {
  const Args& a;
  int first;

  __device__ __forceinline__ auto find(const PixelDepth<E>& k, int i, int e) const {
    const int weight = first + Own::chunk() * E::CHUNK + e, tap = weight / a.x.c;
    const unsigned p = k.first + Own::row(i), row = p / unsigned(a.d.w);
    const int image = row / unsigned(a.d.h);
    const int y = row % unsigned(a.d.h) * a.stride + (tap / a.kw * a.dilation - a.pad);
    const int x = p % unsigned(a.d.w) * a.stride + (tap % a.kw * a.dilation - a.pad);
    const bool inside = unsigned(y) < unsigned(a.x.h) && unsigned(x) < unsigned(a.x.w);
    const auto at = a.x.ptr + weight % a.x.c + ptrdiff_t((image * a.x.h + y) * a.x.w + x) * a.x.stride;
    return Found{at, inside && int(p) < k.end && tap < a.kh * a.kw};
  }
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
  Loader<E, TileA, Args::ASYNC_A, Args::RUN_A, Args::THREADS, SourceA> left(SourceA{a, first_channel});
  Loader<E, TileB, Args::ASYNC_B, Args::RUN_B, Args::THREADS, SourceB> right(SourceB{a, first_weight});
  float c[Split::M_TILES][Split::N_TILES][4] = {};
  multiply<Args::STAGES, E>(c, left, right, PixelDepth<E>(begin, end), shared, Split::row(), Split::col());

  const int g = lane_index() / 4, t = lane_index() % 4, weights = a.kh * a.kw * a.x.c;
  float* sums = a.sums + size_t(blockIdx.z) * a.d.c * weights;
#pragma unroll
  for (int i = 0; i < Split::M_TILES; ++i) {
#pragma unroll
    for (int j = 0; j < Split::N_TILES; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int o = first_channel + Split::row() + 16 * i + 8 * half + g;
        const int w = first_weight + Split::col() + 8 * j + 2 * t;
        float* to = sums + size_t(o) * weights + w;
        if (o >= a.d.c || w >= weights) continue;
        if constexpr (Args::PAIRS) {
          *reinterpret_cast<float2*>(to) = make_float2(c[i][j][2 * half], c[i][j][2 * half + 1]);
        } else {
          to[0] = c[i][j][2 * half];
          if (w + 1 < weights) to[1] = c[i][j][2 * half + 1];
        }
      }
    }
  }
}
