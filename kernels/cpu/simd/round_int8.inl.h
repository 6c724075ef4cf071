// Compute::kInt8 of args.h, for a block of 32 elements: returns the scale, writes the digits.
TT_INLINE float round_block(const float* x, int8_t* high, int8_t* low) {
  constexpr float kLargest = 127.0f * 128.0f;
  Vf largest = vzero();
  Vf zeros = vzero();  // 0 * x is NaN where x is not finite
  for (int i = 0; i < 32; i += kLanes) {
    const Vf v = vload(x + i);
    largest = vmax(largest, vabs(v));
    zeros = vfma(v, vzero(), zeros);
  }
  const float top = vreduce_max(largest);
  const bool finite = vreduce_add(zeros) == 0.0f;
  if (!finite || top < 0x1p-100f) {
    memset(high, 0, 32);
    memset(low, 0, 32);
    return finite ? 0.0f : __builtin_nanf("");
  }
  const Vf inverse = vset1(kLargest / top);
  for (int i = 0; i < 32; i += kLanes) {
    const Vf q = vround(vmul(vload(x + i), inverse));
    const Vf a = vround(vmul(q, vset1(1.0f / 128.0f)));
    vstore_i8(high + i, a);
    vstore_i8(low + i, vfnma(a, vset1(128.0f), q));  // within 64: pairs of products fit 16 bits
  }
  return top / kLargest;
}

TT_INLINE int32_t sum_of(const int8_t* high, const int8_t* low, int n) {
  int32_t sum = 0;
  for (int i = 0; i < n; ++i) sum += 128 * high[i] + low[i];
  return sum;
}
