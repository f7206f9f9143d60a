// The scheduler of a block. A thread runs until it waits at a barrier or in a warp-wide function; who waits for a
// condition that has come true is put into the ready ring, in the launch's order of threads: at its end, or, the lanes of
// a warp that runs ahead, at its beginning (all warps in the reverse order, some in a random one). Between two barriers
// each thread thus runs alone, and a missing barrier shows as NaN or as another result in one order.
#include "block.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace cuda_host {

__thread const Coordinates* self;

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t STACK_BYTES = 256 << 10;
#else
constexpr size_t STACK_BYTES = 64 << 10;
#endif
constexpr int NAN_BYTE = 0xff;
// The alignment of dynamic shared memory on the GPU's side of DYNAMIC_SHARED.
constexpr size_t SHARED_ALIGN = 128;

__thread Block* current_block;

std::string text(uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

bool same(Place a, Place b) { return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0); }

uint3 position(uint64_t index, const uint32_t extent[3]) {
  return {unsigned(index % extent[0]), unsigned(index / extent[0] % extent[1]),
          unsigned(index / extent[0] / extent[1])};
}

// SplitMix64 (Steele, Lea, Flood 2014).
uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

std::string text(Place place) { return std::string(place.file) + ":" + std::to_string(place.line); }

Block& Block::current() { return *current_block; }

// Stacks are touched, and so take memory, only as far as threads use them; the lowest page of each is a guard.
Block::Block() : threads_(new Thread[MAX_THREADS]) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* stacks = mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (stacks == MAP_FAILED) abort();
  stacks_ = static_cast<char*>(stacks);
  for (unsigned i = 0; i < MAX_THREADS; ++i) mprotect(stacks_ + i * STACK_BYTES, getpagesize(), PROT_NONE);
}

Block::~Block() {
  free_shared();
  munmap(stacks_, MAX_THREADS * STACK_BYTES);
}

bool Block::run(const Kernel& kernel, const Request& request, const void* args, uint64_t index) {
  kernel_ = &kernel;
  request_ = &request;
  args_ = args;
  message_.clear();
  // Every block of a grid has an order of its own, the same on any OS thread.
  random_ = request.seed ^ (index * 0xd1342543de82ef95);
  for (SharedArray& array : shared_) memset(array.memory, NAN_BYTE, array.bytes);
  start_threads(index);
  current_block = this;
  os_thread_.adopt_os_thread();
  Thread& first = threads_[ready_[ready_begin_++ % MAX_THREADS]];
  running_ = &first;
  self = &first;
  switch_fiber(os_thread_, first.fiber);
#ifdef __SANITIZE_ADDRESS__
  // Threads of a failed block leave their frames' red zones behind.
  if (!message_.empty()) __asan_unpoison_memory_region(stacks_, MAX_THREADS * STACK_BYTES);
#endif
  return message_.empty();
}

void Block::start_threads(uint64_t index) {
  const uint32_t* extent = request_->block;
  count_ = extent[0] * extent[1] * extent[2];
  live_ = count_;
  at_barrier_ = 0;
  ready_begin_ = ready_end_ = 0;
  copies_.clear();
  copies_late_ = draw();
  for (unsigned i = 0; i < count_; ++i) {
    Thread& thread = threads_[i];
    thread.thread = position(i, extent);
    thread.block = position(index, request_->grid);
    thread.block_size = {extent[0], extent[1], extent[2]};
    thread.grid_size = {request_->grid[0], request_->grid[1], request_->grid[2]};
    thread.lane = i % WARP;
    thread.number = i;
    thread.copies.clear();
    thread.groups = 0;
    // Tops at different cache lines: the frames of a warp would otherwise share a few sets of the first cache.
    const size_t stagger = 64 * thread.lane;
    thread.fiber.prepare(stacks_ + i * STACK_BYTES, STACK_BYTES - stagger, enter);
  }
  for (unsigned first = 0; first < count_; first += WARP) {
    const unsigned lanes = count_ - first;
    warps_[first / WARP] = {0, lanes >= WARP ? ALL_LANES : (1u << lanes) - 1, {}, 0, 0, draw(), draw()};
  }
  make_ready(0, count_, [](const Thread&) { return true; });
}

__attribute__((no_sanitize_address)) void Block::enter() {
  enter_fiber();
  current_block->kernel_->body(current_block->args_);
  current_block->return_from_kernel();
}

// A thread that has returned is waited for no longer. Neither this nor what it ends in returns: their frames must not
// leave red zones on a stack that the next block's threads use.
__attribute__((no_sanitize_address)) void Block::return_from_kernel() {
  Thread& thread = *running_;
  thread.state = State::RETURNED;
  --live_;
  Warp& lanes = warp(thread);
  lanes.live &= ~(1u << thread.lane);
  open_barrier_if_complete();
  for (unsigned waiting = lanes.waiting; waiting != 0; waiting &= waiting - 1) {
    Thread& other = threads_[thread.number - thread.lane + unsigned(__builtin_ctz(waiting))];
    // An earlier turn may have released it.
    if (lanes.waiting >> other.lane & 1) release_lanes_if_complete(other);
  }
  run_next(thread, true);
}

void Block::wait_at_barrier(Place place) {
  Thread& thread = *running_;
  thread.state = State::AT_BARRIER;
  thread.place = place;
  thread.what = "__syncthreads";
  ++at_barrier_;
  open_barrier_if_complete();
  run_next(thread, false);
}

void Block::open_barrier_if_complete() {
  if (at_barrier_ == 0 || at_barrier_ < live_) return;
  const Thread* first = nullptr;
  for (unsigned i = 0; i < count_; ++i) {
    const Thread& thread = threads_[i];
    if (thread.state != State::AT_BARRIER) continue;
    if (!first) first = &thread;
    if (!same(thread.place, first->place)) {
      fail("a barrier that the threads reach at different lines: thread " + text(first->thread) + " at " +
           text(first->place) + ", thread " + text(thread.thread) + " at " + text(thread.place));
    }
  }
  at_barrier_ = 0;
  make_ready(0, count_, [](const Thread& thread) { return thread.state == State::AT_BARRIER; });
}

void Block::meet_lanes(unsigned mask, void* operand, Combine combine, const char* what, Place place) {
  Thread& thread = *running_;
  thread.place = place;
  thread.what = what;
  if (!(mask >> thread.lane & 1)) {
    fail(std::string(what) + " at " + text(place) + ": lane " + std::to_string(thread.lane) +
         " is not in the mask that it gives");
  }
  thread.state = State::IN_WARP;
  thread.mask = mask;
  thread.operand = operand;
  thread.combine = combine;
  warp(thread).waiting |= 1u << thread.lane;
  release_lanes_if_complete(thread);
  run_next(thread, false);
}

// Lanes go on together once all of the mask that have not returned are there.
void Block::release_lanes_if_complete(Thread& first) {
  Warp& lanes = warp(first);
  const unsigned needed = first.mask & lanes.live;
  if ((lanes.waiting & needed) != needed) return;
  const unsigned begin = first.number - first.lane;
  void* operands[WARP] = {};
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if (!(needed >> lane & 1)) continue;
    const Thread& other = threads_[begin + lane];
    if (other.mask != first.mask || other.combine != first.combine || !same(other.place, first.place)) {
      fail("lanes of one mask that call different functions: lane " + std::to_string(first.lane) + " " +
           first.what + " at " + text(first.place) + ", lane " + std::to_string(lane) + " " + other.what +
           " at " + text(other.place) + ", or their masks differ");
    }
    operands[lane] = other.operand;
  }
  const std::string wrong = first.combine ? first.combine(operands, needed) : std::string();
  if (!wrong.empty()) fail(std::string(first.what) + " at " + text(first.place) + ": " + wrong);
  lanes.waiting &= ~needed;
  const auto chosen = [=](const Thread& thread) { return needed >> thread.lane & 1; };
  // A warp that goes on at once runs as far ahead of the others as barriers allow.
  make_ready(begin, begin + WARP, chosen, lanes.runs_ahead);
}

// Threads go on that wait for the end of a barrier's phase.
void Block::release_phase(uint64_t* barrier, unsigned parity) {
  make_ready(0, count_, [=](const Thread& thread) {
    return thread.state == State::AT_PHASE && thread.operand == barrier && thread.mask == parity;
  });
}

template <class Chosen>
void Block::make_ready(unsigned begin, unsigned end, Chosen chosen, bool at_once) {
  unsigned numbers[MAX_THREADS];
  unsigned count = 0;
  for (unsigned i = begin; i < end && i < count_; ++i) {
    if (chosen(threads_[i])) numbers[count++] = i;
  }
  order(numbers, count);
  for (unsigned i = 0; i < count; ++i) threads_[numbers[i]].state = State::READY;
  if (at_once) {
    for (unsigned i = count; i > 0; --i) ready_[--ready_begin_ % MAX_THREADS] = numbers[i - 1];
  } else {
    for (unsigned i = 0; i < count; ++i) ready_[ready_end_++ % MAX_THREADS] = numbers[i];
  }
}

// Never, always, or by chance.
bool Block::draw() {
  switch (Order(request_->order)) {
    case Order::FORWARD:
      return false;
    case Order::REVERSE:
      return true;
    case Order::RANDOM:
      break;
  }
  return next_random(random_) & 1;
}

void Block::order(unsigned* numbers, unsigned count) {
  switch (Order(request_->order)) {
    case Order::FORWARD:
      break;
    case Order::REVERSE:
      for (unsigned i = 0; i < count / 2; ++i) std::swap(numbers[i], numbers[count - 1 - i]);
      break;
    case Order::RANDOM:
      for (unsigned i = count; i > 1; --i) std::swap(numbers[i - 1], numbers[next_random(random_) % i]);
      break;
  }
}

__attribute__((no_sanitize_address)) void Block::run_next(Thread& from, bool forever) {
  while (ready_begin_ == ready_end_ && live_ != 0 && !copies_.empty()) finish_copy(0);
  if (ready_begin_ == ready_end_) {
    if (live_ != 0) report_deadlock();
    check_finished();
    switch_fiber(from.fiber, os_thread_, true);
  }
  Thread& to = threads_[ready_[ready_begin_++ % MAX_THREADS]];
  if (&to == &from) return;
  running_ = &to;
  self = &to;
  switch_fiber(from.fiber, to.fiber, forever);
}

void Block::report_deadlock() {
  std::string reason = "no thread can go on:";
  unsigned returned = 0;
  // One line of the message for each place.
  for (unsigned i = 0; i < count_; ++i) {
    const Thread& first = threads_[i];
    if (first.state == State::RETURNED) {
      ++returned;
      continue;
    }
    unsigned together = 0;
    bool told = false;
    for (unsigned j = 0; j < count_; ++j) {
      const Thread& other = threads_[j];
      if (other.state != first.state || !same(other.place, first.place)) continue;
      told |= j < i;
      ++together;
    }
    if (told) continue;
    reason += "\n  " + std::to_string(together) + " wait in " + first.what + " at " + text(first.place) +
              ", the first is thread " + text(first.thread);
  }
  fail(reason + "\n  " + std::to_string(returned) + " have returned");
}

// Leaves the block for good: no thread of it is resumed, and what their stacks own is lost.
void Block::fail(const std::string& reason) {
  message_ = std::string("kernel ") + kernel_->name + ", block " + text(running_->block) + ": " + reason;
  switch_fiber(running_->fiber, os_thread_, true);
  abort();
}

// Exactly as many bytes as declared, so that AddressSanitizer sees the first access behind them.
void* Block::shared(const void* declaration, size_t bytes) {
  for (const SharedArray& array : shared_) {
    if (array.declaration == declaration) return array.memory;
  }
  void* memory = nullptr;
  if (posix_memalign(&memory, SHARED_ALIGN, bytes) != 0) abort();
  memset(memory, NAN_BYTE, bytes);
  shared_.push_back({declaration, memory, bytes});
  return memory;
}

void* Block::dynamic_shared() {
  static const char declaration = 0;
  return shared(&declaration, request_->shared_bytes);
}

void Block::free_shared() {
  for (const SharedArray& array : shared_) free(array.memory);
  shared_.clear();
}

}  // namespace cuda_host
