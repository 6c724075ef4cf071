// What every matmul body ends with.

// out[t][n .. n + count] from the dot products: bias, activation, residual. `sums` may be read in whole
// vectors.
void finish_row(const MatmulArgs& a, int64_t t, int64_t n, const float* sums, int64_t count) {
  float* out = f32_row(a.out, t) + n;
  const float* bias = a.bias == nullptr ? nullptr : a.bias + n;
  const float* residual = a.residual.data == nullptr ? nullptr : f32_row(a.residual, t) + n;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t m = imin(kLanes, count - i);
    Vf v = vload(sums + i);
    if (bias != nullptr) v = vadd(v, m == kLanes ? vload(bias + i) : vload_n(bias + i, m));
    v = vactivate(v, a.act);
    if (residual != nullptr) v = vadd(v, m == kLanes ? vload(residual + i) : vload_n(residual + i, m));
    if (m == kLanes) {
      vstore(out + i, v);
    } else {
      vstore_n(out + i, v, m);
    }
  }
}
