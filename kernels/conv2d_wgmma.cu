// Convolutions of stride 1 and 2 in bf16 with f32 sums on Hopper, as the implicit matrix products of conv2d.cu, by products of
// warpgroups on operands that the copy engine brings to shared memory. Launched by src/ops/conv2d/wgmma.rs.
//
// A patch of pixels lies in shared memory as planes of 8 channels, 16 bytes a pixel, and comes once for all taps,
// with the pixels around it that they reach: 8 pixels beside each other are a core matrix, and core matrices may
// begin at any pixel, so the operand of a tap is the patch from another pixel on. What is outside of the image, or behind
// the last channel, the copy engine fills with zeros. Of a convolution of stride S a tap reads pixels of one remainder
// modulo S in each direction: there is a patch for each remainder, of every S-th pixel.

// Channels of a plane, and bytes of a pixel in it.
constexpr int PLANE = 8, PIXEL_BYTES = 16;
// Pixels of a patch beside each other.
constexpr int PATCH_WIDTH = 16;
// Steps of K of a product.
constexpr int PRODUCT_DEPTH = 16;
constexpr int WARPGROUP = 128;
constexpr int COPY_ALIGN = 128;
// Eight rows of 128 bytes, in which chunks are permuted.
constexpr int SWIZZLE_ALIGN = 1024;

// The thread's warpgroup, in a form that tells the compiler that a warp has one: addresses then come from it without
// going through the lanes' registers.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(0xffffffffu, int(threadIdx.x) / WARPGROUP, 0); }

__device__ __forceinline__ constexpr int aligned_to_copies(int bytes) {
  return (bytes + COPY_ALIGN - 1) / COPY_ALIGN * COPY_ALIGN;
}

// Patches of a source with the pixels around that taps reach, for `rows` by PATCH_WIDTH results of a convolution of
// stride S. `top` and `left` patch pixels before the first result's, taps read from `pad` source pixels before it on.
template <int S>
struct Patches {
  static constexpr int COUNT = S * S;
  int top, left, pad_y, pad_x, width, height;

  __device__ __forceinline__ Patches(int rows, int kh, int kw, int top, int left, int pad_y, int pad_x)
      : top(top), left(left), pad_y(pad_y), pad_x(pad_x) {
    width = PATCH_WIDTH + along(kw - 1, left, pad_x) / S, height = rows + along(kh - 1, top, pad_y) / S;
  }

  __device__ __forceinline__ int row_bytes() const { return width * PIXEL_BYTES; }
  __device__ __forceinline__ int plane_bytes() const { return height * row_bytes(); }
  // Of all patches in so many planes: what is copied, and where they lie.
  __device__ __forceinline__ int copied_bytes(int planes) const { return COUNT * planes * plane_bytes(); }
  __device__ __forceinline__ int patch_bytes(int planes) const { return aligned_to_copies(planes * plane_bytes()); }
  __device__ __forceinline__ int stage_bytes(int planes) const { return COUNT * patch_bytes(planes); }

  // Where the operand of tap (ky, kx) begins in a stage.
  __device__ __forceinline__ int tap_bytes(int ky, int kx, int planes) const {
    const int y = along(ky, top, pad_y), x = along(kx, left, pad_x);
    return (y % S * S + x % S) * patch_bytes(planes) + y / S * row_bytes() + x / S * PIXEL_BYTES;
  }

  // Brings the patches of the results from (y, x) on.
  __device__ __forceinline__ void copy(unsigned char* stage, const TensorMap& source, uint64_t* full, int y, int x,
                                       int first_plane, int planes, int image) const {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const int to_x = (x - left) * S + i % S, to_y = (y - top) * S + i / S;
      copy_box(stage + i * patch_bytes(planes), source, full, 0, to_x, to_y, first_plane, image);
    }
  }

 private:
  // How far tap k reads from the first patch pixel, in source pixels.
  __device__ __forceinline__ static int along(int k, int before, int pad) { return k - pad + before * S; }
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
// warp starts copies. A stage of the source is the patch in DEPTH channels; a stage of weights is a row of taps in as
// many. Products have 64 rows: where there are as many channels of the result, channels are rows and a group's pixels
// columns, which reads less of shared memory than the other way round; fewer channels are columns, and pixels rows.
template <class Args>
struct Correlation {
  static constexpr int TILES = Args::TILES, WIDTH = Args::WIDTH, DEPTH = Args::DEPTH, PLANES = DEPTH / PLANE;
  static constexpr int ROWS = 8 * TILES, RESULTS = ROWS * PATCH_WIDTH, WARPS = 2 * WARPGROUP / 32;
  static constexpr bool TRANSPOSED = Args::TRANSPOSED != 0, CHANNEL_ROWS = WIDTH >= 64;
  // Products side by side, and sums of a thread in each.
  static constexpr int PARTS = CHANNEL_ROWS ? WIDTH / 64 : TILES;
  static constexpr int SUMS = CHANNEL_ROWS ? 32 * TILES : WIDTH / 2;
  // Weights of a tap lie in rows: of the source's channels, a row for each of the result's, or, transposed, of up to 64
  // of the result's, a row for each of the source's, and so for each 64.
  static constexpr int ROW = TRANSPOSED ? (WIDTH < 64 ? WIDTH : 64) : DEPTH, ROW_BYTES = 2 * ROW;
  static constexpr int TAP_BYTES = (TRANSPOSED ? DEPTH : WIDTH) * ROW_BYTES;
  static constexpr int WEIGHT_COPIES = TRANSPOSED ? WIDTH / ROW : 1;
  // Floats from result to result in shared memory: neither pairs of channels of four results nor channels of pairs of
  // results meet in a bank.
  static constexpr int PITCH = WIDTH + (CHANNEL_ROWS ? 4 : 8);

  const Args& a;
  const PatchPlace place;
  const Patches<Args::STRIDE> patches;
  const int first_channel, steps;
  unsigned char* const weights;
  unsigned char* const sources;
  const Ring<Args::SOURCE_STAGES> source_ring;
  const Ring<Args::WEIGHT_STAGES> weight_ring;

  __device__ __forceinline__ Correlation(const Args& a, unsigned char* shared, uint64_t* barriers, int layers)
      : a(a),
        place(a, blockIdx.x / layers, ROWS),
        patches(ROWS, a.kh, a.kw, a.top, a.left, TRANSPOSED ? a.top : a.pad, TRANSPOSED ? a.left : a.pad),
        first_channel(blockIdx.x % layers * WIDTH),
        steps((a.depth + DEPTH - 1) / DEPTH),
        weights(align_shared<SWIZZLE_ALIGN>(shared)),
        sources(weights + Args::WEIGHT_STAGES * weight_bytes()),
        source_ring{barriers},
        weight_ring{barriers + 2 * Args::SOURCE_STAGES} {}

  __device__ __forceinline__ int weight_bytes() const { return WEIGHT_COPIES * a.kw * TAP_BYTES; }
  __device__ __forceinline__ unsigned char* weight_stage(int step) const {
    return weights + step % Args::WEIGHT_STAGES * weight_bytes();
  }
  __device__ __forceinline__ unsigned char* source_stage(int step) const {
    return sources + step % Args::SOURCE_STAGES * patches.stage_bytes(PLANES);
  }

  // What one thread does: all copies. Results of an input gradient have their last tap where the source comes first.
  __device__ __forceinline__ void copy() const {
    for (int step = 0; step < steps; ++step) {
      uint64_t* full = source_ring.fill(step, patches.copied_bytes(PLANES));
      patches.copy(source_stage(step), a.source, full, place.y, place.x, step * PLANES, PLANES, place.image);
      for (int ky = 0; ky < a.kh; ++ky) {
        const int number = step * a.kh + ky, row = (TRANSPOSED ? a.kh - 1 - ky : ky) * a.tap_rows;
        full = weight_ring.fill(number, weight_bytes());
        for (int i = 0; i < WEIGHT_COPIES; ++i) {
          const int in = TRANSPOSED ? first_channel + i * ROW : step * DEPTH, out = TRANSPOSED ? step * DEPTH : first_channel;
          copy_box(weight_stage(number) + i * a.kw * TAP_BYTES, a.weights, full, in, out, a.first_tap + row, 0, 0);
        }
      }
    }
    source_ring.finish(steps), weight_ring.finish(steps * a.kh);
  }

  // What a warpgroup does. A row of taps is in flight while the next one is started.
  __device__ __forceinline__ void multiply(float (&d)[PARTS][SUMS]) const {
    const int column = warpgroup() * 8;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) fence_registers(d[part]);
    for (int step = 0; step < steps; ++step) {
      source_ring.wait(step);
      for (int ky = 0; ky < a.kh; ++ky) {
        const int number = step * a.kh + ky;
        weight_ring.wait(number);
        wgmma_fence();
        const unsigned char* pixels = source_stage(step) + column * PIXEL_BYTES;
#pragma unroll
        for (int kx = 0; kx < a.kw; ++kx) {
          const int tap = TRANSPOSED ? a.kw - 1 - kx : kx;
          multiply_tap(d, pixels + patches.tap_bytes(ky, kx, PLANES), weight_stage(number) + tap * TAP_BYTES);
        }
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
    for (int part = 0; part < PARTS; ++part) fence_registers(d[part]);
  }

  __device__ __forceinline__ void multiply_tap(float (&d)[PARTS][SUMS], const unsigned char* pixels,
                                               const unsigned char* tap) const {
#pragma unroll
    for (int k = 0; k < DEPTH / PRODUCT_DEPTH; ++k) {
      const unsigned char* from = pixels + 2 * k * patches.plane_bytes();
#pragma unroll
      for (int part = 0; part < PARTS; ++part) {
        if constexpr (CHANNEL_ROWS) {
          wgmma<64 * TILES, TRANSPOSED, false>(d[part], weight_operand(tap, part, k), pixel_operand(from));
        } else {
          const uint64_t tile = pixel_operand(from + 8 * part * patches.row_bytes());
          wgmma<WIDTH, false, TRANSPOSED>(d[part], tile, weight_operand(tap, 0, k));
        }
      }
    }
  }

  __device__ __forceinline__ uint64_t pixel_operand(const unsigned char* first) const {
    return matrix_descriptor(first, patches.plane_bytes(), patches.row_bytes());
  }

  // 16 channels of the source from 16 k on, by the result's channels, all or the 64 from 64 part on.
  __device__ __forceinline__ uint64_t weight_operand(const unsigned char* tap, int part, int k) const {
    const unsigned char* first = TRANSPOSED ? tap + part * (a.kw * TAP_BYTES) + k * PRODUCT_DEPTH * ROW_BYTES
                                            : tap + part * 64 * ROW_BYTES + k * PRODUCT_DEPTH * 2;
    if constexpr (ROW_BYTES == PIXEL_BYTES) {
      return matrix_descriptor(first, 8 * PIXEL_BYTES, 8 * PIXEL_BYTES);
    } else {
      return swizzled_descriptor<ROW_BYTES>(first, 8 * ROW_BYTES);
    }
  }

  // Brings a warpgroup's results to shared memory, [result][channel].
  __device__ __forceinline__ void put(float* results, const float (&d)[PARTS][SUMS]) const {
    results += threadIdx.x / WARPGROUP * (RESULTS / 2) * PITCH;
    const int warp = threadIdx.x % WARPGROUP / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
#pragma unroll
      for (int i = 0; i < SUMS; i += 2) {
        const int row = 64 * part + 16 * warp + i / 2 % 2 * 8 + g, column = i / 4 * 8 + 2 * t;
        if constexpr (CHANNEL_ROWS) {
          results[column * PITCH + row] = d[part][i], results[(column + 1) * PITCH + row] = d[part][i + 1];
        } else {
          *reinterpret_cast<float2*>(results + row * PITCH + column) = make_float2(d[part][i], d[part][i + 1]);
        }
      }
    }
  }

  // Result `i` of the block: warpgroup, row, column.
  __device__ __forceinline__ int y(int i) const { return place.y + i / 8 % ROWS; }
  __device__ __forceinline__ int x(int i) const { return place.x + i / (RESULTS / 2) * 8 + i % 8; }
};

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
  float d[Own::PARTS][Own::SUMS] = {};
  const bool multiplies = threadIdx.x < 2 * WARPGROUP;
  if (multiplies) {
    own.multiply(d);
  } else {
    if (threadIdx.x == 2 * WARPGROUP) own.copy();
    __syncwarp();
  }
  // Stages become the place of results: all have been filled, and all products that read them are done.
  __syncthreads();
  float* results = reinterpret_cast<float*>(shared);
  if (multiplies) own.put(results, d);
  __syncthreads();
  for (int item = threadIdx.x; item < Own::RESULTS * (WIDTH / V); item += Args::THREADS) {
    const int i = item / (WIDTH / V), column = item % (WIDTH / V) * V;
    const int y = own.y(i), x = own.x(i), channel = own.first_channel + column;
    if (y >= a.rows || x >= a.cols || channel >= a.channels) continue;
    float v[V];
    read<V>(v, results + i * Own::PITCH + column);
    // Results of one remainder modulo `split`, as many as rows and columns.
    a.finish.template apply<V>(v, own.place.image, y * a.split + a.split_y, x * a.split + a.split_x, channel);
  }
}

// Weight gradient: input channels by output channels, K = pixels. Each row of taps has a warpgroup, which has sums for
// its TAPS taps; one more warp starts copies. A stage is a patch of d_output, and of the input with what taps reach.
template <class Args>
struct WeightGradient {
  static constexpr int ROWS = 8, CHANNELS = 64, PLANES = CHANNELS / PLANE, WIDTH = Args::WIDTH, STAGES = Args::STAGES;
  static constexpr int D_PLANE_BYTES = ROWS * PATCH_WIDTH * PIXEL_BYTES, D_BYTES = D_PLANE_BYTES * (WIDTH / PLANE);

  const Args& a;
  const Patches<Args::STRIDE> patches;
  const int first_input, first_output, begin, end;
  unsigned char* const shared;
  const Ring<STAGES> ring;

  __device__ __forceinline__ WeightGradient(const Args& a, unsigned char* shared, uint64_t* barriers)
      : a(a),
        patches(ROWS, a.kh, Args::TAPS, a.before, a.before, a.pad, a.pad),
        first_input(blockIdx.x * CHANNELS),
        first_output(blockIdx.y * WIDTH),
        begin(blockIdx.z * a.part_patches),
        end(min(begin + a.part_patches, a.patches)),
        shared(shared),
        ring{barriers} {}

  // First d_output, whose size is a multiple of what copies are aligned to.
  __device__ __forceinline__ unsigned char* stage(int step) const {
    return shared + step % STAGES * (D_BYTES + patches.stage_bytes(PLANES));
  }

  __device__ __forceinline__ void copy() const {
    for (int step = 0; step < end - begin; ++step) {
      const PatchPlace place(a, begin + step, ROWS);
      uint64_t* full = ring.fill(step, D_BYTES + patches.copied_bytes(PLANES));
      copy_box(stage(step), a.gradient, full, 0, place.x, place.y, first_output / PLANE, place.image);
      patches.copy(stage(step) + D_BYTES, a.input, full, place.y, place.x, first_input / PLANE, PLANES, place.image);
    }
    ring.finish(end - begin);
  }

  __device__ __forceinline__ void multiply(float (&sums)[Args::TAPS][WIDTH / 2]) const {
    const int ky = warpgroup();
#pragma unroll
    for (int kx = 0; kx < Args::TAPS; ++kx) fence_registers(sums[kx]);
    for (int step = 0; step < end - begin; ++step) {
      ring.wait(step);
      const unsigned char *d = stage(step), *x = d + D_BYTES;
      wgmma_fence();
#pragma unroll
      for (int row = 0; row < ROWS; ++row) {
        const unsigned char* gradients = d + row * PATCH_WIDTH * PIXEL_BYTES;
        const uint64_t b = matrix_descriptor(gradients, 8 * PIXEL_BYTES, D_PLANE_BYTES);
#pragma unroll
        for (int kx = 0; kx < Args::TAPS; ++kx) {
          const unsigned char* from = x + row * patches.row_bytes() + patches.tap_bytes(ky, kx, PLANES);
          wgmma<WIDTH, true, true>(sums[kx], matrix_descriptor(from, 8 * PIXEL_BYTES, patches.plane_bytes()), b);
        }
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (step > 0 && threadIdx.x % 32 == 0) ring.release(step - 1);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int kx = 0; kx < Args::TAPS; ++kx) fence_registers(sums[kx]);
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
