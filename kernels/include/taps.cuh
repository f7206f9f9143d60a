// Which sources the results of a convolution are sums of.
#pragma once

// The source row (or column) of result r under tap k, or -1.
template <class Args>
__device__ __forceinline__ int source_index(const Args& a, int r, int k, int extent) {
  if constexpr (Args::TRANSPOSED) {
    const int s = r + a.pad - k * a.dilation;
    return s >= 0 && s % a.stride == 0 && s / a.stride < extent ? s / a.stride : -1;
  } else {
    const int s = r * a.stride + k * a.dilation - a.pad;
    return s >= 0 && s < extent ? s : -1;
  }
}
