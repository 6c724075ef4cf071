// What every matmul body ends with.

// Where the columns of one row start that sums are finished for; null: absent.
struct Epilogue {
  const float* bias;
  const float* times;
  const float* scale;
  const float* residual;
  float* out;
};

// Elements [i, i + n) of a row, at most a vector.
TT_INLINE Vf load_some(const float* row, int64_t i, int64_t n) {
  return n == kLanes ? vload(row + i) : vload_n(row + i, n);
}

template <Activation act, bool kMultiplied>
TT_INLINE Vf finished(const Epilogue& e, Vf v, int64_t i, int64_t n) {
  if (e.bias != nullptr) v = vadd(v, load_some(e.bias, i, n));
  v = vactivate(v, act);
  if (kMultiplied && e.times != nullptr) v = vmul(v, load_some(e.times, i, n));
  if (kMultiplied && e.scale != nullptr) v = vmul(v, load_some(e.scale, i, n));
  return e.residual == nullptr ? v : vadd(v, load_some(e.residual, i, n));
}

template <Activation act, bool kMultiplied>
void finish_columns(const Epilogue& e, const float* sums, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    vstore(e.out + i, finished<act, kMultiplied>(e, vload(sums + i), i, kLanes));
  }
  const int64_t rest = count - i;
  if (rest > 0) vstore_n(e.out + i, finished<act, kMultiplied>(e, vload(sums + i), i, rest), rest);
}

template <Activation act>
TT_INLINE void finish_columns(const Epilogue& e, const float* sums, int64_t count) {
  if (e.times != nullptr || e.scale != nullptr) return finish_columns<act, true>(e, sums, count);
  finish_columns<act, false>(e, sums, count);
}

// out[t][n .. n + count] from the dot products: bias, activation, times, scale, residual. `sums` may be read
// in whole vectors.
void finish_row(const MatmulArgs& a, int64_t t, int64_t n, const float* sums, int64_t count) {
  const Epilogue e = {
      a.bias == nullptr ? nullptr : a.bias + n, a.times.data == nullptr ? nullptr : f32_row(a.times, t) + n,
      a.scale == nullptr ? nullptr : a.scale + n,
      a.residual.data == nullptr ? nullptr : f32_row(a.residual, t) + n, f32_row(a.out, t) + n};
  switch (a.act) {
    case Activation::kNone:
      return finish_columns<Activation::kNone>(e, sums, count);
    case Activation::kGeluTanh:
      return finish_columns<Activation::kGeluTanh>(e, sums, count);
    case Activation::kGeluErf:
      return finish_columns<Activation::kGeluErf>(e, sums, count);
    case Activation::kQuickGelu:
      return finish_columns<Activation::kQuickGelu>(e, sums, count);
    case Activation::kSilu:
      return finish_columns<Activation::kSilu>(e, sums, count);
  }
}
