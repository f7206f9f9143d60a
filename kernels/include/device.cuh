// Prelude of every module on a GPU. kernels/host/cuda_host.h defines the same names for the host.
#pragma once

typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef unsigned short uint16_t;
typedef unsigned char uint8_t;
typedef int int32_t;

// A kernel that takes one struct.
#define ENTRY(name, body, Args, threads)                                                              \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args a) { body(a); }

// Shared memory of a fixed size: SHARED(float, tile, [16][17]);
#define SHARED(T, name, ...) __shared__ __align__(16) T name __VA_ARGS__
// The dynamic shared memory of the launch.
#define DYNAMIC_SHARED(T, name)                                       \
  extern __shared__ __align__(128) unsigned char dynamic_shared_raw[]; \
  T* name = reinterpret_cast<T*>(dynamic_shared_raw)
