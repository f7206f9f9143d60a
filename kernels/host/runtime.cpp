// Launches: blocks over OS threads, and the functions that the running block serves.
#include "runtime.h"

#include <string.h>

#include <atomic>
#include <cstddef>
#include <mutex>
#include <thread>

#include "block.h"

namespace cuda_host {
namespace {

// Blocks are kept from launch to launch, for their stacks.
std::mutex idle_mutex;
std::vector<std::unique_ptr<Block>> idle;

std::unique_ptr<Block> take_block() {
  std::lock_guard<std::mutex> lock(idle_mutex);
  if (idle.empty()) return std::unique_ptr<Block>(new Block);
  std::unique_ptr<Block> block = std::move(idle.back());
  idle.pop_back();
  return block;
}

void give_back(std::unique_ptr<Block> block) {
  block->free_shared();
  std::lock_guard<std::mutex> lock(idle_mutex);
  idle.push_back(std::move(block));
}

// The grid of one launch, worked on by several OS threads.
class Grid {
 public:
  Grid(const Kernel& kernel, const Request& request)
      : kernel_(kernel),
        request_(request),
        args_((request.args_bytes + sizeof(Chunk) - 1) / sizeof(Chunk)),
        blocks_(uint64_t(request.grid[0]) * request.grid[1] * request.grid[2]) {
    memcpy(args_.data(), request.args, request.args_bytes);
  }

  std::string run() {
    std::vector<std::thread> helpers;
    for (uint64_t i = 1; i < request_.os_threads && i < blocks_; ++i) {
      helpers.emplace_back([this] { work(); });
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    return message_;
  }

 private:
  void work() {
    std::unique_ptr<Block> block = take_block();
    for (uint64_t index; !failed_ && (index = next_++) < blocks_;) {
      if (block->run(kernel_, request_, args_.data(), index)) continue;
      failed_ = true;
      std::lock_guard<std::mutex> lock(mutex_);
      // All blocks before a failed one have been started: the first failure is the same on any number of threads.
      if (message_.empty() || index < failed_index_) {
        failed_index_ = index;
        message_ = block->message();
      }
    }
    give_back(std::move(block));
  }

  const Kernel& kernel_;
  const Request& request_;
  // Aligned as arguments may have to be.
  struct alignas(128) Chunk {
    char bytes[128];
  };
  std::vector<Chunk> args_;
  const uint64_t blocks_;
  std::atomic<uint64_t> next_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  uint64_t failed_index_ = 0;
  std::string message_;
};

std::string check(const Kernel& kernel, const Request& request) {
  constexpr uint64_t MAX_GRID[3] = {0x7fffffff, 65535, 65535};
  constexpr uint64_t MAX_BLOCK[3] = {1024, 1024, 64};
  constexpr unsigned MAX_SHARED = 227 << 10;
  uint64_t threads = 1;
  for (int axis = 0; axis < 3; ++axis) {
    if (request.grid[axis] == 0 || request.grid[axis] > MAX_GRID[axis]) return "a grid of a size that no GPU has";
    if (request.block[axis] == 0 || request.block[axis] > MAX_BLOCK[axis]) return "a block of a size that no GPU has";
    threads *= request.block[axis];
  }
  if (threads > kernel.threads || threads > MAX_THREADS) {
    return std::to_string(threads) + " threads a block, declared for " + std::to_string(kernel.threads);
  }
  if (request.args_bytes != kernel.args_bytes) {
    return std::to_string(request.args_bytes) + " bytes of arguments for a struct of " +
           std::to_string(kernel.args_bytes);
  }
  if (request.shared_bytes > MAX_SHARED) return "more dynamic shared memory than the 227 KiB of an H100";
  return {};
}

}  // namespace

bool launch(const Kernel& kernel, const Request& request) {
  std::string message = check(kernel, request);
  if (!message.empty()) {
    message = std::string("kernel ") + kernel.name + ": " + message;
  } else {
    message = Grid(kernel, request).run();
  }
  strncpy(request.message, message.c_str(), request.message_bytes - 1);
  request.message[request.message_bytes - 1] = 0;
  return message.empty();
}

void sync_block(Place place) { Block::current().wait_at_barrier(place); }

void* shared_memory(const void* declaration, size_t bytes) { return Block::current().shared(declaration, bytes); }

void* dynamic_shared_memory() { return Block::current().dynamic_shared(); }

void copy_async(void* shared, const void* global, unsigned bytes, bool valid, Place place) {
  Block& block = Block::current();
  if (uintptr_t(shared) % bytes != 0 || uintptr_t(global) % bytes != 0) {
    block.fail("copy_async at " + text(place) + ": an address that is not a multiple of " + std::to_string(bytes));
  }
  Thread& thread = block.running();
  thread.copies.push_back({shared, valid ? global : nullptr, bytes, thread.groups});
}

void copy_async_commit() { ++Block::current().running().groups; }

void copy_async_wait(unsigned groups_left) {
  Thread& thread = Block::current().running();
  size_t done = 0;
  for (; done < thread.copies.size(); ++done) {
    const AsyncCopy& copy = thread.copies[done];
    if (copy.group + groups_left >= thread.groups) break;
    if (copy.from) {
      memcpy(copy.to, copy.from, copy.bytes);
    } else {
      memset(copy.to, 0, copy.bytes);
    }
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + ptrdiff_t(done));
}

}  // namespace cuda_host
