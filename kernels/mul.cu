// Products, and affine functions.

POINTWISE(mul) { return in[0] * in[1]; }

POINTWISE(scale) { return k[0] * in[0] + k[1]; }
