// Warp-wide functions. The last lane to arrive does the work of all: it sees the operands of every lane, which
// stay on the lanes' stacks until they go on.
#include <string.h>

#include "block.h"

namespace cuda_host {
namespace {

struct Shuffle {
  uint64_t value;
  unsigned source;
  uint64_t result;
};

struct Vote {
  bool predicate;
  unsigned result;
};

struct Product {
  float* c;
  const unsigned* a;
  const unsigned* b;
};

struct MatrixLoad {
  unsigned* to;
  unsigned count;
  const void* row;
  bool transposed;
};

std::string shuffle_lanes(void* const operands[WARP], unsigned lanes) {
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    Shuffle& to = *static_cast<Shuffle*>(operands[lane]);
    if (to.source >= WARP || !(lanes >> to.source & 1)) {
      return "lane " + std::to_string(lane) + " reads lane " + std::to_string(to.source) +
             ", which is outside of the mask or has returned";
    }
    to.result = static_cast<const Shuffle*>(operands[to.source])->value;
  }
  return {};
}

std::string collect_votes(void* const operands[WARP], unsigned lanes) {
  unsigned votes = 0;
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if ((lanes >> lane & 1) && static_cast<const Vote*>(operands[lane])->predicate) votes |= 1u << lane;
  }
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if (lanes >> lane & 1) static_cast<Vote*>(operands[lane])->result = votes;
  }
  return {};
}

float from_bits(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The two bfloat16 of a register.
float bf16_at(const unsigned* registers, unsigned i, unsigned half) {
  const unsigned bits = registers[i];
  return from_bits(half == 0 ? bits << 16 : bits & 0xffff0000u);
}

// The hardware reads 10 of a float's 23 mantissa bits.
float tf32_at(const unsigned* registers, unsigned i) { return from_bits(registers[i] & 0xffffe000u); }

// A product of 16 × K by K × 8 elements, k in rising order. The GPU's own order of this sum is not documented.
// c[0], c[1] of lane 4 g + t are row g, columns 2 t and 2 t + 1; c[2], c[3] the same of row g + 8.
template <unsigned K>
void multiply(void* const operands[WARP], const float (&a)[16][K], const float (&b)[K][8]) {
  for (unsigned lane = 0; lane < WARP; ++lane) {
    float* c = static_cast<const Product*>(operands[lane])->c;
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      for (unsigned k = 0; k < K; ++k) c[i] += a[row][k] * b[k][column];
    }
  }
}

const char* const NEEDS_A_WARP = "a tensor-core product needs all 32 lanes";

// Register i of lane 4 g + t holds of A row g + 8 (i % 2), columns 8 (i / 2) + 2 t and the next; of B rows
// 8 i + 2 t and the next, column g.
std::string multiply_bf16(void* const operands[WARP], unsigned lanes) {
  if (lanes != ALL_LANES) return NEEDS_A_WARP;
  float a[16][16], b[16][8];
  for (unsigned lane = 0; lane < WARP; ++lane) {
    const Product& product = *static_cast<const Product*>(operands[lane]);
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned half = 0; half < 2; ++half) {
      for (unsigned i = 0; i < 4; ++i) a[g + 8 * (i % 2)][8 * (i / 2) + 2 * t + half] = bf16_at(product.a, i, half);
      for (unsigned i = 0; i < 2; ++i) b[8 * i + 2 * t + half][g] = bf16_at(product.b, i, half);
    }
  }
  multiply<16>(operands, a, b);
  return {};
}

// Register i of lane 4 g + t holds of A row g + 8 (i % 2), column 4 (i / 2) + t; of B row 4 i + t, column g.
std::string multiply_tf32(void* const operands[WARP], unsigned lanes) {
  if (lanes != ALL_LANES) return NEEDS_A_WARP;
  float a[16][8], b[8][8];
  for (unsigned lane = 0; lane < WARP; ++lane) {
    const Product& product = *static_cast<const Product*>(operands[lane]);
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; ++i) a[g + 8 * (i % 2)][4 * (i / 2) + t] = tf32_at(product.a, i);
    for (unsigned i = 0; i < 2; ++i) b[4 * i + t][g] = tf32_at(product.b, i);
  }
  multiply<8>(operands, a, b);
  return {};
}

// Register m of lane 4 g + t gets elements 2 t and 2 t + 1 of row g of matrix m, or of column g.
std::string copy_matrices(void* const operands[WARP], unsigned lanes) {
  if (lanes != ALL_LANES) return "loading matrices needs all 32 lanes";
  const auto load = [&](unsigned lane) -> const MatrixLoad& { return *static_cast<const MatrixLoad*>(operands[lane]); };
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if (uintptr_t(load(lane).row) % 16 != 0) return "an address that is not a multiple of 16";
  }
  for (unsigned lane = 0; lane < WARP; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned m = 0; m < load(lane).count; ++m) {
      for (unsigned half = 0; half < 2; ++half) {
        const unsigned row = load(lane).transposed ? 2 * t + half : g, column = load(lane).transposed ? g : 2 * t + half;
        char* to = reinterpret_cast<char*>(&load(lane).to[m]) + 2 * half;
        memcpy(to, static_cast<const char*>(load(8 * m + row).row) + 2 * column, 2);
      }
    }
  }
  return {};
}

}  // namespace

void sync_warp(unsigned mask, Place place) {
  Block::current().meet_lanes(mask, nullptr, nullptr, "__syncwarp", place);
}

uint64_t shuffle(uint64_t value, unsigned source, unsigned mask, const char* what, Place place) {
  Shuffle operand = {value, source, 0};
  Block::current().meet_lanes(mask, &operand, shuffle_lanes, what, place);
  return operand.result;
}

unsigned ballot(bool predicate, unsigned mask, const char* what, Place place) {
  Vote operand = {predicate, 0};
  Block::current().meet_lanes(mask, &operand, collect_votes, what, place);
  return operand.result;
}

void mma_m16n8k16_bf16(float c[4], const unsigned a[4], const unsigned b[2], Place place) {
  Product operand = {c, a, b};
  Block::current().meet_lanes(ALL_LANES, &operand, multiply_bf16, "mma_m16n8k16_bf16", place);
}

void mma_m16n8k8_tf32(float c[4], const unsigned a[4], const unsigned b[2], Place place) {
  Product operand = {c, a, b};
  Block::current().meet_lanes(ALL_LANES, &operand, multiply_tf32, "mma_m16n8k8_tf32", place);
}

void load_matrices(unsigned* to, unsigned count, const void* row, bool transposed, Place place) {
  MatrixLoad operand = {to, count, row, transposed};
  const char* what = transposed ? "load_transposed" : "load_matrices";
  Block::current().meet_lanes(ALL_LANES, &operand, copy_matrices, what, place);
}

}  // namespace cuda_host
