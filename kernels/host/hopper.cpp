// What only Hopper has: barriers that count bytes, the engine that copies boxes of tensors, and products of warpgroups.
// All of it is asynchronous. Done as early as it may be, it finds memory that is overwritten while it is still read; as
// late as it may be, memory that is read before it is there.
#include <string.h>

#include "block.h"

namespace cuda_host {
namespace {

// A barrier's 64 bits.
struct Phase {
  uint16_t arrivals, pending : 15, parity : 1;
  int32_t bytes;
};
static_assert(sizeof(Phase) == sizeof(uint64_t), "a barrier is 64 bits");

Phase& phase(uint64_t* barrier) { return *reinterpret_cast<Phase*>(barrier); }

constexpr unsigned AXES = 5, CORE = 8, DEPTH = 16, ROWS = 16, GROUP_WARPS = 4;
constexpr size_t ELEMENT = 2;

float bf16_at(const char* at) {
  uint16_t half;
  memcpy(&half, at, sizeof half);
  const uint32_t bits = uint32_t(half) << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Where the chunk of 16 bytes lies that would be at `at` in rows of `span` bytes: its number within a row is permuted by
// the row's, and rows lie at multiples of their size.
uint64_t swizzled(uint64_t at, uint64_t span) {
  return span == 0 ? at : at ^ (at >> 7 & (span / 16 - 1)) << 4;
}

// Bytes of a row by a descriptor's bits 62 and 63.
constexpr uint64_t SPANS[4] = {0, 128, 64, 32};

// Where an element of an operand lies in shared memory, as its descriptor says. Without swizzling one stride is along
// K, the other along M or N. With it an operand is one row wide, but that K may begin within the row, and the stride is
// that of groups of 8 rows.
uint64_t place(uint64_t descriptor, bool mn_major, unsigned row, unsigned k) {
  const uint64_t first = (descriptor & 0x3fff) << 4;
  const uint64_t leading = (descriptor >> 16 & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  const uint64_t span = SPANS[descriptor >> 62];
  const unsigned along = mn_major ? row : k, across = mn_major ? k : row;
  if (span != 0) return swizzled(first + across / CORE * stride + across % CORE * span + along * ELEMENT, span);
  const uint64_t within = across % CORE * 16 + along % CORE * ELEMENT;
  return first + row / CORE * stride + k / CORE * leading + within;
}

std::string queue(void* const operands[WARP], unsigned lanes) {
  if (lanes != ALL_LANES) return "a tensor-core product needs all 32 lanes";
  Block::current().queue_product(operands);
  return {};
}

std::string commit(void* const[WARP], unsigned) {
  Block::current().commit_products();
  return {};
}

std::string finish(void* const operands[WARP], unsigned) {
  Block::current().finish_products(*static_cast<const unsigned*>(operands[0]));
  return {};
}

}  // namespace

void Block::arrive(uint64_t* barrier, unsigned bytes, Place place) {
  Phase& now = phase(barrier);
  if (now.pending == 0) fail("barrier_arrive at " + text(place) + ": more arrivals than the barrier was made for");
  --now.pending;
  now.bytes += int32_t(bytes);
  open_phase_if_complete(barrier);
}

void Block::open_phase_if_complete(uint64_t* barrier) {
  Phase& now = phase(barrier);
  if (now.pending != 0 || now.bytes != 0) return;
  const unsigned ended = now.parity;
  now.pending = now.arrivals;
  now.parity ^= 1;
  release_phase(barrier, ended);
}

void Block::wait_for_phase(uint64_t* barrier, unsigned parity, Place place) {
  if (phase(barrier).parity != parity) return;
  Thread& thread = *running_;
  thread.state = State::AT_PHASE;
  thread.place = place;
  thread.what = "barrier_wait";
  thread.operand = barrier;
  thread.mask = parity;
  run_next(thread, false);
}

void Block::start_copy(const BoxCopy& copy, Place place) {
  if (uintptr_t(copy.to) % 128 != 0 || copy.from->ptr % 16 != 0) {
    fail("copy_box at " + text(place) + ": an address that is not a multiple of 128 (shared) or 16 (global)");
  }
  for (unsigned axis = 0; axis < AXES; ++axis) {
    const uint64_t step = copy.from->steps[axis], length = (copy.from->box[axis] - 1) * step + 1;
    const bool fits = copy.from->box[axis] >= 1 && length <= 256 && step >= 1 && step <= (axis == 0 ? 1 : 8);
    const uint64_t row = copy.from->box[0] * ELEMENT, swizzle = copy.from->swizzle;
    const bool has_rows = row % 16 == 0 && (swizzle == 0 || swizzle == row);
    if (!fits || !has_rows || (axis > 0 && copy.from->strides[axis - 1] * ELEMENT % 16 != 0)) {
      fail("copy_box at " + text(place) + ": a tensor map that no driver encodes");
    }
  }
  copies_.push_back(copy);
  if (!copies_late_) finish_copy(copies_.size() - 1);
}

void Block::finish_copy(size_t index) {
  const BoxCopy copy = copies_[index];
  copies_.erase(copies_.begin() + ptrdiff_t(index));
  const Tensor& from = *copy.from;
  const uint64_t* box = from.box;
  char* const memory = static_cast<char*>(dynamic_shared());
  const uint64_t first = uint64_t(static_cast<char*>(copy.to) - memory);
  const uint64_t elements = box[0] * box[1] * box[2] * box[3] * box[4];
  if (first + elements * ELEMENT > dynamic_shared_bytes()) fail("copy_box: a box outside of the dynamic shared memory");
  for (uint64_t i = 0; i < elements; ++i) {
    char* to = memory + swizzled(first + i * ELEMENT, from.swizzle);
    uint64_t rest = i, offset = 0;
    bool inside = true;
    for (unsigned axis = 0; axis < AXES; ++axis) {
      const int64_t at = copy.at[axis] + int64_t(rest % box[axis] * from.steps[axis]);
      rest /= box[axis];
      inside = inside && at >= 0 && at < int64_t(from.extents[axis]);
      offset += uint64_t(at) * (axis == 0 ? 1 : from.strides[axis - 1]);
    }
    if (inside) {
      memcpy(to, reinterpret_cast<const char*>(from.ptr) + offset * ELEMENT, ELEMENT);
    } else {
      memset(to, 0, ELEMENT);
    }
  }
  phase(copy.barrier).bytes -= int32_t(elements * ELEMENT);
  open_phase_if_complete(copy.barrier);
}

void Block::queue_product(void* const operands[WARP]) {
  Warp& lanes = warp(*running_);
  QueuedProduct product;
  product.group = lanes.groups;
  for (unsigned lane = 0; lane < WARP; ++lane) product.lanes[lane] = *static_cast<const GroupProduct*>(operands[lane]);
  lanes.products.push_back(product);
  ++lanes.issued;
  if (lanes.products_late) return;
  for (const QueuedProduct& early : lanes.products) multiply(early, running_->number / WARP % GROUP_WARPS);
  lanes.products.clear();
}

void Block::commit_products() { ++warp(*running_).groups; }

void Block::finish_products(unsigned groups_left) {
  Warp& lanes = warp(*running_);
  size_t done = 0;
  for (; done < lanes.products.size() && lanes.products[done].group + groups_left < lanes.groups; ++done) {
    multiply(lanes.products[done], running_->number / WARP % GROUP_WARPS);
  }
  lanes.products.erase(lanes.products.begin(), lanes.products.begin() + ptrdiff_t(done));
}

// The warp's 16 rows of the group's product, k in rising order.
void Block::multiply(const QueuedProduct& product, unsigned warp_of_group) {
  const GroupProduct& all = product.lanes[0];
  const char* memory = static_cast<const char*>(dynamic_shared());
  const auto element = [&](uint64_t descriptor, bool mn_major, unsigned row, unsigned k) {
    const uint64_t at = place(descriptor, mn_major, row, k);
    if (at + ELEMENT > dynamic_shared_bytes()) fail("wgmma: an operand outside of the block's dynamic shared memory");
    return bf16_at(memory + at);
  };
  float a[ROWS][DEPTH];
  for (unsigned row = 0; row < ROWS; ++row) {
    for (unsigned k = 0; k < DEPTH; ++k) a[row][k] = element(all.a, all.a_mn_major, warp_of_group * ROWS + row, k);
  }
  for (unsigned column = 0; column < all.width; ++column) {
    float b[DEPTH];
    for (unsigned k = 0; k < DEPTH; ++k) b[k] = element(all.b, all.b_mn_major, column, k);
    for (unsigned row = 0; row < ROWS; ++row) {
      float* d = product.lanes[row % CORE * 4 + column % CORE / 2].d + column / CORE * 4 + row / CORE * 2 + column % 2;
      for (unsigned k = 0; k < DEPTH; ++k) *d += a[row][k] * b[k];
    }
  }
}

// Fails if a block that has returned has left something undone.
void Block::check_finished() {
  if (!copies_.empty()) fail("a copy that nobody waited for");
  for (unsigned first = 0; first * WARP < count_; first += GROUP_WARPS) {
    for (unsigned i = first; i < first + GROUP_WARPS && i * WARP < count_; ++i) {
      if (!warps_[i].products.empty()) fail("a product that nobody waited for");
      if (warps_[i].issued != warps_[first].issued) fail("products that not all warps of a warpgroup took part in");
    }
  }
}

void barrier_init(uint64_t* barrier, unsigned arrivals) {
  phase(barrier) = {uint16_t(arrivals), uint16_t(arrivals), 0, 0};
}

void barrier_arrive(uint64_t* barrier, unsigned bytes, Place place) {
  Block::current().arrive(barrier, bytes, place);
}

void barrier_wait(uint64_t* barrier, unsigned parity, Place place) {
  Block::current().wait_for_phase(barrier, parity, place);
}

void copy_box(const BoxCopy& copy, Place place) { Block::current().start_copy(copy, place); }

uint64_t shared_offset(const void* at) {
  return uint64_t(static_cast<const char*>(at) - static_cast<const char*>(Block::current().dynamic_shared()));
}

void wgmma(const GroupProduct& product, Place place) {
  GroupProduct operand = product;
  Block::current().meet_lanes(ALL_LANES, &operand, queue, "wgmma", place);
}

void wgmma_commit(Place place) { Block::current().meet_lanes(ALL_LANES, nullptr, commit, "wgmma_commit", place); }

void wgmma_wait(unsigned groups_left, Place place) {
  Block::current().meet_lanes(ALL_LANES, &groups_left, finish, "wgmma_wait", place);
}

}  // namespace cuda_host
