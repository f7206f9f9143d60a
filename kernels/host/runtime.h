// What kernels built for the host and their runtime know of each other. Kernels see it through cuda_host.h; the
// runtime (runtime.cpp, collectives.cpp) is a library of its own, built once, so that a kernel's build stays short.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct uint3 {
  unsigned x, y, z;
};

namespace cuda_host {

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr unsigned MAX_THREADS = 1024;

// A line of a kernel's file. As a default argument, `Place place = here()` is the caller's line.
struct Place {
  const char* file;
  int line;
};
constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

// What a CUDA thread knows of itself.
struct Coordinates {
  uint3 thread, block;
  uint3 block_size, grid_size;
  unsigned lane;
};

// The CUDA thread that runs on this OS thread. A fiber never changes its OS thread, and the library is small:
// initial-exec keeps `threadIdx` at two loads.
extern __thread const Coordinates* self __attribute__((tls_model("initial-exec")));

// Barriers, and exchanges among the lanes of a warp. `what` is the name that messages use.
void sync_block(Place place);
void sync_warp(unsigned mask, Place place);
// The value of lane `source`; a source of a lane's own is always good.
uint64_t shuffle(uint64_t value, unsigned source, unsigned mask, const char* what, Place place);
// One bit for each lane of `mask` with a true predicate.
unsigned ballot(bool predicate, unsigned mask, const char* what, Place place);

// Tensor-core products c += a b of a whole warp, in the register layouts of PTX's mma.sync.
void mma_m16n8k16_bf16(float c[4], const unsigned a[4], const unsigned b[2], Place place);
void mma_m16n8k8_tf32(float c[4], const unsigned a[4], const unsigned b[2], Place place);
// `count` matrices from shared memory, as PTX's ldmatrix loads them.
void load_matrices(unsigned* to, unsigned count, const void* row, bool transposed, Place place);

// Shared memory of the running block: one array for each declaration, known by an address of its own.
void* shared_memory(const void* declaration, size_t bytes);
void* dynamic_shared_memory();

// Asynchronous copies of 8 or 16 bytes, or zeros if not `valid`: queued, and done by the wait.
void copy_async(void* shared, const void* global, unsigned bytes, bool valid, Place place);
void copy_async_commit();
void copy_async_wait(unsigned groups_left);

// A tensor map before a driver has encoded it (src/device/cuda/args.rs): bf16, extents from the innermost axis on,
// strides in elements of all axes but that, elements of the box and steps between them, bytes of a swizzled row or 0.
struct Tensor {
  uint64_t ptr, extents[5], strides[4], box[5];
  uint8_t swizzle, steps[5];
};
struct BoxCopy {
  void* to;
  const Tensor* from;
  int at[5];
  uint64_t* barrier;
};
// A product of a warp's 16 rows, as PTX's wgmma.
struct GroupProduct {
  float* d;
  unsigned width;
  uint64_t a, b;
  bool a_mn_major, b_mn_major;
};

// Barriers in shared memory, copies of boxes and products of warpgroups: see bulk.cuh and wgmma.cuh. Copies and
// products are done as early as they may be (forward order of threads), as late (reverse), or either, by chance for a
// block's copies and each warp's products.
void barrier_init(uint64_t* barrier, unsigned arrivals);
void barrier_arrive(uint64_t* barrier, unsigned bytes, Place place);
void barrier_wait(uint64_t* barrier, unsigned parity, Place place);
void copy_box(const BoxCopy& copy, Place place);
// Where an address lies in the block's dynamic shared memory.
uint64_t shared_offset(const void* at);
void wgmma(const GroupProduct& product, Place place);
void wgmma_commit(Place place);
void wgmma_wait(unsigned groups_left, Place place);

// A launch, as HostDriver describes it (src/device/cuda/host/mod.rs has the same struct).
struct Request {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
  uint32_t order;  // of threads: 0 forward, 1 reverse, 2 random
  uint64_t seed;   // of the random order
  uint32_t os_threads;
  const void* args;
  size_t args_bytes;
  char* message;  // where an error is written, ended by 0
  size_t message_bytes;
};

struct Kernel {
  const char* name;
  void (*body)(const void* args);
  size_t args_bytes;
  unsigned threads;
};

// Runs all blocks. False, with a message, if the launch is wrong or a block fails.
bool launch(const Kernel& kernel, const Request& request);

}  // namespace cuda_host
