// Fibers: a hand-written switch on x86-64 (12 ns), the C library's contexts elsewhere (200 ns).
// CUDA_HOST_PORTABLE takes the latter on x86-64 as well.
#pragma once

#include <stddef.h>

#if defined(__x86_64__) && !defined(CUDA_HOST_PORTABLE)
#define CUDA_HOST_SWITCH 1
#else
#include <ucontext.h>
#endif

namespace cuda_host {

// A suspended flow of control.
struct Fiber {
#ifdef CUDA_HOST_SWITCH
  void* stack_pointer;
#else
  ucontext_t context;
#endif
  char* stack;
  size_t stack_bytes;
  // The stack that AddressSanitizer keeps for it.
  void* fake_stack;

  // Makes it start at `entry`, which never returns, on a stack of its own.
  void prepare(char* new_stack, size_t bytes, void (*entry)());
  // Makes it stand for the running OS thread.
  void adopt_os_thread();
};

// The first thing that a fiber does.
void enter_fiber();

// Suspends `from`, the running fiber, and resumes `to`. With `forever`, `from` is never resumed.
void switch_fiber(Fiber& from, Fiber& to, bool forever = false);

}  // namespace cuda_host
