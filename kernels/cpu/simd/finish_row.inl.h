// What every matmul body ends with.

// Elements [i, i + m) of a row, at most a vector.
TT_INLINE Vf load_some(const float* row, int64_t i, int64_t m) {
  return m == kLanes ? vload(row + i) : vload_n(row + i, m);
}

// out[t][n .. n + count] from the dot products: bias, activation, times, scale, residual. `sums` may be read
// in whole vectors.
void finish_row(const MatmulArgs& a, int64_t t, int64_t n, const float* sums, int64_t count) {
  float* out = f32_row(a.out, t) + n;
  const float* bias = a.bias == nullptr ? nullptr : a.bias + n;
  const float* times = a.times.data == nullptr ? nullptr : f32_row(a.times, t) + n;
  const float* scale = a.scale == nullptr ? nullptr : a.scale + n;
  const float* residual = a.residual.data == nullptr ? nullptr : f32_row(a.residual, t) + n;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t m = imin(kLanes, count - i);
    Vf v = vload(sums + i);
    if (bias != nullptr) v = vadd(v, load_some(bias, i, m));
    v = vactivate(v, a.act);
    if (times != nullptr) v = vmul(v, load_some(times, i, m));
    if (scale != nullptr) v = vmul(v, load_some(scale, i, m));
    if (residual != nullptr) v = vadd(v, load_some(residual, i, m));
    if (m == kLanes) {
      vstore(out + i, v);
    } else {
      vstore_n(out + i, v, m);
    }
  }
}
