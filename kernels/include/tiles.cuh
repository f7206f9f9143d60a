// Operands of tensor-core products in shared memory: C (M × N) += A (M × K) B (K × N). A step of a product is 64 bytes
// of K, 32 elements of bf16 or 16 of tf32. Tiles have rows of chunks of 16 bytes, which are swizzled so that neither
// copies of chunks nor loads of fragments meet in a bank.
#pragma once

constexpr int CHUNK_BYTES = 16;
// Tensor-core instructions along K in a step.
constexpr int STEP_PRODUCTS = 2;

// The elements of products.
struct Bf16Element {
  static constexpr int CHUNK = 8, STEP = 32;

  __device__ __forceinline__ static void store(void* chunk, const float (&v)[CHUNK]) {
    *reinterpret_cast<uint4*>(chunk) =
        make_uint4(bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]), bf16_pair(v[4], v[5]), bf16_pair(v[6], v[7]));
  }
  template <int COUNT>
  __device__ __forceinline__ static void round(unsigned (&)[COUNT]) {}
  __device__ __forceinline__ static void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_m16n8k16_bf16(c, a, b);
  }
};

// Floats in shared memory, rounded on the way to registers.
struct Tf32Element {
  static constexpr int CHUNK = 4, STEP = 16;

  __device__ __forceinline__ static void store(void* chunk, const float (&v)[CHUNK]) {
    *reinterpret_cast<float4*>(chunk) = make_float4(v[0], v[1], v[2], v[3]);
  }
  template <int COUNT>
  __device__ __forceinline__ static void round(unsigned (&fragment)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) fragment[i] = round_tf32(__uint_as_float(fragment[i]));
  }
  __device__ __forceinline__ static void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_m16n8k8_tf32(c, a, b);
  }
};

template <int BF16>
struct ProductElement {
  using type = Bf16Element;
};
template <>
struct ProductElement<0> {
  using type = Tf32Element;
};

// Where a chunk lies in a tile with rows of CHUNKS chunks, in bytes. Eight rows that are read at one chunk lie in
// different banks; of tiles that are read by words (SPREAD = 2), four rows at two neighbouring chunks.
template <int CHUNKS, int SPREAD = 1>
__device__ __forceinline__ int swizzled(int row, int chunk) {
  // Rows that share the banks.
  constexpr int LINE = CHUNKS < 8 ? 8 / CHUNKS : 1;
  constexpr int MASK = (CHUNKS < 8 ? CHUNKS : 8) - 1;
  return (row * CHUNKS + (chunk ^ (row / LINE * SPREAD & MASK))) * CHUNK_BYTES;
}

__device__ __forceinline__ int lane_index() { return threadIdx.x % 32; }

// A row of the tile is a row of A or a column of B, and K runs along it. Fragments are those of mma.cuh: bytes of
// both kinds of elements lie alike.
template <class E, int EXTENT>
struct KMajor {
  static constexpr int ROWS = EXTENT, CHUNKS = 4, ROW_BYTES = CHUNKS * CHUNK_BYTES;

  __device__ __forceinline__ static int at(int row, int chunk) { return swizzled<CHUNKS>(row, chunk); }

  // Rows of A from `first` on (a multiple of 32), product k of the step.
  template <int TILES>
  __device__ __forceinline__ static void load_a(unsigned (&a)[TILES][4], const unsigned char* tile, int first, int k) {
    const int lane = lane_index();
    const unsigned char* from = tile + first * ROW_BYTES + at(lane % 16, 2 * k + lane / 16);
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
      load_matrices(a[i], from + i * 16 * ROW_BYTES);
      E::round(a[i]);
    }
  }

  // Columns of B from `first` on (a multiple of 32).
  template <int TILES>
  __device__ __forceinline__ static void load_b(unsigned (&b)[TILES][2], const unsigned char* tile, int first, int k) {
    const int lane = lane_index();
    const int row = (TILES == 1 ? 0 : lane / 16 * 8) + lane % 8;
    const unsigned char* from = tile + first * ROW_BYTES + at(row, 2 * k + lane / 8 % 2);
    if constexpr (TILES == 1) {
      load_matrices(b[0], from);
      E::round(b[0]);
    } else {
#pragma unroll
      for (int i = 0; i < TILES; i += 2) {
        unsigned two[4];
        load_matrices(two, from + i * 8 * ROW_BYTES);
        E::round(two);
        b[i][0] = two[0], b[i][1] = two[1], b[i + 1][0] = two[2], b[i + 1][1] = two[3];
      }
    }
  }
};

// A row of the tile is a step along K, and rows of A or columns of B run along it.
template <class E, int EXTENT>
struct MnMajor;

template <int EXTENT>
struct MnMajor<Bf16Element, EXTENT> {
  static constexpr int ROWS = Bf16Element::STEP, CHUNKS = EXTENT / Bf16Element::CHUNK;

  __device__ __forceinline__ static int at(int row, int chunk) { return swizzled<CHUNKS>(row, chunk); }

  template <int TILES>
  __device__ __forceinline__ static void load_a(unsigned (&a)[TILES][4], const unsigned char* tile, int first, int k) {
    const int lane = lane_index(), row = 16 * k + lane / 16 * 8 + lane % 8, chunk = first / 8 + lane / 8 % 2;
#pragma unroll
    for (int i = 0; i < TILES; ++i) load_transposed(a[i], tile + at(row, chunk + 2 * i));
  }

  template <int TILES>
  __device__ __forceinline__ static void load_b(unsigned (&b)[TILES][2], const unsigned char* tile, int first, int k) {
    const int lane = lane_index(), row = 16 * k + lane % 16, chunk = first / 8;
    if constexpr (TILES == 1) {
      load_transposed(b[0], tile + at(row, chunk));
    } else {
#pragma unroll
      for (int i = 0; i < TILES; i += 2) {
        unsigned two[4];
        load_transposed(two, tile + at(row, chunk + i + lane / 16));
        b[i][0] = two[0], b[i][1] = two[1], b[i + 1][0] = two[2], b[i + 1][1] = two[3];
      }
    }
  }
};

// Only elements of 16 bits can be transposed by a load, so these are read one by one.
template <int EXTENT>
struct MnMajor<Tf32Element, EXTENT> {
  static constexpr int ROWS = Tf32Element::STEP, CHUNKS = EXTENT / Tf32Element::CHUNK, ROW_BYTES = CHUNKS * CHUNK_BYTES;

  __device__ __forceinline__ static int at(int row, int chunk) { return swizzled<CHUNKS, 2>(row, chunk); }

  template <int TILES>
  __device__ __forceinline__ static void load_a(unsigned (&a)[TILES][4], const unsigned char* tile, int first, int k) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) a[i][j] = element(tile, first, 8 * k + j / 2 * 4, 16 * i + j % 2 * 8);
      Tf32Element::round(a[i]);
    }
  }

  template <int TILES>
  __device__ __forceinline__ static void load_b(unsigned (&b)[TILES][2], const unsigned char* tile, int first, int k) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) b[i][j] = element(tile, first, 8 * k + 4 * j, 8 * i);
      Tf32Element::round(b[i]);
    }
  }

 private:
  // Row `row` + t, column `first` + `col` + g, as `at` has it: written so that only the lane's part and three bits of
  // `col` are not constants of the unrolled loops. `row` is a multiple of 4, `col` of 8, `first` of 32.
  __device__ __forceinline__ static unsigned element(const unsigned char* tile, int first, int row, int col) {
    const int g = lane_index() / 4, t = lane_index() % 4, chunk = col / Tf32Element::CHUNK;
    const unsigned char* from = tile + first * 4 + at(t, chunk % 8) + g * 4;
    return *reinterpret_cast<const unsigned*>(from + row * ROW_BYTES + chunk / 8 * 8 * CHUNK_BYTES);
  }
};

// One step of a warp's part of the product: 16 ROWS rows of A from `row` on by 8 COLS columns of B from `col` on.
template <class E, class TileA, class TileB, int ROWS, int COLS>
__device__ __forceinline__ void multiply_step(float (&c)[ROWS][COLS][4], const unsigned char* a_tile,
                                              const unsigned char* b_tile, int row, int col) {
#pragma unroll
  for (int k = 0; k < STEP_PRODUCTS; ++k) {
    unsigned a[ROWS][4], b[COLS][2];
    TileA::load_a(a, a_tile, row, k);
    TileB::load_b(b, b_tile, col, k);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
      for (int j = 0; j < COLS; ++j) E::multiply(c[i][j], a[i], b[j]);
    }
  }
}
