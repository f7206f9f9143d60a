// The logistic function.

POINTWISE(sigmoid) { return 1.f / (1.f + expf(-in[0])); }

// in: d_output, output.
POINTWISE(sigmoid_grad) { return in[0] * in[1] * (1.f - in[1]); }
