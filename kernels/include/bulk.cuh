// Copies of boxes of tensors to shared memory by Hopper's copy engine (PTX's cp.async.bulk.tensor), and barriers in
// shared memory (mbarrier), by which threads learn that copies are done, or that memory may be filled again.
//
// A phase of a barrier ends when as many threads have arrived as it was made for and all bytes that were announced have
// come. Phases have parity 0, 1, 0, …; the phase before the first, of parity 1, counts as ended.
#pragma once

#ifdef CUDA_HOST

inline void barrier_init(uint64_t* barrier, unsigned arrivals) { cuda_host::barrier_init(barrier, arrivals); }
inline void barrier_init_done() {}
inline void barrier_arrive(uint64_t* barrier, cuda_host::Place place = cuda_host::here()) {
  cuda_host::barrier_arrive(barrier, 0, place);
}
inline void barrier_arrive_for(uint64_t* barrier, unsigned bytes, cuda_host::Place place = cuda_host::here()) {
  cuda_host::barrier_arrive(barrier, bytes, place);
}
inline void barrier_wait(uint64_t* barrier, unsigned parity, cuda_host::Place place = cuda_host::here()) {
  cuda_host::barrier_wait(barrier, parity, place);
}

// What src/device/cuda/args.rs writes.
struct alignas(128) TensorMap {
  cuda_host::Tensor tensor;
};

inline void copy_box(void* shared, const TensorMap& map, uint64_t* barrier, int c, int x, int y, int z, int n,
                     cuda_host::Place place = cuda_host::here()) {
  cuda_host::copy_box({shared, &map.tensor, {c, x, y, z, n}, barrier}, place);
}

#else

__device__ __forceinline__ unsigned barrier_address(uint64_t* barrier) {
  return static_cast<unsigned>(__cvta_generic_to_shared(barrier));
}

// Makes a barrier for so many arrivals. One thread does it, and all may use it after that thread's `barrier_init_done`
// and a barrier of the block.
__device__ __forceinline__ void barrier_init(uint64_t* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier_address(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier_address(barrier)) : "memory");
}

// Arrives, and announces bytes.
__device__ __forceinline__ void barrier_arrive_for(uint64_t* barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier_address(barrier)), "r"(bytes)
               : "memory");
}

// Waits for the end of the phase of this parity.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, unsigned parity) {
  unsigned ended;
  do {
    asm volatile(
        "{\n .reg .pred ended;\n"
        " mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
        " selp.u32 %0, 1, 0, ended;\n}"
        : "=r"(ended)
        : "r"(barrier_address(barrier)), "r"(parity)
        : "memory");
  } while (!ended);
}

// What the driver encodes; a member of the kernel's arguments.
struct __align__(128) TensorMap {
  unsigned char encoded[128];
};

// Starts to bring the tensor's box at these coordinates to shared memory, at a multiple of 128 bytes. Its bytes count
// for the barrier, zeros from outside of the tensor as well.
__device__ __forceinline__ void copy_box(void* shared, const TensorMap& map, uint64_t* barrier, int c, int x, int y,
                                         int z, int n) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], "
      "[%2];" ::"r"(to),
      "l"(&map), "r"(barrier_address(barrier)), "r"(c), "r"(x), "r"(y), "r"(z), "r"(n)
      : "memory");
}

#endif

// Stages in shared memory that one thread fills and warps read, step after step.
template <int STAGES>
struct Ring {
  uint64_t* barriers;

  __device__ __forceinline__ void init(int warps) const {
    for (int i = 0; i < STAGES; ++i) barrier_init(barriers + i, 1), barrier_init(barriers + STAGES + i, warps);
  }
  // Waits until a step's stage is free, and announces its bytes. Copies go to the barrier that it gives.
  __device__ __forceinline__ uint64_t* fill(int step, unsigned bytes) const {
    uint64_t* full = barriers + step % STAGES;
    barrier_wait(full + STAGES, (step / STAGES & 1) ^ 1);
    barrier_arrive_for(full, bytes);
    return full;
  }
  __device__ __forceinline__ void wait(int step) const { barrier_wait(barriers + step % STAGES, step / STAGES & 1); }
  // One thread of each warp says that the warp has read a step.
  __device__ __forceinline__ void release(int step) const { barrier_arrive(barriers + STAGES + step % STAGES); }
};
