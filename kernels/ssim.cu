// Structural similarity. A block has a tile of one image and goes through its channels: the sum and difference of
// the two images with their border in shared memory, then four moments of them down the columns, then along the rows.

constexpr int TILE = 32;  // rows and columns of results of a block
constexpr int RUN = 4;    // results of a thread in one direction; each value that it reads serves all of them

// The pixel that stands at position `i` of `n` with a reflected border of `before` in front.
__device__ __forceinline__ int reflected(int i, int before, int n) {
  const int at = i - before;
  return at < 0 ? -at : at < n ? at : 2 * (n - 1) - at;
}

// Weights under which RUN neighbouring results see the next value: each sees what the one before it saw.
__device__ __forceinline__ void slide(float (&weights)[RUN], float next) {
#pragma unroll
  for (int r = RUN - 1; r > 0; --r) weights[r] = weights[r - 1];
  weights[0] = next;
}

// The similarity from the filtered sums and differences and their squares.
template <class Args>
__device__ __forceinline__ float similarity(const Args& a, float s, float d, float square_s, float square_d) {
  const float ss = s * s, dd = d * d, var_s = square_s - ss, var_d = square_d - dd;
  const float numerator = (0.5f * (ss - dd) + a.c1) * (0.5f * (var_s - var_d) + a.c2);
  const float denominator = (0.5f * (ss + dd) + a.c1) * (0.5f * (var_s + var_d) + a.c2);
  return numerator / (denominator + a.eps);
}

// Blocks: tiles across, tiles down, images. The tiles' sums go to a.sums [image][tile].
template <class Args>
__device__ void ssim(const Args& a) {
  // An odd pitch: threads of a warp read the same column of different rows.
  const int taps = a.taps, side = TILE + taps - 1, pitch = side | 1;
  DYNAMIC_SHARED(float, shared);
  float *s = shared, *d = s + side * side, *moments = d + side * side, *weights = moments + 4 * TILE * pitch;
  const int n = blockIdx.z, y0 = blockIdx.y * TILE, x0 = blockIdx.x * TILE;
  const int rows = min(TILE, a.x.h - y0), columns = min(TILE, a.x.w - x0);
  for (int i = threadIdx.x; i < taps; i += Args::THREADS) {
    const double at = i + double(a.first_tap);
    weights[i] = float(exp(-at * at / a.spread) / a.weight_sum);
  }
  double total = 0.0;
  for (int c = 0; c < a.x.c; ++c) {
    for (int i = threadIdx.x; i < side * side; i += Args::THREADS) {
      const int y = i / side, x = i % side;
      float sum = 0.f, difference = 0.f;
      if (y < rows + taps - 1 && x < columns + taps - 1) {
        const int from_y = reflected(y0 + y, a.before, a.x.h), from_x = reflected(x0 + x, a.before, a.x.w);
        const float u = clamped(pixel(a.x, n, from_y, from_x)[c], a.max_val);
        const float v = clamped(pixel(a.y, n, from_y, from_x)[c], a.max_val);
        sum = u + v, difference = u - v;
      }
      s[i] = sum;
      d[i] = difference;
    }
    __syncthreads();
    for (int task = threadIdx.x; task < side * (TILE / RUN); task += Args::THREADS) {
      const int x = task % side, y = task / side * RUN;
      float acc[4][RUN] = {}, under[RUN] = {};
      for (int k = 0; k < taps + RUN - 1; ++k) {
        slide(under, k < taps ? weights[k] : 0.f);
        const float sum = s[(y + k) * side + x], difference = d[(y + k) * side + x];
        const float values[] = {sum, difference, sum * sum, difference * difference};
#pragma unroll
        for (int r = 0; r < RUN; ++r) {
#pragma unroll
          for (int m = 0; m < 4; ++m) acc[m][r] = fmaf(under[r], values[m], acc[m][r]);
        }
      }
#pragma unroll
      for (int r = 0; r < RUN; ++r) {
#pragma unroll
        for (int m = 0; m < 4; ++m) moments[(m * TILE + y + r) * pitch + x] = acc[m][r];
      }
    }
    __syncthreads();
    for (int task = threadIdx.x; task < TILE * (TILE / RUN); task += Args::THREADS) {
      const int y = task % TILE, x = task / TILE * RUN;
      float acc[4][RUN] = {}, under[RUN] = {};
      for (int k = 0; k < taps + RUN - 1; ++k) {
        slide(under, k < taps ? weights[k] : 0.f);
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          const float value = moments[(m * TILE + y) * pitch + x + k];
#pragma unroll
          for (int r = 0; r < RUN; ++r) acc[m][r] = fmaf(under[r], value, acc[m][r]);
        }
      }
#pragma unroll
      for (int r = 0; r < RUN; ++r) {
        if (y < rows && x + r < columns) total += similarity(a, acc[0][r], acc[1][r], acc[2][r], acc[3][r]);
      }
    }
  }
  total = block_sum<Args::THREADS>(total);
  const int tile = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  if (threadIdx.x == 0) a.sums[tile] = float(total);
}
