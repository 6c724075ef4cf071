// The rotation of heads, for the op rope and for those that rotate what they read.

// The angles of one row, as rotate_head wants them.
struct Angles {
  const float* cos;
  const float* sin;
  int64_t half;  // pairs of a head
  bool adjacent;
};

// Memory for the angles of a row where pairs are neighbours, which meet every angle twice.
TT_INLINE int64_t angle_floats(int64_t half) {
  return 2 * round_up(2 * half, 16);
}

// `memory`: angle_floats(half); used for adjacent pairs alone.
TT_INLINE Angles row_angles(const float* cos, const float* sin, int64_t half, RopePairs pairs,
                            float* memory) {
  if (pairs == RopePairs::kHalves) return {cos, sin, half, false};
  float* twice_cos = memory;
  float* twice_sin = memory + angle_floats(half) / 2;
  for (int64_t k = 0; k < half; ++k) {
    twice_cos[2 * k] = twice_cos[2 * k + 1] = cos[k];
    twice_sin[2 * k] = -sin[k];
    twice_sin[2 * k + 1] = sin[k];
  }
  return {twice_cos, twice_sin, half, true};
}

TT_INLINE void rotate_halves(const Angles& a, const float* x, float* out) {
  for (int64_t k = 0; k < a.half; k += kLanes) {
    const int64_t n = imin(a.half - k, kLanes);
    const bool whole = n == kLanes;
    const Vf c = whole ? vload(a.cos + k) : vload_n(a.cos + k, n);
    const Vf s = whole ? vload(a.sin + k) : vload_n(a.sin + k, n);
    const Vf u = whole ? vload(x + k) : vload_n(x + k, n);
    const Vf v = whole ? vload(x + a.half + k) : vload_n(x + a.half + k, n);
    const Vf new_u = vfms(u, c, vmul(v, s));
    const Vf new_v = vfma(u, s, vmul(v, c));
    if (whole) {
      vstore(out + k, new_u);
      vstore(out + a.half + k, new_v);
    } else {
      vstore_n(out + k, new_u, n);
      vstore_n(out + a.half + k, new_v, n);
    }
  }
}

TT_INLINE void rotate_adjacent(const Angles& a, const float* x, float* out) {
  const int64_t rotated = 2 * a.half;
  for (int64_t k = 0; k < rotated; k += kLanes) {
    const int64_t n = imin(rotated - k, kLanes);
    const Vf v = n == kLanes ? vload(x + k) : vload_n(x + k, n);
    const Vf turned = vfma(v, vload(a.cos + k), vmul(vswap_pairs(v), vload(a.sin + k)));
    if (n == kLanes) {
      vstore(out + k, turned);
    } else {
      vstore_n(out + k, turned, n);
    }
  }
}

// The first 2 * half elements of a head, no others; out may be x.
TT_INLINE void rotate_head(const Angles& a, const float* x, float* out) {
  if (a.adjacent) {
    rotate_adjacent(a, x, out);
  } else {
    rotate_halves(a, x, out);
  }
}
