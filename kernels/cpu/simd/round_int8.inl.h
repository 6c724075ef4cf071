// Compute::kInt8 of args.h, for a block of 32 elements: returns the scale, writes the codes.
TT_INLINE float round_block(const float* x, int8_t* q) {
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
    memset(q, 0, 32);
    return finite ? 0.0f : __builtin_nanf("");
  }
  const Vf inverse = vset1(127.0f / top);
  for (int i = 0; i < 32; i += kLanes) vstore_i8(q + i, vround(vmul(vload(x + i), inverse)));
  return top / 127.0f;
}

TT_INLINE int32_t sum_of(const int8_t* q, int n) {
  int32_t sum = 0;
  for (int i = 0; i < n; ++i) sum += q[i];
  return sum;
}
