// Tensor-core products of a warp, c += a b with f32 sums: the fragments of PTX's mma.sync, row-major A (16 × K) and
// column-major B (K × 8). With g = lane / 4 and t = lane % 4:
//   c[0], c[1]: row g, columns 2 t and 2 t + 1; c[2], c[3]: the same of row g + 8;
//   bf16 (two elements a register, the first in the lower half), K = 16:
//     a[i]: row g + 8 (i % 2), columns 8 (i / 2) + 2 t and the next; b[i]: rows 8 i + 2 t and the next, column g;
//   tf32 (the bits of a float, of which 10 of the mantissa count), K = 8:
//     a[i]: row g + 8 (i % 2), column 4 (i / 2) + t; b[i]: row 4 i + t, column g.
//
// Matrices of 8 × 8 elements of 16 bits come from shared memory by PTX's ldmatrix: lane 8 m + r gives the address of
// row r of matrix m, 16 bytes; register m of lane 4 g + t becomes elements 2 t and 2 t + 1 of row g, transposed of
// column g. So do 8 × 4 elements of 32 bits, which cannot be transposed: element t of row g. Of two matrices, lanes
// from 16 on give an address too, which is not read.
#pragma once

#ifdef CUDA_HOST

template <int COUNT>
inline void load_matrices(unsigned (&to)[COUNT], const void* row, cuda_host::Place place = cuda_host::here()) {
  cuda_host::load_matrices(to, COUNT, row, false, place);
}

template <int COUNT>
inline void load_transposed(unsigned (&to)[COUNT], const void* row, cuda_host::Place place = cuda_host::here()) {
  cuda_host::load_matrices(to, COUNT, row, true, place);
}

// The nearest tf32, ties away from zero.
inline unsigned round_tf32(float x) {
  const unsigned bits = __float_as_uint(x);
  if (x != x) return 0x7fffffff;
  return isinf(x) ? bits : (bits + 0x1000) & 0xffffe000;
}

inline void mma_m16n8k16_bf16(float c[4], const unsigned a[4], const unsigned b[2],
                              cuda_host::Place place = cuda_host::here()) {
  cuda_host::mma_m16n8k16_bf16(c, a, b, place);
}

inline void mma_m16n8k8_tf32(float c[4], const unsigned a[4], const unsigned b[2],
                             cuda_host::Place place = cuda_host::here()) {
  cuda_host::mma_m16n8k8_tf32(c, a, b, place);
}

#else

template <int COUNT>
__device__ __forceinline__ void load_matrices(unsigned (&to)[COUNT], const void* row) {
  const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (COUNT == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
  } else {
    static_assert(COUNT == 2, "two matrices or four");
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "r"(from));
  }
}

template <int COUNT>
__device__ __forceinline__ void load_transposed(unsigned (&to)[COUNT], const void* row) {
  const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (COUNT == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
  } else {
    static_assert(COUNT == 2, "two matrices or four");
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(from));
  }
}

// The nearest tf32, ties away from zero.
__device__ __forceinline__ unsigned round_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ void mma_m16n8k16_bf16(float c[4], const unsigned a[4], const unsigned b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_m16n8k8_tf32(float c[4], const unsigned a[4], const unsigned b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif
