// The hyperbolic tangent.

POINTWISE(tanh_of) { return tanhf(in[0]); }

// in: d_output, output.
POINTWISE(tanh_grad) { return in[0] * (1.f - in[1] * in[1]); }
