// Convolutions of stride 1 in bf16 with f32 sums on Hopper, as the implicit matrix products of conv2d.cu, by products of
// warpgroups on operands that the copy engine brings to shared memory. Launched by src/ops/conv2d/wgmma.rs.
//
// A patch of pixels lies in shared memory as planes of 8 channels, 16 bytes a pixel, and comes once for all taps,
// with the pixels around it that they reach: 8 pixels beside each other are what products call a core, and cores may
// begin anywhere, so the operand of a tap is the patch from another pixel on. What is outside of the image, or behind the
// last channel, the copy engine fills with zeros.

// Channels of a plane, and bytes of a pixel in it.
constexpr int PLANE = 8, PIXEL_BYTES = 16;
// Pixels of a patch beside each other.
constexpr int PATCH_WIDTH = 16;
// Steps of K of a product.
constexpr int PRODUCT_DEPTH = 16;
constexpr int WARPGROUP = 128;
constexpr int COPY_ALIGN = 128;

// The thread's warpgroup, in a form that tells the compiler that a warp has one: addresses then come from it without
// going through the lanes' registers.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(0xffffffffu, int(threadIdx.x) / WARPGROUP, 0); }

__device__ __forceinline__ constexpr int aligned_to_copies(int bytes) {
  return (bytes + COPY_ALIGN - 1) / COPY_ALIGN * COPY_ALIGN;
}

// A patch with the pixels around it that kh by kw taps reach.
struct Patch {
  int width, height;

  __device__ __forceinline__ Patch(int rows, int kh, int kw) : width(PATCH_WIDTH + kw - 1), height(rows + kh - 1) {}
  __device__ __forceinline__ int row_bytes() const { return width * PIXEL_BYTES; }
  __device__ __forceinline__ int plane_bytes() const { return height * row_bytes(); }
};

// Which patch, of how many rows of results, has a number.
struct PatchPlace {
  int image, y, x;

  template <class Args>
  __device__ __forceinline__ PatchPlace(const Args& a, int number, int rows)
      : image(number / (a.patches_x * a.patches_y)),
        y(number / a.patches_x % a.patches_y * rows),
        x(number % a.patches_x * PATCH_WIDTH) {}
};

// Forward pass and input gradient: two warpgroups multiply, each has 8 columns of the patch and TILES times 8 rows. One more
// warp starts copies. A stage of the source is the patch in DEPTH channels; a stage of weights is a row of taps in as many.
template <class Args>
struct Correlation {
  static constexpr int ROWS = 8 * Args::TILES, RESULTS = ROWS * PATCH_WIDTH, WARPS = 2 * WARPGROUP / 32;
  static constexpr int WIDTH = Args::WIDTH, DEPTH = Args::DEPTH, TAP_BYTES = WIDTH * DEPTH * 2;

  const Args& a;
  const PatchPlace place;
  const Patch patch;
  const int first_channel, steps;
  unsigned char* const sources;
  unsigned char* const weights;
  const Ring<Args::SOURCE_STAGES> source_ring;
  const Ring<Args::WEIGHT_STAGES> weight_ring;

  __device__ __forceinline__ Correlation(const Args& a, unsigned char* shared, uint64_t* barriers, int layers)
      : a(a),
        place(a, blockIdx.x / layers, ROWS),
        patch(ROWS, a.kh, a.kw),
        first_channel(blockIdx.x % layers * WIDTH),
        steps((a.depth + DEPTH - 1) / DEPTH),
        sources(shared),
        weights(shared + Args::SOURCE_STAGES * source_stage_bytes()),
        source_ring{barriers},
        weight_ring{barriers + 2 * Args::SOURCE_STAGES} {}

  __device__ __forceinline__ int source_bytes() const { return patch.plane_bytes() * (DEPTH / PLANE); }
  __device__ __forceinline__ int source_stage_bytes() const { return aligned_to_copies(source_bytes()); }
  __device__ __forceinline__ unsigned char* source_stage(int step) const {
    return sources + step % Args::SOURCE_STAGES * source_stage_bytes();
  }
  __device__ __forceinline__ unsigned char* weight_stage(int step) const {
    return weights + step % Args::WEIGHT_STAGES * (a.kw * TAP_BYTES);
  }

  // What one thread does: all copies.
  __device__ __forceinline__ void copy() const {
    // Results of an input gradient have their last tap where the source comes first.
    const int top = Args::TRANSPOSED ? a.kh - 1 - a.pad : a.pad, left = Args::TRANSPOSED ? a.kw - 1 - a.pad : a.pad;
    for (int step = 0; step < steps; ++step) {
      uint64_t* full = source_ring.fill(step, source_bytes());
      copy_box(source_stage(step), a.source, full, 0, place.x - left, place.y - top, step * (DEPTH / PLANE), place.image);
      for (int ky = 0; ky < a.kh; ++ky) {
        const int number = step * a.kh + ky, row = (Args::TRANSPOSED ? a.kh - 1 - ky : ky) * a.kw;
        full = weight_ring.fill(number, a.kw * TAP_BYTES);
        if (Args::TRANSPOSED) {
          copy_box(weight_stage(number), a.weights, full, 0, step * DEPTH, first_channel / PLANE, row, 0);
        } else {
          copy_box(weight_stage(number), a.weights, full, 0, first_channel, step * (DEPTH / PLANE), row, 0);
        }
      }
    }
  }

  // What a warpgroup does. A row of taps is in flight while the next one is started.
  __device__ __forceinline__ void multiply(float (&d)[Args::TILES][WIDTH / 2]) const {
    const int column = warpgroup() * 8;
#pragma unroll
    for (int t = 0; t < Args::TILES; ++t) keep(d[t]);
    for (int step = 0; step < steps; ++step) {
      source_ring.wait(step);
      for (int ky = 0; ky < a.kh; ++ky) {
        const int number = step * a.kh + ky;
        weight_ring.wait(number);
        wgmma_begin();
#pragma unroll
        for (int kx = 0; kx < a.kw; ++kx) multiply_tap(d, source_stage(step), weight_stage(number), ky, column, kx);
        wgmma_commit();
        wgmma_wait<1>();
        if (number > 0 && threadIdx.x % 32 == 0) {
          weight_ring.release(number - 1);
          if (ky == 0) source_ring.release(step - 1);
        }
      }
    }
    wgmma_wait<0>();
#pragma unroll
    for (int t = 0; t < Args::TILES; ++t) keep(d[t]);
  }

  __device__ __forceinline__ void multiply_tap(float (&d)[Args::TILES][WIDTH / 2], const unsigned char* source,
                                               const unsigned char* weights, int ky, int column, int kx) const {
    const unsigned char* tap = weights + (Args::TRANSPOSED ? a.kw - 1 - kx : kx) * TAP_BYTES;
#pragma unroll
    for (int k = 0; k < DEPTH / PRODUCT_DEPTH; ++k) {
      // Weights lie as [plane][channel of the result][channel of the source], or with the last two exchanged.
      const uint64_t b = Args::TRANSPOSED
                             ? operand(tap + k * PRODUCT_DEPTH * PIXEL_BYTES, 8 * PIXEL_BYTES, DEPTH * PIXEL_BYTES)
                             : operand(tap + 2 * k * WIDTH * PIXEL_BYTES, WIDTH * PIXEL_BYTES, 8 * PIXEL_BYTES);
      const unsigned char* from = source + 2 * k * patch.plane_bytes() + ky * patch.row_bytes() + (column + kx) * PIXEL_BYTES;
#pragma unroll
      for (int t = 0; t < Args::TILES; ++t) {
        const uint64_t pixels = operand(from + 8 * t * patch.row_bytes(), patch.plane_bytes(), patch.row_bytes());
        wgmma<WIDTH, false, Args::TRANSPOSED != 0>(d[t], pixels, b);
      }
    }
  }

  // Result `i` of the block: warpgroup, tile, row, column, as its rows lie in shared memory.
  __device__ __forceinline__ int y(int i) const { return place.y + i / 64 % Args::TILES * 8 + i % 64 / 8; }
  __device__ __forceinline__ int x(int i) const { return place.x + i / (64 * Args::TILES) * 8 + i % 8; }
};

// Brings a warpgroup's results, 64 rows by WIDTH, to shared memory. 8 floats apart in the banks, four rows of pairs
// meet none.
template <int WIDTH, int COUNT>
__device__ __forceinline__ void put_results(float* results, const float (&d)[COUNT]) {
  const int warp = threadIdx.x % WARPGROUP / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < COUNT; i += 2) {
    const int row = 16 * warp + i / 2 % 2 * 8 + g, column = i / 4 * 8 + 2 * t;
    *reinterpret_cast<float2*>(results + row * (WIDTH + 8) + column) = make_float2(d[i], d[i + 1]);
  }
}

template <class Args>
__device__ void conv2d_wgmma(const Args& a) {
  using Own = Correlation<Args>;
  constexpr int WIDTH = Args::WIDTH, V = Args::V;
  DYNAMIC_SHARED(unsigned char, shared);
  SHARED(uint64_t, barriers, [2 * (Args::SOURCE_STAGES + Args::WEIGHT_STAGES)]);
  const Own own(a, shared, barriers, (a.channels + WIDTH - 1) / WIDTH);
  if (threadIdx.x == 0) {
    own.source_ring.init(Own::WARPS), own.weight_ring.init(Own::WARPS);
    barrier_init_done();
  }
  __syncthreads();
  float d[Args::TILES][WIDTH / 2] = {};
  const bool multiplies = threadIdx.x < 2 * WARPGROUP;
  if (multiplies) {
    own.multiply(d);
  } else {
    if (threadIdx.x == 2 * WARPGROUP) own.copy();
    __syncwarp();
  }
  // Stages become the place of results.
  __syncthreads();
  float* results = reinterpret_cast<float*>(shared);
  if (multiplies) {
#pragma unroll
    for (int t = 0; t < Args::TILES; ++t) {
      const int first = (threadIdx.x / WARPGROUP * Args::TILES + t) * 64;
      put_results<WIDTH>(results + first * (WIDTH + 8), d[t]);
    }
  }
  __syncthreads();
  for (int item = threadIdx.x; item < Own::RESULTS * (WIDTH / V); item += Args::THREADS) {
    const int i = item / (WIDTH / V), column = item % (WIDTH / V) * V;
    const int y = own.y(i), x = own.x(i), channel = own.first_channel + column;
    if (y >= a.rows || x >= a.cols || channel >= a.channels) continue;
    float v[V];
    read<V>(v, results + i * (WIDTH + 8) + column);
    a.finish.template apply<V>(v, own.place.image, y, x, channel);
  }
}

// Weight gradient: input channels by output channels, K = pixels. Each row of taps has a warpgroup, which has sums for
// its TAPS taps; one more warp starts copies. A stage is a patch of d_output, and of the input with what taps reach.
template <class Args>
struct WeightGradient {
  static constexpr int ROWS = 8, CHANNELS = 64, WIDTH = Args::WIDTH, STAGES = Args::STAGES;
  static constexpr int D_PLANE_BYTES = ROWS * PATCH_WIDTH * PIXEL_BYTES, D_BYTES = D_PLANE_BYTES * (WIDTH / PLANE);

  const Args& a;
  const Patch patch;
  const int first_input, first_output, begin, end;
  unsigned char* const shared;
  const Ring<STAGES> ring;

  __device__ __forceinline__ WeightGradient(const Args& a, unsigned char* shared, uint64_t* barriers)
      : a(a),
        patch(ROWS, a.kh, Args::TAPS),
        first_input(blockIdx.x * CHANNELS),
        first_output(blockIdx.y * WIDTH),
        begin(blockIdx.z * a.part_patches),
        end(min(begin + a.part_patches, a.patches)),
        shared(shared),
        ring{barriers} {}

  __device__ __forceinline__ int x_bytes() const { return patch.plane_bytes() * (CHANNELS / PLANE); }
  // First d_output, whose size is a multiple of what copies are aligned to.
  __device__ __forceinline__ unsigned char* stage(int step) const {
    return shared + step % STAGES * (D_BYTES + aligned_to_copies(x_bytes()));
  }

  __device__ __forceinline__ void copy() const {
    for (int step = 0; step < end - begin; ++step) {
      const PatchPlace place(a, begin + step, ROWS);
      uint64_t* full = ring.fill(step, D_BYTES + x_bytes());
      copy_box(stage(step), a.gradient, full, 0, place.x, place.y, first_output / PLANE, place.image);
      copy_box(stage(step) + D_BYTES, a.input, full, 0, place.x - a.pad, place.y - a.pad, first_input / PLANE, place.image);
    }
  }

  __device__ __forceinline__ void multiply(float (&sums)[Args::TAPS][WIDTH / 2]) const {
    const int ky = warpgroup();
#pragma unroll
    for (int kx = 0; kx < Args::TAPS; ++kx) keep(sums[kx]);
    for (int step = 0; step < end - begin; ++step) {
      ring.wait(step);
      const unsigned char *d = stage(step), *x = d + D_BYTES + ky * patch.row_bytes();
      wgmma_begin();
#pragma unroll
      for (int row = 0; row < ROWS; ++row) {
        const uint64_t b = operand(d + row * PATCH_WIDTH * PIXEL_BYTES, 8 * PIXEL_BYTES, D_PLANE_BYTES);
#pragma unroll
        for (int kx = 0; kx < Args::TAPS; ++kx) {
          const unsigned char* from = x + row * patch.row_bytes() + kx * PIXEL_BYTES;
          wgmma<WIDTH, true, true>(sums[kx], operand(from, 8 * PIXEL_BYTES, patch.plane_bytes()), b);
        }
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (step > 0 && threadIdx.x % 32 == 0) ring.release(step - 1);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int kx = 0; kx < Args::TAPS; ++kx) keep(sums[kx]);
  }

  // To a.sums, [part][output channel][tap][input channel].
  __device__ __forceinline__ void put(const float (&sums)[Args::TAPS][WIDTH / 2]) const {
    const int ky = threadIdx.x / WARPGROUP, warp = threadIdx.x % WARPGROUP / 32;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, weights = a.kh * Args::TAPS * a.in_ch;
    float* to = a.sums + size_t(blockIdx.z) * a.out_ch * weights;
#pragma unroll
    for (int kx = 0; kx < Args::TAPS; ++kx) {
#pragma unroll
      for (int i = 0; i < WIDTH / 2; ++i) {
        const int in = first_input + 16 * warp + i / 2 % 2 * 8 + g, out = first_output + i / 4 * 8 + 2 * t + i % 2;
        if (in < a.in_ch && out < a.out_ch) {
          to[size_t(out) * weights + (ky * Args::TAPS + kx) * a.in_ch + in] = sums[kx][i];
        }
      }
    }
  }
};

template <class Args>
__device__ void conv2d_weight_grad_wgmma(const Args& a) {
  using Own = WeightGradient<Args>;
  DYNAMIC_SHARED(unsigned char, shared);
  SHARED(uint64_t, barriers, [2 * Args::STAGES]);
  const Own own(a, shared, barriers);
  const int multiplying = a.kh * WARPGROUP;
  if (threadIdx.x == 0) {
    own.ring.init(multiplying / 32);
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x < multiplying) {
    float sums[Args::TAPS][Args::WIDTH / 2] = {};
    own.multiply(sums);
    own.put(sums);
  } else if (threadIdx.x == multiplying) {
    own.copy();
  }
}
