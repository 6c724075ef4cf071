// The norms of a row, for the ops of that name and for matmul, which norms rows of x on their way in. A row
// is read once or twice for its moments, then in pieces, so that whoever packs it norms what it packs.

// norm(x) = (x - mean - shift) * scale * weight + bias.
struct RowMoments {
  float mean;
  float shift;  // the rounding error of this mean
  float scale;
};

// Vectors of a row by the pair, so that sums have two chains; the last vector may be partial.
struct Sums {
  Vf a;
  Vf b;
};
TT_INLINE float total(const Sums& s) {
  return vreduce_add(vadd(s.a, s.b));
}

RowMoments rms_moments(const float* x, int64_t n, float eps) {
  Sums squares = {vzero(), vzero()};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    squares.a = vfma(vload(x + i), vload(x + i), squares.a);
    squares.b = vfma(vload(x + i + kLanes), vload(x + i + kLanes), squares.b);
  }
  for (; i < n; i += kLanes) {
    const Vf v = vload_n(x + i, imin(n - i, kLanes));
    squares.a = vfma(v, v, squares.a);
  }
  return {0.0f, 0.0f, 1.0f / sqrtf(total(squares) / static_cast<float>(n) + eps)};
}

RowMoments layer_moments(const float* x, int64_t n, float eps) {
  const auto count = static_cast<float>(n);
  Sums sum = {vzero(), vzero()};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    sum.a = vadd(sum.a, vload(x + i));
    sum.b = vadd(sum.b, vload(x + i + kLanes));
  }
  for (; i < n; i += kLanes) sum.a = vadd(sum.a, vload_n(x + i, imin(n - i, kLanes)));
  // The rounding error of this mean is measured by the second pass and taken out of mean and variance.
  const float mean = total(sum) / count;
  Sums rest_sum = {vzero(), vzero()};  // a: differences, b: their squares
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const Vf d = vsub(vload(x + i), vset1(mean));
    rest_sum.a = vadd(rest_sum.a, d);
    rest_sum.b = vfma(d, d, rest_sum.b);
  }
  const int64_t rest = n - i;
  if (rest > 0) {
    const Vf d = vselect(vfirst(rest), vsub(vload_n(x + i, rest), vset1(mean)), vzero());
    rest_sum.a = vadd(rest_sum.a, d);
    rest_sum.b = vfma(d, d, rest_sum.b);
  }
  const float shift = vreduce_add(rest_sum.a) / count;
  const float variance = vreduce_add(rest_sum.b) / count - shift * shift;
  return {mean, shift, 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + eps)};
}

// Of a norm that is not kNone.
RowMoments row_moments(const RowNorm& norm, const float* x, int64_t n) {
  return norm.kind == RowNorm::Kind::kRms ? rms_moments(x, n, norm.eps) : layer_moments(x, n, norm.eps);
}

// n elements from i on of a row, at most a vector.
template <bool kCentred>
TT_INLINE Vf normed(const RowNorm& norm, Vf v, Vf mean, Vf shift, Vf scale, int64_t i, int64_t n) {
  const bool whole = n == kLanes;
  if (kCentred) v = vsub(vsub(v, mean), shift);
  v = vmul(v, scale);
  Vf weight = vzero();
  if (norm.weight != nullptr) weight = whole ? vload(norm.weight + i) : vload_n(norm.weight + i, n);
  if (!kCentred) return norm.weight == nullptr ? v : vmul(v, weight);
  const Vf bias = norm.bias == nullptr ? vzero() : whole ? vload(norm.bias + i) : vload_n(norm.bias + i, n);
  return norm.weight == nullptr ? vadd(v, bias) : vfma(v, weight, bias);
}

template <bool kCentred>
TT_INLINE void norm_elements(const RowNorm& norm, const RowMoments& moments, const float* x, int64_t first,
                             int64_t n, float* out) {
  const Vf mean = vset1(moments.mean);
  const Vf shift = vset1(moments.shift);
  const Vf scale = vset1(moments.scale);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    vstore(out + i, normed<kCentred>(norm, vload(x + first + i), mean, shift, scale, first + i, kLanes));
  }
  const int64_t rest = n - i;
  if (rest == 0) return;
  const Vf v = vload_n(x + first + i, rest);
  vstore_n(out + i, normed<kCentred>(norm, v, mean, shift, scale, first + i, rest), rest);
}

// out = elements [first, first + n) of norm(x), which is a whole row; out may be where they lie. The tail
// takes the same steps as whole vectors do: how a row is cut into pieces never shows.
void norm_piece(const RowNorm& norm, const RowMoments& moments, const float* x, int64_t first, int64_t n,
                float* out) {
  if (norm.kind == RowNorm::Kind::kLayer) {
    norm_elements<true>(norm, moments, x, first, n, out);
  } else {
    norm_elements<false>(norm, moments, x, first, n, out);
  }
}
