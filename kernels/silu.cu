// x times the logistic function of x.

POINTWISE(silu) { return in[0] / (1.f + expf(-in[0])); }

// in: d_output, x.
POINTWISE(silu_grad) {
  const float s = 1.f / (1.f + expf(-in[1]));
  return in[0] * (s + in[1] * s * (1.f - s));
}
