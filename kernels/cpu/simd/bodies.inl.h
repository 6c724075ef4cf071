// Every body, in dependency order. Included once by each isa_*.cc inside namespace trimtok { namespace {,
// after all system headers: body files include nothing themselves.
// Rules: no std templates, no inline or template that is not in this anonymous namespace, no default
// construction of the structs of view.h/args.h (weak constructors at -O0); call libm as expf(), not
// std::exp().
// The order matters:
// clang-format off
#include "kernels/cpu/simd/vec.h"
#include "kernels/cpu/simd/quants.inl.h"
#include "kernels/cpu/simd/quant_bytes.inl.h"
#include "kernels/cpu/simd/math.inl.h"
#include "kernels/cpu/simd/row_norm.inl.h"
#include "kernels/cpu/simd/rotate.inl.h"
#include "kernels/cpu/simd/rows.inl.h"
#include "kernels/cpu/simd/gather.inl.h"
#include "kernels/cpu/simd/matmul.inl.h"
#include "kernels/cpu/simd/attention.inl.h"
#include "kernels/cpu/simd/prune.inl.h"
// clang-format on
