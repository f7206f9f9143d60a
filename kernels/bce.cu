// Binary cross-entropy on logits.

// in: logit, the mean's gradient (a scalar). k: target, 1 / number of logits.
POINTWISE(bce_grad) { return in[1] * k[1] * (1.f / (1.f + expf(-in[0])) - k[0]); }
