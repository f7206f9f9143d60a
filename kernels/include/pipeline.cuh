// Products of operands in memory: chunks come to shared memory some steps ahead of the tensor cores.
#pragma once

// A thread's share of a tile: every so many rows a chunk, at one place of the row.
template <class Tile, int THREADS>
struct Share {
  static_assert(THREADS % Tile::CHUNKS == 0, "whole rows");
  static constexpr int COUNT = (Tile::ROWS * Tile::CHUNKS + THREADS - 1) / THREADS;

  __device__ __forceinline__ static int chunk() { return threadIdx.x % Tile::CHUNKS; }
  __device__ __forceinline__ static int row(int i) {
    return threadIdx.x / Tile::CHUNKS + i * (THREADS / Tile::CHUNKS);
  }
  __device__ __forceinline__ static bool has(int i) {
    return Tile::ROWS * Tile::CHUNKS % THREADS == 0 || row(i) < Tile::ROWS;
  }
};

// The address of an operand's element, which counts only where it is valid; the operand is 0 elsewhere.
template <class Pointer>
struct Found {
  Pointer at;
  bool valid;
};
template <class Pointer>
Found(Pointer, bool) -> Found<Pointer>;

// Brings an operand to its tiles. `source.find(k, i, e)` finds element e of the i-th chunk of the thread in the step
// at k, a multiple of RUN: so many elements follow each other in memory, a chunk, half of one, or one. They come as they
// are, by asynchronous copies (ASYNC), or, of another type or alone, through registers.
template <class E, class Tile, int ASYNC, int RUN, int THREADS, class Source>
struct Loader {
  using Layout = Tile;
  using Own = Share<Tile, THREADS>;
  static constexpr int BYTES = Tile::ROWS * Tile::CHUNKS * CHUNK_BYTES;
  static_assert(E::CHUNK % RUN == 0 && (RUN > 1 || !ASYNC), "parts of a chunk");

  Source source;
  float values[ASYNC ? 1 : Own::COUNT][E::CHUNK];

  __device__ __forceinline__ explicit Loader(const Source& source) : source(source) {}

  // Starts to load a step; it is in the tile after `put`, the wait for its copies and a barrier.
  template <class Depth>
  __device__ __forceinline__ void fetch(unsigned char* tile, const Depth& k) {
#pragma unroll
    for (int i = 0; i < Own::COUNT; ++i) {
      if (!Own::has(i)) continue;
      unsigned char* chunk = tile + Tile::at(Own::row(i), Own::chunk());
#pragma unroll
      for (int e = 0; e < E::CHUNK; e += RUN) {
        const auto from = source.find(k, i, e);
        if constexpr (ASYNC) {
          constexpr int ELEMENT = CHUNK_BYTES / E::CHUNK;
          copy_async<RUN * ELEMENT>(chunk + e * ELEMENT, from.at, from.valid);
        } else {
          load(values[i] + e, from);
        }
      }
    }
  }

  __device__ __forceinline__ void put(unsigned char* tile) {
    if constexpr (!ASYNC) {
#pragma unroll
      for (int i = 0; i < Own::COUNT; ++i) {
        if (Own::has(i)) E::store(tile + Tile::at(Own::row(i), Own::chunk()), values[i]);
      }
    }
  }

 private:
  // A run of values, by vectors.
  template <class Pointer>
  __device__ __forceinline__ static void load(float* to, const Found<Pointer>& from) {
    constexpr int V = RUN < 4 ? RUN : 4;
#pragma unroll
    for (int e = 0; e < RUN; e += V) {
      float vector[V] = {};
      if (from.valid) read<V>(vector, from.at + e);
#pragma unroll
      for (int j = 0; j < V; ++j) to[e + j] = vector[j];
    }
  }
};

// c += A B over all steps of K: `k.steps` of them, `k.advance()` goes to the next. A warp computes 16 ROWS rows from
// `row` on by 8 COLS columns from `col` on. `shared` holds STAGES steps; it is free afterwards.
template <int STAGES, class E, class A, class B, class Depth, int ROWS, int COLS>
__device__ __forceinline__ void multiply(float (&c)[ROWS][COLS][4], A& a, B& b, Depth k, unsigned char* shared, int row,
                                         int col) {
  const auto tile = [=](int step) { return shared + step % STAGES * (A::BYTES + B::BYTES); };
#pragma unroll
  for (int step = 0; step < STAGES - 1; ++step) {
    if (step < k.steps) {
      a.fetch(tile(step), k), b.fetch(tile(step) + A::BYTES, k);
      a.put(tile(step)), b.put(tile(step) + A::BYTES);
      k.advance();
    }
    copy_async_commit();
  }
#pragma unroll 1
  for (int step = 0; step < k.steps; ++step) {
    copy_async_wait<STAGES - 2>();
    // All have their part of this step here, and all are done with the tile that the next one replaces.
    __syncthreads();
    const int next = step + STAGES - 1;
    if (next < k.steps) {
      a.fetch(tile(next), k), b.fetch(tile(next) + A::BYTES, k);
      k.advance();
    }
    copy_async_commit();
    multiply_step<E, typename A::Layout, typename B::Layout>(c, tile(step), tile(step) + A::BYTES, row, col);
    if (next < k.steps) a.put(tile(next)), b.put(tile(next) + A::BYTES);
  }
  copy_async_wait<0>();
  __syncthreads();
}
