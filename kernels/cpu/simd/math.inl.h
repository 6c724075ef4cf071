// exp, tanh, erf and the activations on vectors, each within a few ulp. Coefficients: our own minimax fits
// (Remez exchange, 40 digits) on the intervals named; their truncation error is below 5e-9 relative.

// Horner's rule: c[0] + c[1] x + ... + c[n-1] x^(n-1).
template <int n>
TT_INLINE Vf vpoly(const float (&c)[n], Vf x) {
  Vf y = vset1(c[n - 1]);
  TT_UNROLL
  for (int i = n - 2; i >= 0; --i) y = vfma(y, x, vset1(c[i]));
  return y;
}

// NaN stays NaN; overflows to infinity above 88.73, underflows gradually to zero below -103.98.
TT_INLINE Vf vexp(Vf x) {
  constexpr float kP[] = {0.5000000096282282f, 0.16666517711301035f, 0.041666202268678385f,
                          0.00836902487661233f, 0.0013950726883382512f};  // (e^r - 1 - r) / r^2, |r| <= ln2/2
  x = vmin(vset1(89.0f), vmax(vset1(-104.0f), x));
  const Vf n = vround(vmul(x, vset1(1.44269504f)));
  // ln 2 in two parts; n times the first is exact.
  const Vf r = vfnma(n, vset1(-2.12194440e-4f), vfnma(n, vset1(0.693359375f), x));
  const Vf p = vfma(vpoly(kP, r), vmul(r, r), r);
  return vscale2(vadd(p, vset1(1.0f)), n);
}

TT_INLINE Vf vsigmoid(Vf x) {
  const Vf one = vset1(1.0f);
  return vdiv(one, vadd(one, vexp(vneg(x))));
}

TT_INLINE Vf vtanh(Vf x) {
  constexpr float kP[] = {-0.33333333102604984f,  0.13333292928721213f,
                          -0.05395676072160086f,  0.02174890368988388f,
                          -0.008279786387650236f, 0.0022218283982576997f};  // |x| <= 0.65
  const Vf a = vabs(x);
  const Vf z = vmul(x, x);
  const Vf small = vfma(vmul(x, z), vpoly(kP, z), x);
  const Vf big = vsub(vset1(1.0f), vdiv(vset1(2.0f), vadd(vexp(vadd(a, a)), vset1(1.0f))));
  return vselect(vlt(a, vset1(0.65f)), small, vcopysign(big, x));
}

// erf(a) / a as a polynomial in z = a^2, 0 <= a <= 1.
TT_INLINE Vf verf_ratio(Vf z) {
  constexpr float kP[] = {1.1283791659137692f,    -0.37612627136094534f, 0.11283600177751858f,
                          -0.026854444655723283f, 0.005189535462630125f, -0.000802084237719116f,
                          7.88912319278927e-05f};
  return vpoly(kP, z);
}

// erfc(a) for 1 <= a <= 11, given half = a and twice such that half * twice = a^2 as exactly as the caller
// can: the exponent's rounding error is carried into the result, which keeps the tail accurate.
TT_INLINE Vf verfc_tail(Vf a, Vf half, Vf twice) {
  constexpr float kQ[] = {0.5641708240222997f, 1.1294342825843042f,   1.9493196167423352f,
                          3.161073748839426f,  -0.11268332644267119f, 14.052710861055813f,
                          -51.54214621572295f, 56.17029271286997f,    -19.59234308075488f};
  const Vf t = vdiv(vset1(1.0f), vadd(a, vset1(2.0f)));
  const Vf z = vmul(half, twice);
  const Vf lost = vfms(half, twice, z);
  const Vf e = vexp(vneg(z));
  return vmul(vfnma(e, lost, e), vmul(t, vpoly(kQ, t)));
}

TT_INLINE Vf verf(Vf x) {
  const Vf a = vmin(vset1(11.0f), vabs(x));
  const Vf big = vsub(vset1(1.0f), verfc_tail(a, a, a));
  return vselect(vlt(a, vset1(1.0f)), vmul(x, verf_ratio(vmul(x, x))), vcopysign(big, x));
}

TT_INLINE Vf vgelu_erf(Vf x) {
  const Vf half_x = vmul(x, vset1(0.5f));
  const Vf u = vmul(x, vset1(0.707106781f));
  const Vf near = vfma(half_x, vmul(u, verf_ratio(vmul(u, u))), half_x);
  const Vf limit = vset1(15.0f);  // beyond it the tail is below the smallest subnormal
  const Vf ax = vmin(limit, vabs(x));
  const Vf a = vmul(ax, vset1(0.707106781f));
  const Vf tail = verfc_tail(a, vmul(ax, vset1(0.5f)), ax);
  const Vf far = vmul(half_x, vselect(vlt(x, vzero()), tail, vsub(vset1(2.0f), tail)));
  return vselect(vlt(vabs(u), vset1(1.0f)), near, far);
}

// (1 + tanh u) / 2 is sigmoid(2 u), which does not cancel for negative u.
TT_INLINE Vf vgelu_tanh(Vf x) {
  const Vf cube = vmul(vmul(x, x), x);
  const Vf inner = vfma(cube, vset1(0.044715f), x);
  return vmul(x, vsigmoid(vmul(inner, vset1(1.59576912f))));
}

TT_INLINE Vf vsilu(Vf x) {
  return vmul(x, vsigmoid(x));
}
TT_INLINE Vf vquick_gelu(Vf x) {
  return vmul(x, vsigmoid(vmul(x, vset1(1.702f))));
}

TT_INLINE Vf vactivate(Vf x, Activation act) {
  switch (act) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return vgelu_tanh(x);
    case Activation::kGeluErf:
      return vgelu_erf(x);
    case Activation::kQuickGelu:
      return vquick_gelu(x);
    case Activation::kSilu:
      return vsilu(x);
  }
  return x;
}
