// What a rank brings to an exchange with the others: the operand, a vector, in every row of the output.

template <class Args>
__device__ void rank_mean_rows(const Args& a) {
  const int i = blockIdx.x * Args::THREADS + threadIdx.x;
  if (i < a.items) pixel(a.to, i / a.to.c)[i % a.to.c] = pixel(a.x, 0)[i % a.to.c];
}
