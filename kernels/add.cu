// Weighted sums of two tensors.

POINTWISE(add) { return k[0] * in[0] + k[1] * in[1]; }
