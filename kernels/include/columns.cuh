// Sums over the pixels of a group, channel by channel. The pixels of a group are cut into parts, one for each block
// along x; blocks along y have different channels, blocks along z different groups. A second launch adds the parts.
#pragma once

// A thread's channels and pixels. Neighbouring threads have neighbouring channels and, where these end,
// neighbouring pixels.
struct Column {
  // The first of V channels; all of a block's threads with the same lane have the same ones.
  int channel, lane;
  // Pixels, counted over all groups; none where a thread has no channel.
  int begin, end, step;
};

template <class Args>
__device__ __forceinline__ Column column(const Args& a, int channels) {
  const int rows = Args::THREADS / a.lanes, row = threadIdx.x / a.lanes;
  Column at;
  at.lane = threadIdx.x % a.lanes;
  at.channel = (blockIdx.y * a.lanes + at.lane) * Args::V;
  const int group = blockIdx.z * a.group_pixels, first = blockIdx.x * a.part_pixels;
  at.begin = group + first + row;
  at.end = group + min(first + a.part_pixels, a.group_pixels);
  at.step = rows;
  if (row >= rows || at.channel >= channels) at.end = at.begin;
  return at;
}

// The sum over the threads of a block with the same number modulo `lanes`, in each of them. Threads beyond the last
// full row count nothing. All threads of the block must call it.
template <int THREADS, int W, class T>
__device__ void column_sum(T (&v)[W], int lanes) {
  SHARED(T, partial, [W][THREADS]);
  const int row = threadIdx.x / lanes;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < W; ++j) partial[j][threadIdx.x] = v[j];
  for (int rows = THREADS / lanes; rows > 1;) {
    const int half = (rows + 1) / 2;
    __syncthreads();
    if (row + half < rows) {
#pragma unroll
      for (int j = 0; j < W; ++j) partial[j][threadIdx.x] += partial[j][threadIdx.x + half * lanes];
    }
    rows = half;
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < W; ++j) v[j] = partial[j][threadIdx.x % lanes];
}

// Writes the sums of a block's columns as sum `k` of `count` of its part: a.to has rows [group][part][sum].
template <int V, class Args>
__device__ __forceinline__ void store_columns(const Args& a, const Column& at, const float (&sum)[V], int k,
                                              int count) {
  if (threadIdx.x >= a.lanes || at.channel >= a.to.c) return;
  float* to = pixel(a.to, (blockIdx.z * gridDim.x + blockIdx.x) * count + k) + at.channel;
#pragma unroll
  for (int j = 0; j < V; ++j) to[j] = sum[j];
}

// Writes the sum of all threads' sums, divided by a.count: a.to has rows [group][part][block of channels] of one
// number. All threads of the block must call it.
template <int V, class Args>
__device__ void store_total(const Args& a, const float (&sum)[V]) {
  float mine = 0.f;
#pragma unroll
  for (int j = 0; j < V; ++j) mine += sum[j];
  const double total = block_sum<Args::THREADS>(double(mine));
  const int row = (blockIdx.z * gridDim.x + blockIdx.x) * gridDim.y + blockIdx.y;
  if (threadIdx.x == 0) pixel(a.to, row)[0] = float(total / a.count);
}
