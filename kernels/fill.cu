// Pseudo-random memory: every word is two bf16, and also one float, of magnitudes from 1/2 to 2 and either sign.

// A bijection of 32 bits in which every bit depends on every other: lowbias32 of C. Wellons, "Prospecting for Hash
// Functions", 2018.
__device__ __forceinline__ unsigned mixed(unsigned x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// Words from `to` up to `end`. A word depends on its distance from `base` alone, so that regions may overlap. No size
// is an argument: one build serves every region.
template <class Args>
__device__ void fill(const Args& a) {
  const size_t step = size_t(gridDim.x) * Args::THREADS;
  for (size_t i = size_t(blockIdx.x) * Args::THREADS + threadIdx.x; i < size_t(a.end - a.to); i += step) {
    const size_t at = size_t(a.to - a.base) + i;
    const unsigned bits = mixed(unsigned(at) + mixed(unsigned(at >> 32) + 1u));
    // Kept of each half: the sign, the exponent's lowest bit, the fraction.
    a.to[i] = (bits & 0x80ff80ffu) | 0x3f003f00u;
  }
}
