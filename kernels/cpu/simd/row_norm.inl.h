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

// Elements [first, first + n) of a row that starts at x; out may be where they lie. The tail takes the same
// steps as whole vectors do: how a row is cut into pieces never shows.
void norm_piece(const RowNorm& norm, const RowMoments& moments, const float* x, int64_t first, int64_t n,
                float* out) {
  const bool centred = norm.kind == RowNorm::Kind::kLayer;
  const Vf mean = vset1(moments.mean);
  const Vf shift = vset1(moments.shift);
  const Vf scale = vset1(moments.scale);
  const float* weight = norm.weight == nullptr ? nullptr : norm.weight + first;
  const float* bias = norm.bias == nullptr ? nullptr : norm.bias + first;
  x += first;
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t m = imin(kLanes, n - i);
    const bool whole = m == kLanes;
    Vf v = whole ? vload(x + i) : vload_n(x + i, m);
    if (centred) v = vsub(vsub(v, mean), shift);
    v = vmul(v, scale);
    const Vf b = bias == nullptr ? vzero() : whole ? vload(bias + i) : vload_n(bias + i, m);
    if (weight != nullptr) {
      const Vf w = whole ? vload(weight + i) : vload_n(weight + i, m);
      v = centred ? vfma(v, w, b) : vmul(v, w);
    } else if (centred) {
      v = vadd(v, b);
    }
    if (whole) {
      vstore(out + i, v);
    } else {
      vstore_n(out + i, v, m);
    }
  }
}
