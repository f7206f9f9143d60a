// Tensor-core products of a warp, c += a b with f32 sums: the fragments of PTX's mma.sync, row-major A (16 × K) and
// column-major B (K × 8). With g = lane / 4 and t = lane % 4:
//   c[0], c[1]: row g, columns 2 t and 2 t + 1; c[2], c[3]: the same of row g + 8;
//   bf16 (two elements a register, the first in the lower half), K = 16:
//     a[i]: row g + 8 (i % 2), columns 8 (i / 2) + 2 t and the next; b[i]: rows 8 i + 2 t and the next, column g;
//   tf32 (the bits of a float, of which 10 of the mantissa count), K = 8:
//     a[i]: row g + 8 (i % 2), column 4 (i / 2) + t; b[i]: row 4 i + t, column g.
#pragma once

#ifdef CUDA_HOST

inline void mma_m16n8k16_bf16(float c[4], const unsigned a[4], const unsigned b[2],
                              cuda_host::Place place = cuda_host::here()) {
  cuda_host::mma_m16n8k16_bf16(c, a, b, place);
}

inline void mma_m16n8k8_tf32(float c[4], const unsigned a[4], const unsigned b[2],
                             cuda_host::Place place = cuda_host::here()) {
  cuda_host::mma_m16n8k8_tf32(c, a, b, place);
}

#else

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
