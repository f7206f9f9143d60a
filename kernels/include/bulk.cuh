// Copies of boxes of tensors to shared memory by Hopper's copy engine (PTX's cp.async.bulk.tensor), and barriers in
// shared memory (mbarrier), by which threads learn that copies are done, or that memory may be filled again.
//
// A phase of a barrier ends when as many threads have arrived as it was made for and all bytes that were announced have
// come. Phases have parity 0, 1, 0, …; the phase before the first, of parity 1, counts as ended.
//
// Copies write shared memory through the proxy by which wgmma reads it: no fence is needed between a warp's products and
// the copy that fills their operands' place again, only the barrier by which the warp says that they are done.
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

inline void barrier_wait_or_trap(uint64_t* barrier, unsigned parity, cuda_host::Place place = cuda_host::here()) {
  cuda_host::barrier_wait(barrier, parity, place);
}
template <int BYTES>
inline unsigned char* align_shared(unsigned char* at) {
  return at + (-cuda_host::shared_offset(at) & (BYTES - 1));
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

__device__ __forceinline__ bool has_phase_ended(uint64_t* barrier, unsigned parity) {
  unsigned ended;
  asm volatile(
      "{\n .reg .pred ended;\n"
      " mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
      " selp.u32 %0, 1, 0, ended;\n}"
      : "=r"(ended)
      : "r"(barrier_address(barrier)), "r"(parity)
      : "memory");
  return ended != 0;
}

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

// Waits for the end of the phase of this parity.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, unsigned parity) {
  while (!has_phase_ended(barrier, parity)) {
  }
}

// The same for a thread that starts copies. A wait of many seconds is an error of the kernel: it then ends, so that the
// program can say so, where it would hang. In a thread that multiplies the assembler could not follow this.
__device__ __forceinline__ void barrier_wait_or_trap(uint64_t* barrier, unsigned parity) {
  constexpr uint64_t LONGEST = 20000000000;
  uint64_t begin = 0;
  for (unsigned tries = 1; !has_phase_ended(barrier, parity); ++tries) {
    if (tries % 65536 != 0) continue;
    const uint64_t now = nanoseconds();
    if (begin == 0) begin = now;
    if (now - begin > LONGEST) __trap();
  }
}

// The first multiple of BYTES in shared memory from `at` on.
template <int BYTES>
__device__ __forceinline__ unsigned char* align_shared(unsigned char* at) {
  return at + (-static_cast<unsigned>(__cvta_generic_to_shared(at)) & (BYTES - 1));
}

// What the driver encodes; a member of the kernel's arguments.
struct __align__(128) TensorMap {
  unsigned char encoded[128];
};

// Starts to bring the tensor's box at these coordinates to shared memory, at a multiple of 128 bytes. Its bytes count
// for the barrier, zeros from outside of the tensor as well. Each block is a cluster of its own.
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
    barrier_wait_or_trap(full + STAGES, (step / STAGES & 1) ^ 1);
    barrier_arrive_for(full, bytes);
    return full;
  }
  // After the last of `steps`: waits for the copies that are under way.
  __device__ __forceinline__ void finish(int steps) const {
    for (int step = steps > STAGES ? steps - STAGES : 0; step < steps; ++step) {
      barrier_wait_or_trap(barriers + step % STAGES, step / STAGES & 1);
    }
  }
  __device__ __forceinline__ void wait(int step) const { barrier_wait(barriers + step % STAGES, step / STAGES & 1); }
  // One thread of each warp says that the warp has read a step.
  __device__ __forceinline__ void release(int step) const { barrier_arrive(barriers + STAGES + step % STAGES); }
};
