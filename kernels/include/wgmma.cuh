// Tensor-core products of a warpgroup (four warps, the first a multiple of four) on Hopper, d += a b with f32 sums: PTX's
// wgmma.mma_async of bf16, A (64 × 16) and B (16 × WIDTH) in shared memory. With g = lane / 4 and t = lane % 4 warp w of
// the group has rows 16 w to 16 w + 15 of d: d[4 j], d[4 j + 1] are row g, columns 8 j + 2 t and the next, d[4 j + 2],
// d[4 j + 3] the same of row g + 8.
//
// An operand (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout") is K-major, if K runs along what is
// contiguous, or MN-major, if rows of A or columns of B do. It lies in one of two forms:
// - not swizzled: core matrices of 8 by 16 bytes, 128 bytes that follow each other, which may begin at any multiple of 16
//   bytes. They repeat at one stride along K and at another along rows (columns). In the descriptor the former is the
//   "leading" one and the latter the "stride" one, whichever runs along 16 bytes.
// - swizzled: rows of 32, 64 or 128 bytes at multiples of eight rows' size, in groups of 8 that repeat at one stride; the
//   chunks of 16 bytes are permuted within rows, as the copy engine writes them. K-major operands may begin within the
//   row, at a multiple of 32 bytes.
//
// Products are asynchronous: neither d nor the operands may be touched between the product and the wait for its group.
#pragma once

#ifdef CUDA_HOST

inline uint64_t shared_address(const void* at) { return cuda_host::shared_offset(at); }
inline void wgmma_fence() {}
inline void wgmma_commit(cuda_host::Place place = cuda_host::here()) { cuda_host::wgmma_commit(place); }
template <int GROUPS>
inline void wgmma_wait(cuda_host::Place place = cuda_host::here()) {
  cuda_host::wgmma_wait(GROUPS, place);
}
template <int COUNT>
inline void fence_registers(float (&)[COUNT]) {}
template <int WIDTH, bool A_MN_MAJOR, bool B_MN_MAJOR>
inline void wgmma(float (&d)[WIDTH / 2], uint64_t a, uint64_t b, cuda_host::Place place = cuda_host::here()) {
  cuda_host::wgmma({d, WIDTH, a, b, A_MN_MAJOR, B_MN_MAJOR}, place);
}

#else

__device__ __forceinline__ unsigned shared_address(const void* at) {
  return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

// Before the first product, and before one whose d was changed by other instructions.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Makes one group of the warp's products since the last commit.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most GROUPS of the warp's groups, the latest, are not done.
template <int GROUPS>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}

// Keeps the compiler from moving reads and writes of registers across.
template <int COUNT>
__device__ __forceinline__ void fence_registers(float (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

template <int WIDTH, bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma;

template <int WIDTH, bool A_MN_MAJOR, bool B_MN_MAJOR>
__device__ __forceinline__ void wgmma(float (&d)[WIDTH / 2], uint64_t a, uint64_t b) {
  Wgmma<WIDTH, A_MN_MAJOR, B_MN_MAJOR>::multiply(d, a, b);
}

// As many registers as PTX names them, and the sums that they are.
#define PTX_REGISTERS_4 \
  "%0, %1, %2, %3"
#define PTX_REGISTERS_8 \
  PTX_REGISTERS_4 \
  ", %4, %5, %6, %7"
#define PTX_REGISTERS_16 \
  PTX_REGISTERS_8 \
  ", %8, %9, %10, %11, %12, %13, %14, %15"
#define PTX_REGISTERS_32 \
  PTX_REGISTERS_16 \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PTX_REGISTERS_64 \
  PTX_REGISTERS_32 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51" \
  ", %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PTX_REGISTERS_128 \
  PTX_REGISTERS_64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83" \
  ", %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102" \
  ", %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118" \
  ", %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SUMS_4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define SUMS_8(i) SUMS_4(i), SUMS_4((i) + 4)
#define SUMS_16(i) SUMS_8(i), SUMS_8((i) + 8)
#define SUMS_32(i) SUMS_16(i), SUMS_16((i) + 16)
#define SUMS_64(i) SUMS_32(i), SUMS_32((i) + 32)
#define SUMS_128(i) SUMS_64(i), SUMS_64((i) + 64)

// A and B follow the registers, then which of them are MN-major.
#define WGMMA(WIDTH, COUNT, A, B, A_MAJOR, B_MAJOR)                                                         \
  template <bool A_MN_MAJOR, bool B_MN_MAJOR>                                                               \
  struct Wgmma<WIDTH, A_MN_MAJOR, B_MN_MAJOR> {                                                             \
    __device__ __forceinline__ static void multiply(float (&d)[COUNT], uint64_t a, uint64_t b) {            \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #WIDTH "k16.f32.bf16.bf16 {" PTX_REGISTERS_##COUNT   \
                   "}, %" #A ", %" #B ", 1, 1, 1, %" #A_MAJOR ", %" #B_MAJOR ";"                            \
                   : SUMS_##COUNT(0)                                                                        \
                   : "l"(a), "l"(b), "n"(int(A_MN_MAJOR)), "n"(int(B_MN_MAJOR)));                           \
    }                                                                                                       \
  };

WGMMA(8, 4, 4, 5, 6, 7)
WGMMA(16, 8, 8, 9, 10, 11)
WGMMA(32, 16, 16, 17, 18, 19)
WGMMA(64, 32, 32, 33, 34, 35)
WGMMA(128, 64, 64, 65, 66, 67)
WGMMA(256, 128, 128, 129, 130, 131)

#endif

// The descriptor of an operand that is not swizzled: bytes from core matrix to core matrix along K, and along rows (of A)
// or columns (of B).
__device__ __forceinline__ uint64_t matrix_descriptor(const void* start, int k_stride, int mn_stride) {
  return uint64_t(shared_address(start) >> 4 & 0x3fff) | uint64_t(k_stride >> 4) << 16 | uint64_t(mn_stride >> 4) << 32;
}

// The descriptor of an operand in swizzled rows of ROW_BYTES, one row wide: bytes from a group of 8 rows to the next.
template <int ROW_BYTES>
__device__ __forceinline__ uint64_t swizzled_descriptor(const void* start, int stride) {
  static_assert(ROW_BYTES == 32 || ROW_BYTES == 64 || ROW_BYTES == 128, "rows that hardware swizzles");
  constexpr uint64_t MODE = ROW_BYTES == 128 ? 1 : ROW_BYTES == 64 ? 2 : 3;
  return uint64_t(shared_address(start) >> 4 & 0x3fff) | uint64_t(1) << 16 | uint64_t(stride >> 4) << 32 | MODE << 62;
}
