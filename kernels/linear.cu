// Products of matrices: rows x inner times inner x columns.
//
// A block of 256 threads computes TILE_ROWS x 64 elements, a thread TILE_ROWS / 16 rows of 4 columns. A linear layer of
// a training step has few rows or a short inner extent and is bound by reading or writing its weight once; where
// there are too few tiles to fill a GPU, the inner extent is cut into chunks, and their products are added after.

constexpr int TILE_COLUMNS = 64, TILE_INNER = 16;
// Tiles of the inner extent that are added in f32 before their sum goes to the total: 256 elements.
constexpr int TILES_OF_A_SUM = 16;

// Rows i0 on (or columns, for the right factor) of a factor, inner elements k0 on, zeros outside: tile[k][i].
template <int COUNT, int PITCH, int THREADS, bool INNER_IS_CHANNEL, class Factor>
__device__ __forceinline__ void load_tile(float* tile, const Factor& from, int i0, int count, int k0, int inner) {
#pragma unroll
  for (int t = threadIdx.x; t < COUNT * TILE_INNER; t += THREADS) {
    const int i = INNER_IS_CHANNEL ? t / TILE_INNER : t % COUNT;
    const int k = INNER_IS_CHANNEL ? t % TILE_INNER : t / COUNT;
    const bool inside = i0 + i < count && k0 + k < inner;
    const int image = INNER_IS_CHANNEL ? i0 + i : k0 + k, channel = INNER_IS_CHANNEL ? k0 + k : i0 + i;
    tile[k * PITCH + i] = inside ? pixel(from, image)[channel] : 0.f;
  }
}

// The thread's elements of the product over inner elements first to end.
template <int M, class Args>
__device__ void tile_product(const Args& a, float (&total)[M][4], int first, int end) {
  // A spare float4 in each row spreads columns of a tile over the banks.
  constexpr int ROWS = M * 16, LHS_PITCH = ROWS + 4, RHS_PITCH = TILE_COLUMNS + 4;
  SHARED(float4, lhs_tile, [TILE_INNER][LHS_PITCH / 4]);
  SHARED(float4, rhs_tile, [TILE_INNER][RHS_PITCH / 4]);
  float* lhs = reinterpret_cast<float*>(lhs_tile);
  float* rhs = reinterpret_cast<float*>(rhs_tile);
  const int row = threadIdx.x / 16 * M, quad = threadIdx.x % 16;
  float sum[M][4] = {};
  for (int k0 = first, tiles = 1; k0 < end; k0 += TILE_INNER, ++tiles) {
    load_tile<ROWS, LHS_PITCH, Args::THREADS, Args::LHS_INNER_IS_CHANNEL != 0>(lhs, a.lhs, blockIdx.y * ROWS, a.rows,
                                                                               k0, end);
    load_tile<TILE_COLUMNS, RHS_PITCH, Args::THREADS, Args::RHS_INNER_IS_CHANNEL != 0>(
        rhs, a.rhs, blockIdx.x * TILE_COLUMNS, a.columns, k0, end);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < TILE_INNER; ++k) {
      const float4 r = rhs_tile[k][quad];
#pragma unroll
      for (int i = 0; i < M; ++i) {
        const float l = lhs[k * LHS_PITCH + row + i];
        sum[i][0] += l * r.x, sum[i][1] += l * r.y, sum[i][2] += l * r.z, sum[i][3] += l * r.w;
      }
    }
    __syncthreads();
    if (tiles % TILES_OF_A_SUM != 0 && k0 + TILE_INNER < end) continue;
#pragma unroll
    for (int i = 0; i < M; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) total[i][j] += sum[i][j], sum[i][j] = 0.f;
    }
  }
}

template <class Args>
__device__ void matrix_product(const Args& a) {
  constexpr int M = Args::TILE_ROWS / 16, V = Args::V;
  float total[M][4] = {};
  tile_product<M>(a, total, 0, a.inner);
  const int row = blockIdx.y * Args::TILE_ROWS + threadIdx.x / 16 * M;
  const int column = blockIdx.x * TILE_COLUMNS + threadIdx.x % 16 * 4;
#pragma unroll
  for (int i = 0; i < M; ++i) {
#pragma unroll
    for (int j = 0; j < 4; j += V) {
      if (row + i >= a.rows || column + j >= a.columns) continue;
      float v[V];
#pragma unroll
      for (int lane = 0; lane < V; ++lane) v[lane] = total[i][j + lane];
      a.finish.template apply<V>(v, row + i, 0, 0, column + j);
    }
  }
}

// The product over one chunk of the inner extent, for matrix_product_sum.
template <class Args>
__device__ void matrix_product_chunk(const Args& a) {
  constexpr int M = Args::TILE_ROWS / 16;
  float total[M][4] = {};
  const int first = blockIdx.z * a.chunk;
  tile_product<M>(a, total, first, min(a.inner, first + a.chunk));
  const int row = blockIdx.y * Args::TILE_ROWS + threadIdx.x / 16 * M;
  const int column = blockIdx.x * TILE_COLUMNS + threadIdx.x % 16 * 4;
#pragma unroll
  for (int i = 0; i < M; ++i) {
    float* to = a.products + (size_t(blockIdx.z) * a.rows + row + i) * a.columns + column;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (row + i < a.rows && column + j < a.columns) to[j] = total[i][j];
    }
  }
}

template <class Args>
__device__ void matrix_product_sum(const Args& a) {
  constexpr int V = Args::V;
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int row = item * V / a.columns, column = item * V % a.columns;
  double sum[V] = {};
  for (int chunk = 0; chunk < a.chunks; ++chunk) {
    const float* from = a.products + (size_t(chunk) * a.rows + row) * a.columns + column;
#pragma unroll
    for (int lane = 0; lane < V; ++lane) sum[lane] += from[lane];
  }
  float v[V];
#pragma unroll
  for (int lane = 0; lane < V; ++lane) v[lane] = float(sum[lane]);
  a.finish.template apply<V>(v, row, 0, 0, column);
}
