// Spectral normalisation: the factor on a weight is the reciprocal of its largest singular value.

POINTWISE(reciprocal) { return 1.f / in[0]; }
