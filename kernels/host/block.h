// A block on an OS thread: its CUDA threads are fibers that run one at a time, each until it waits.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "runtime.h"

namespace cuda_host {

// Works on the operands of the lanes that meet, null for the others. Returns what is wrong, or an empty string.
using Combine = std::string (*)(void* const operands[WARP], unsigned lanes);

enum class Order : uint32_t { FORWARD, REVERSE, RANDOM };

enum class State : uint8_t { READY, AT_BARRIER, IN_WARP, AT_PHASE, RETURNED };

// A copy that is issued and not yet done; from nowhere, zeros.
struct AsyncCopy {
  void* to;
  const void* from;
  unsigned bytes, group;
};

struct Thread : Coordinates {
  Fiber fiber;
  unsigned number;
  State state;
  // Where it waits, and in what.
  Place place;
  const char* what;
  unsigned mask;
  void* operand;
  Combine combine;
  // Its asynchronous copies in the order of their groups, and the number of groups so far.
  std::vector<AsyncCopy> copies;
  unsigned groups;
};

// Products of a warp that are issued and not yet done, each of 32 lanes.
struct QueuedProduct {
  GroupProduct lanes[WARP];
  unsigned group;
};

struct Warp {
  // Lanes that wait in a warp-wide function, and lanes that have not returned.
  unsigned waiting, live;
  // Its products in the order of their groups, the number of groups so far, and of products.
  std::vector<QueuedProduct> products;
  unsigned groups, issued;
  // Whether its products wait for somebody who needs them, and whether it runs ahead of other warps.
  bool products_late, runs_ahead;
};

struct SharedArray {
  const void* declaration;
  void* memory;
  size_t bytes;
};

class Block {
 public:
  Block();
  ~Block();
  Block(const Block&) = delete;

  // Runs block number `index` of the grid. False if it failed; `message` says why.
  bool run(const Kernel& kernel, const Request& request, const void* args, uint64_t index);
  // Gives back the shared memory of a launch.
  void free_shared();
  size_t dynamic_shared_bytes() const { return request_->shared_bytes; }
  const std::string& message() const { return message_; }

  // What the running thread calls.
  void wait_at_barrier(Place place);
  void meet_lanes(unsigned mask, void* operand, Combine combine, const char* what, Place place);
  void* shared(const void* declaration, size_t bytes);
  void* dynamic_shared();
  void arrive(uint64_t* barrier, unsigned bytes, Place place);
  void wait_for_phase(uint64_t* barrier, unsigned parity, Place place);
  void start_copy(const BoxCopy& copy, Place place);
  void queue_product(void* const operands[WARP]);
  void commit_products();
  void finish_products(unsigned groups_left);
  [[noreturn]] void fail(const std::string& reason);
  Thread& running() { return *running_; }

  // The block that runs on this OS thread.
  static Block& current();

 private:
  static void enter();

  void start_threads(uint64_t index);
  void return_from_kernel();
  [[noreturn]] void report_deadlock();
  void open_barrier_if_complete();
  void release_lanes_if_complete(Thread& first);
  void run_next(Thread& from, bool forever);
  template <class Chosen>
  void make_ready(unsigned begin, unsigned end, Chosen chosen, bool at_once = false);
  void order(unsigned* numbers, unsigned count);
  bool draw();
  void finish_copy(size_t index);
  void open_phase_if_complete(uint64_t* barrier);
  void release_phase(uint64_t* barrier, unsigned parity);
  void multiply(const QueuedProduct& product, unsigned warp_of_group);
  void check_finished();
  Warp& warp(const Thread& thread) { return warps_[thread.number / WARP]; }

  const Kernel* kernel_ = nullptr;
  const Request* request_ = nullptr;
  const void* args_ = nullptr;
  uint64_t random_ = 0;
  unsigned count_ = 0;
  unsigned live_ = 0;
  unsigned at_barrier_ = 0;
  Thread* running_ = nullptr;
  Fiber os_thread_ = {};
  char* stacks_;
  std::unique_ptr<Thread[]> threads_;
  Warp warps_[MAX_THREADS / WARP];
  // Ready threads: a ring, each thread in it at most once.
  unsigned ready_[MAX_THREADS];
  unsigned ready_begin_ = 0, ready_end_ = 0;
  std::vector<SharedArray> shared_;
  // Copies of boxes that are started and not yet done.
  std::vector<BoxCopy> copies_;
  bool copies_late_ = false;
  std::string message_;
};

std::string text(Place place);

}  // namespace cuda_host
