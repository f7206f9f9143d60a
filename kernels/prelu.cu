// PReLU with one learned slope.

// in: x, slope.
POINTWISE(prelu) { return in[0] > 0.f ? in[0] : in[1] * in[0]; }

// in: d_output, x, slope.
POINTWISE(prelu_grad) { return in[1] > 0.f ? in[0] : in[2] * in[0]; }
