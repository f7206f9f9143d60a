// Leaky ReLU with slope k[0].

POINTWISE(leaky_relu) { return in[0] > 0.f ? in[0] : k[0] * in[0]; }

// in: d_output, output.
POINTWISE(leaky_relu_grad) { return in[1] > 0.f ? in[0] : k[0] * in[0]; }
