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

template <bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma<8, A_MN_MAJOR, B_MN_MAJOR> {
  __device__ __forceinline__ static void multiply(float (&d)[4], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3}, "
        "%4, %5, 1, 1, 1, %6, %7;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "l"(a), "l"(b), "n"(int(A_MN_MAJOR)), "n"(int(B_MN_MAJOR)));
  }
};

template <bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma<16, A_MN_MAJOR, B_MN_MAJOR> {
  __device__ __forceinline__ static void multiply(float (&d)[8], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7}, "
        "%8, %9, 1, 1, 1, %10, %11;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
        : "l"(a), "l"(b), "n"(int(A_MN_MAJOR)), "n"(int(B_MN_MAJOR)));
  }
};

template <bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma<32, A_MN_MAJOR, B_MN_MAJOR> {
  __device__ __forceinline__ static void multiply(float (&d)[16], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "%16, %17, 1, 1, 1, %18, %19;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
        : "l"(a), "l"(b), "n"(int(A_MN_MAJOR)), "n"(int(B_MN_MAJOR)));
  }
};

template <bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma<64, A_MN_MAJOR, B_MN_MAJOR> {
  __device__ __forceinline__ static void multiply(float (&d)[32], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, 1, 1, 1, %34, %35;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "n"(int(A_MN_MAJOR)), "n"(int(B_MN_MAJOR)));
  }
};

template <bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma<128, A_MN_MAJOR, B_MN_MAJOR> {
  __device__ __forceinline__ static void multiply(float (&d)[64], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63}, "
        "%64, %65, 1, 1, 1, %66, %67;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]),
          "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),
          "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
          "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
          "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "n"(int(A_MN_MAJOR)), "n"(int(B_MN_MAJOR)));
  }
};

template <bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma<256, A_MN_MAJOR, B_MN_MAJOR> {
  __device__ __forceinline__ static void multiply(float (&d)[128], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
        "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, "
        "%101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "
        "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "%128, %129, 1, 1, 1, %130, %131;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]),
          "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),
          "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
          "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
          "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]),
          "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), "+f"(d[72]),
          "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]),
          "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]),
          "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]),
          "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
          "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]),
          "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]),
          "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]),
          "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
        : "l"(a), "l"(b), "n"(int(A_MN_MAJOR)), "n"(int(B_MN_MAJOR)));
  }
};

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
