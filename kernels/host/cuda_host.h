// Prelude of every module on the host: the part of CUDA C++ that the project's kernels use, for a C++17 compiler.
// Each CUDA thread is a fiber; see runtime.cpp for how they run.
#pragma once

// The C library's functions alone: C++'s overloads and special functions would be two thirds of a build.
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS
#include <math.h>
#include <string.h>

#include "runtime.h"

#define CUDA_HOST 1

#define __device__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) alignas(bytes)

// A kernel that takes one struct: the function cuda_host_NAME launches it.
#define ENTRY(name, body, Args, threads)                                                 \
  extern "C" __attribute__((visibility("default"))) bool cuda_host_##name(               \
      const cuda_host::Request* request) {                                               \
    auto call = [](const void* args) { body(*static_cast<const Args*>(args)); };         \
    return cuda_host::launch({#name, call, sizeof(Args), unsigned(threads)}, *request);  \
  }

// Shared memory of a fixed size: SHARED(float, tile, [16][17]);
// The static marker has one address for each instantiation of a template, as __shared__ has.
#define SHARED(T, name, ...)                                                     \
  static char name##_declaration;                                                \
  auto& name = *static_cast<T(*) __VA_ARGS__>(cuda_host::shared_memory(          \
      &name##_declaration, sizeof(T __VA_ARGS__)))
// The dynamic shared memory of the launch.
#define DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(cuda_host::dynamic_shared_memory())

#define threadIdx (cuda_host::self->thread)
#define blockIdx (cuda_host::self->block)
#define blockDim (cuda_host::self->block_size)
#define gridDim (cuda_host::self->grid_size)
constexpr int warpSize = cuda_host::WARP;

inline void __syncthreads(cuda_host::Place place = cuda_host::here()) { cuda_host::sync_block(place); }

inline void __syncwarp(unsigned mask = cuda_host::ALL_LANES, cuda_host::Place place = cuda_host::here()) {
  cuda_host::sync_warp(mask, place);
}

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

namespace cuda_host {

template <class T>
inline T shuffle_value(T value, unsigned source, unsigned mask, const char* what, Place place) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = shuffle(bits, source, mask, what, place);
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace cuda_host

// Shuffles within segments of `width` lanes, a power of two. A lane whose source lies outside its segment keeps
// its own value.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     cuda_host::Place place = cuda_host::here()) {
  const unsigned within = unsigned(width) - 1;
  const unsigned lane = (cuda_host::self->lane & ~within) | (unsigned(source) & within);
  return cuda_host::shuffle_value(value, lane, mask, "__shfl_sync", place);
}

template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                        cuda_host::Place place = cuda_host::here()) {
  const unsigned lane = cuda_host::self->lane, within = unsigned(width) - 1;
  const unsigned source = (lane & within) >= delta ? lane - delta : lane;
  return cuda_host::shuffle_value(value, source, mask, "__shfl_up_sync", place);
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          cuda_host::Place place = cuda_host::here()) {
  const unsigned lane = cuda_host::self->lane, within = unsigned(width) - 1;
  const unsigned source = (lane & within) + delta <= within ? lane + delta : lane;
  return cuda_host::shuffle_value(value, source, mask, "__shfl_down_sync", place);
}

// Other than for up and down, an earlier segment may be read.
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                         cuda_host::Place place = cuda_host::here()) {
  const unsigned lane = cuda_host::self->lane, last = lane | (unsigned(width) - 1);
  const unsigned other = lane ^ unsigned(lane_mask);
  return cuda_host::shuffle_value(value, other <= last ? other : lane, mask, "__shfl_xor_sync", place);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, cuda_host::Place place = cuda_host::here()) {
  return cuda_host::ballot(predicate != 0, mask, "__ballot_sync", place);
}

inline int __any_sync(unsigned mask, int predicate, cuda_host::Place place = cuda_host::here()) {
  return cuda_host::ballot(predicate != 0, mask, "__any_sync", place) != 0;
}

inline int __all_sync(unsigned mask, int predicate, cuda_host::Place place = cuda_host::here()) {
  return cuda_host::ballot(predicate == 0, mask, "__all_sync", place) == 0;
}

#include "intrinsics.h"
