// Batch and instance normalisation. Statistics are vectors per group: mean, 1 / standard deviation, variance.

// in: x, mean, invstd, gamma, beta. k: whether there is a gamma, a beta.
POINTWISE(norm_apply) {
  const float scale = k[0] != 0.f ? in[2] * in[3] : in[2];
  return (in[0] - in[1]) * scale + (k[1] != 0.f ? in[4] : 0.f);
}

// in: d, x, mean, invstd, sum of d, sum of d * normalised x, gamma. k: 1 / pixels of a group, whether there is a gamma.
POINTWISE(norm_input_grad) {
  const float scale = k[1] != 0.f ? in[3] * in[6] : in[3];
  const float slope = scale * in[3] * in[5] * k[0];
  return scale * in[0] - scale * in[4] * k[0] - slope * (in[1] - in[2]);
}

// in: u, d, x, mean, invstd, sums of u (plain, with normalised x), sums of d, sum of u * d, gamma; k as above.
POINTWISE(norm_second_grad) {
  const float inv = in[4];
  const float factor = k[1] != 0.f ? inv * inv * in[10] : inv * inv;
  const float u1 = in[5] * k[0], u2 = in[6] * k[0], d1 = in[7] * k[0], d2 = in[8] * k[0];
  const float by_x = factor * inv * (in[9] * k[0] - u1 * d1 - 3.f * u2 * d2);
  return factor * (u1 * d2 + d1 * u2) - by_x * (in[2] - in[3]) - factor * (d2 * in[0] + u2 * in[1]);
}
