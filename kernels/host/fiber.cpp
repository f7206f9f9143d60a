#include "fiber.h"

#ifdef __SANITIZE_ADDRESS__
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_host {

#ifdef CUDA_HOST_SWITCH
// Saves the registers that a call preserves on the running stack and restores them from another one.
extern "C" void cuda_host_switch(void** from, void* to) __attribute__((visibility("hidden")));
asm(R"(
.text
.globl cuda_host_switch
.hidden cuda_host_switch
.type cuda_host_switch, @function
cuda_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_host_switch, .-cuda_host_switch
)");
#endif

void Fiber::prepare(char* new_stack, size_t bytes, void (*entry)()) {
  stack = new_stack;
  stack_bytes = bytes;
  fake_stack = nullptr;
#ifdef CUDA_HOST_SWITCH
  // What cuda_host_switch pops: six registers and its return address, then the return address of `entry`, null,
  // which leaves the stack as a call would.
  constexpr size_t REGISTERS = 6;
  void** frame = reinterpret_cast<void**>(new_stack + bytes) - (REGISTERS + 2);
  for (size_t i = 0; i < REGISTERS; ++i) frame[i] = nullptr;
  frame[REGISTERS] = reinterpret_cast<void*>(entry);
  frame[REGISTERS + 1] = nullptr;
  stack_pointer = frame;
#else
  getcontext(&context);
  context.uc_stack.ss_sp = new_stack;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
#endif
}

void Fiber::adopt_os_thread() {
  fake_stack = nullptr;
#ifdef __SANITIZE_ADDRESS__
  pthread_attr_t attributes;
  void* lowest = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &lowest, &stack_bytes);
  pthread_attr_destroy(&attributes);
  stack = static_cast<char*>(lowest);
#endif
}

__attribute__((no_sanitize_address)) void enter_fiber() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

__attribute__((no_sanitize_address)) void switch_fiber(Fiber& from, Fiber& to, bool forever) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(forever ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#else
  (void)forever;
#endif
#ifdef CUDA_HOST_SWITCH
  cuda_host_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

}  // namespace cuda_host
