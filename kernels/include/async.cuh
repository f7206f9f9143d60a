// Copies from global to shared memory that bypass registers and go on while the thread computes (PTX's cp.async).
// A copy may be read by its own thread after the wait for its group, by others after a barrier behind that.
// On the host a copy is done by the wait, so that a missing one shows.
#pragma once

// BYTES bytes, 8 or 16, both addresses multiples of that; zeros where not `valid`, and then nothing is read. The copy
// goes through the first-level cache, where a convolution's next tap finds most of what this one has read.
#ifdef CUDA_HOST
template <int BYTES>
inline void copy_async(void* shared, const void* global, bool valid = true,
                       cuda_host::Place place = cuda_host::here()) {
  cuda_host::copy_async(shared, global, BYTES, valid, place);
}
#else
template <int BYTES>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid = true) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? BYTES : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(BYTES), "r"(bytes)
               : "memory");
}
#endif

// Makes one group of the thread's copies since the last commit.
__device__ __forceinline__ void copy_async_commit() {
#ifdef CUDA_HOST
  cuda_host::copy_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most GROUPS of the thread's groups, the latest, are not done.
template <int GROUPS>
__device__ __forceinline__ void copy_async_wait() {
#ifdef CUDA_HOST
  cuda_host::copy_async_wait(GROUPS);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
#endif
}
