// THE tolerance table: the allowed absolute error of one output element is tolerance(op) times a magnitude
// that the op's check computes. No dtype has a value of its own: every op computes in f32 whatever is stored.
// 2^-24 = 6.0e-8 is the largest relative error of one rounding. A sum of n terms in f32 may add n of them;
// being random they add up like sqrt(n), and parity holds every table to that, not to n. worst=... in the
// report is the largest share of the allowance that a table used.
// What tensor cores may err beyond that is added by the checks of matmul and attention.
#pragma once

#include "trimtok/kernels.h"

namespace trimtok::parity {

inline double tolerance(Op op) {
  switch (op) {
    // Exact: products of dequantisation are exact in every format, then one sum and one scale may round.
    case Op::k_gather_rows:
    // Exact: the rounding is prescribed.
    case Op::k_convert_rows:
    // Exact: one rounding.
    case Op::k_add:
    // Exact: copies.
    case Op::k_patchify:
      return 0.0;
    // Of |u cos| + |v sin|: two products and a sum, three roundings.
    case Op::k_rope:
      return 1.8e-7;
    // Of |result|: a sum of squares, a root, two products.
    case Op::k_rms_norm:
      return 6e-7;
    // Of (|x| + mean|x|) / sigma * |weight| + |bias|: the mean's error scales with mean|x|.
    case Op::k_layer_norm:
      return 6e-7;
    // Of |result| + min(|gate|, 10) |up| / 4: where 1 + tanh or 1 + erf cancels, the error is relative to the
    // gate, not to the tiny result.
    case Op::k_gated_act:
      return 6e-7;
    // Of sum p |v| (1 + |scale| max |q||k|): an error of a score multiplies its weight.
    case Op::k_attention:
      return 5e-7;
    // Of (sum |x| max|w| + |bias| + |residual|) (1 + sqrt(K) / 2): where an outlier of x comes first, each of
    // K additions rounds a sum of nearly that size (0.6 * 2^-24 rms).
    case Op::k_matmul:
      return 2.4e-7;
    // Of |result|: a sum of squares of one sign, a root, a division.
    case Op::k_unit_rows:
      return 6e-7;
    // Of sum |w x|: groups of rows are summed apart.
    case Op::k_sum_rows:
      return 3e-7;
    // Of |x||y| (1 + sqrt(D) / 4): a diagonal element is a sum of one sign.
    case Op::k_gram:
      return 2.4e-7;
    // Of the sum of the magnitudes that a score is made of. Picks are exact.
    case Op::k_greedy_pick:
      return 1e-6;
    case Op::kCount:
      break;
  }
  return 0.0;
}

}  // namespace trimtok::parity
