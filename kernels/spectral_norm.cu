// Spectral normalisation: the factor on a weight is the reciprocal of its largest singular value.

POINTWISE(reciprocal) { return 1.f / in[0]; }

// A vector of length 1, or of eps where it was shorter. One block.
template <class Args>
__device__ void normalize(const Args& a) {
  double sum = 0;
  for (int i = threadIdx.x; i < a.x.c; i += Args::THREADS) sum += double(a.x.ptr[i]) * a.x.ptr[i];
  const double norm = fmax(sqrt(block_sum<Args::THREADS>(sum)), double(a.eps));
  for (int i = threadIdx.x; i < a.x.c; i += Args::THREADS) a.output.ptr[i] = float(a.x.ptr[i] / norm);
}

// A block for each row i of W: u_i times the row's product with v.
template <class Args>
__device__ void sigma_rows(const Args& a) {
  const int i = blockIdx.x;
  const float* row = pixel(a.w, i);
  double sum = 0;
  for (int j = threadIdx.x; j < a.w.c; j += Args::THREADS) sum += double(row[j]) * a.v.ptr[j];
  sum = block_sum<Args::THREADS>(sum);
  if (threadIdx.x == 0) a.partials[i] = a.u.ptr[i] * sum;
}

// One block.
template <class Args>
__device__ void sigma_sum(const Args& a) {
  double sum = 0;
  for (int i = threadIdx.x; i < a.rows; i += Args::THREADS) sum += a.partials[i];
  sum = block_sum<Args::THREADS>(sum);
  if (threadIdx.x == 0) *a.output.ptr = float(sum);
}

// s times u_i times v_j.
template <class Args>
__device__ void outer(const Args& a) {
  const int item = blockIdx.x * Args::THREADS + threadIdx.x;
  if (item >= a.items) return;
  const int i = item / a.output.c, j = item % a.output.c;
  pixel(a.output, i)[j] = a.s.ptr[0] * a.u.ptr[i] * a.v.ptr[j];
}
