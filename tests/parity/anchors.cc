// Small inputs with literal results from NumPy in double precision (formulas of args.h and spec section 2,
// written out independently): ref is the measure of everything else, so it must itself be measured.
#include <cmath>

#include "harness.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::parity {
namespace {

constexpr Dtype kF32 = Dtype::kF32;
constexpr float kEps = 0.0009765625f;

Tensor tensor(int64_t rows, int64_t cols, const std::vector<float>& values) {
  const Tensor t(kF32, rows, cols, Layout{1, 3, false});
  for (int64_t i = 0; i < rows * cols; ++i) t.f32(i / cols)[i % cols] = values[static_cast<size_t>(i)];
  return t.clone();
}

void norms(Suite& s, Op op) {
  const Tensor x = tensor(2, 3, {0.5f, -1.25f, 3.0f, -2.0f, 0.25f, 1.5f});
  const Tensor weight = tensor(1, 3, {1.5f, -0.5f, 2.0f});
  const Tensor bias = tensor(1, 3, {0.25f, -1.0f, 0.125f});
  const Tensor out(kF32, 2, 3);
  if (op == Op::k_rms_norm) {
    s.expect_values(&KernelTable::rms_norm, out, RmsNormArgs{out.matrix(), x.matrix(), weight.f32(0), kEps},
                    {0.395002643, 0.329168869, 3.16002114, -2.06766621, -0.0861527586, 2.06766621});
    return;
  }
  s.expect_values(&KernelTable::layer_norm, out,
                  LayerNormArgs{out.matrix(), x.matrix(), weight.f32(0), bias.f32(0), kEps},
                  {0.0350161916, -0.426709844, 2.7048057, -1.73478986, -1.11506028, 2.31114536});
}

void activations(Suite& s) {
  const Tensor gate = tensor(1, 6, {0.5f, -1.25f, 3.0f, -2.0f, 0.0f, -6.0f});
  const Tensor up = tensor(1, 6, {2, 2, 2, 2, 2, 2});
  const std::vector<double> expected[] = {
      {1, -2.5, 6, -4, 0, -12},
      {0.69142802, -0.264571594, 5.99272522, -0.0908046118, 0, -1.6879298e-10},
      {0.691462461, -0.264124434, 5.99190061, -0.0910005278, 0, -1.18390517e-08},
      {0.700776873, -0.266131397, 5.96385738, -0.128682754, 0, -0.0004407071},
      {0.622459331, -0.556750347, 5.71544476, -0.476811688, 0, -0.0296714779}};
  for (int32_t act = 0; act < 5; ++act) {
    const Tensor out(kF32, 1, 6);
    s.expect_values(&KernelTable::gated_act, out,
                    GatedActArgs{out.matrix(), gate.matrix(), up.matrix(), static_cast<Activation>(act)},
                    expected[act]);
  }
}

void rotations(Suite& s) {
  const Tensor cos = tensor(1, 2, {0.5f, -0.25f});
  const Tensor sin = tensor(1, 2, {0.75f, 2.0f});
  for (const RopePairs pairs : {RopePairs::kAdjacent, RopePairs::kHalves}) {
    const Tensor x = tensor(1, 6, {1, 2, 3, 4, 5, 6});
    const bool adjacent = pairs == RopePairs::kAdjacent;
    s.expect_values(&KernelTable::rope, x, RopeArgs{x.matrix(), 6, cos.matrix(), sin.matrix(), pairs},
                    adjacent ? std::vector<double>{-1, 1.75, -8.75, 5, 5, 6}
                             : std::vector<double>{-1.75, -8.5, 2.25, 3, 5, 6});
  }
}

void patches(Suite& s) {
  std::vector<float> values;
  for (int i = 0; i < 30; ++i) values.push_back(static_cast<float>(i));
  const Tensor pixels = tensor(1, 30, values);
  const Tensor out(kF32, 2, 8);
  s.expect_values(&KernelTable::patchify, out, PatchifyArgs{out.matrix(), pixels.f32(0), 2, 3, 5, 2},
                  {0, 1, 5, 6, 15, 16, 20, 21, 2, 3, 7, 8, 17, 18, 22, 23});
}

void additions(Suite& s) {
  const Tensor x = tensor(2, 3, {1, 2, 3, 4, 5, 6});
  const Tensor y = tensor(1, 3, {10, 20, 30});
  const Tensor out(kF32, 2, 3);
  s.expect_values(&KernelTable::add, out, AddArgs{out.matrix(), x.matrix(), y.matrix()},
                  {11, 22, 33, 14, 25, 36});
}

void gathers(Suite& s) {
  const Tensor table(Dtype::kQ4_0, 2, 32);
  std::vector<double> expected;
  for (int32_t r = 0; r < 2; ++r) {
    auto* block = reinterpret_cast<BlockQ4_0*>(table.row(r));
    block->d = 0x3800;                                                                        // 0.5
    for (int32_t i = 0; i < 16; ++i) block->qs[i] = static_cast<uint8_t>(i | (15 - i) << 4);  // up, then down
  }
  for (int32_t i = 0; i < 32; ++i) expected.push_back(3.0 * 0.5 * ((i < 16 ? i : 31 - i) - 8));
  const Array<int32_t> ids = {1};
  const Tensor out(kF32, 1, 32);
  s.expect_values(&KernelTable::gather_rows, out,
                  GatherRowsArgs{out.matrix(), table.matrix(), ids.data(), 3.0f}, expected);
}

void conversions(Suite& s) {
  const Tensor x = tensor(1, 6, {1.0f / 3.0f, 65519.0f, 2049.0f, 2051.0f, 3e-8f, 1e-8f});
  const Tensor f16(Dtype::kF16, 1, 6);
  s.expect_values(&KernelTable::convert_rows, f16, ConvertRowsArgs{f16.matrix(), x.matrix()},
                  {0.333251953125, 65504, 2048, 2052, 5.960464477539063e-08, 0});
  const Tensor y = tensor(1, 4, {1.0f / 3.0f, 257.0f, 259.0f, -1.0f});
  const Tensor bf16(Dtype::kBF16, 1, 4);
  s.expect_values(&KernelTable::convert_rows, bf16, ConvertRowsArgs{bf16.matrix(), y.matrix()},
                  {0.333984375, 256, 260, -1});
  std::vector<float> ties(32, 0.0f);
  std::vector<double> rounded(32, 0.0);
  const float inputs[] = {127.0f, -63.5f, 2.5f, 3.5f, 0.49f, -0.51f};
  const double outputs[] = {127, -64, 2, 4, 0, -1};  // s = 1: ties to even
  for (size_t i = 0; i < 6; ++i) {
    ties[i] = inputs[i];
    rounded[i] = outputs[i];
  }
  const Tensor z = tensor(1, 32, ties);
  const Tensor q8(Dtype::kQ8_0, 1, 32);
  s.expect_values(&KernelTable::convert_rows, q8, ConvertRowsArgs{q8.matrix(), z.matrix()}, rounded);

  // The numbers of `rotations`: f16 holds them all.
  const Tensor heads = tensor(1, 6, {1, 2, 3, 4, 5, 6});
  const Tensor cos = tensor(1, 2, {0.5f, -0.25f});
  const Tensor sin = tensor(1, 2, {0.75f, 2.0f});
  const Tensor rotated(Dtype::kF16, 1, 6);
  ConvertRowsArgs args{rotated.matrix(), heads.matrix()};
  args.rotation = {cos.matrix(), sin.matrix(), RopePairs::kAdjacent};
  args.head_dim = 6;
  s.expect_values(&KernelTable::convert_rows, rotated, args, {-1, 1.75, -8.75, 5, 5, 6});
  args.rotation.pairs = RopePairs::kHalves;
  s.expect_values(&KernelTable::convert_rows, rotated, args, {-1.75, -8.5, 2.25, 3, 5, 6});
}

void matmuls(Suite& s) {
  const Tensor x = tensor(2, 3, {0.5f, -1.25f, 3.0f, -2.0f, 0.25f, 1.5f});
  const Tensor w = tensor(2, 3, {1.0f, -2.0f, 0.5f, 0.25f, 0.75f, -1.5f});
  const Tensor bias = tensor(1, 2, {0.5f, -0.25f});
  const Tensor residual = tensor(2, 2, {10, 20, 30, 40});
  const Tensor out(kF32, 2, 2);
  MatmulArgs args;
  args.out = out.matrix();
  args.x = x.matrix();
  args.w = w.matrix();
  args.bias = bias.f32(0);
  s.expect_values(&KernelTable::matmul, out, args, {5, -5.5625, -1.25, -2.8125});
  args.act = Activation::kGeluTanh;
  args.residual = residual.matrix();
  s.expect_values(&KernelTable::matmul, out, args, {14.9999998, 20, 29.8677142, 39.9935506});

  const Tensor norm_weight = tensor(1, 3, {1.5f, -0.5f, 2.0f});
  const Tensor norm_bias = tensor(1, 3, {0.25f, -1.0f, 0.125f});
  MatmulArgs fused;
  fused.out = out.matrix();
  fused.x = x.matrix();
  fused.w = w.matrix();
  fused.bias = bias.f32(0);
  fused.norm = {RowNorm::Kind::kRms, norm_weight.f32(0), nullptr, kEps};
  s.expect_values(&KernelTable::matmul, out, fused, {1.81667548, -4.6444044, -0.361527586, -3.93303043});
  fused.norm = {RowNorm::Kind::kLayer, norm_weight.f32(0), norm_bias.f32(0), kEps};
  s.expect_values(&KernelTable::matmul, out, fused, {2.74083873, -4.61848689, 2.15090338, -4.98671071});
  const Tensor times = tensor(2, 2, {2, -3, 0.5f, 4});
  const Tensor scale = tensor(1, 2, {-1.5f, 0.25f});
  fused.act = Activation::kSilu;
  fused.times = times.matrix();
  fused.scale = scale.f32(0);
  fused.residual = residual.matrix();
  s.expect_values(&KernelTable::matmul, out, fused, {2.27581873, 20.0338464, 28.5549911, 39.9661812});
}

void attentions(Suite& s) {
  const Tensor q = tensor(2, 4, {1.0f, -0.5f, 0.25f, 2.0f, -1.0f, 1.5f, 0.5f, 0.5f});
  const Tensor k = tensor(3, 2, {1.0f, 0.0f, -0.5f, 2.0f, 0.75f, -1.0f});
  const Tensor v = tensor(3, 2, {1, 10, 2, 20, 4, 40});
  const Array<int32_t> begin = {0, 1};
  const Array<int32_t> end = {2, 3};
  const std::vector<double> plain = {1.13296424, 11.3296424, 1.93812401, 19.3812401,
                                     2.02644564, 20.2644564, 2.683165,   26.83165};
  const std::vector<double> capped = {1.16166396, 11.6166396, 1.77772773, 17.7772773,
                                      2.13496559, 21.3496559, 2.6944932,  26.944932};
  for (const float softcap : {0.0f, 1.5f}) {
    const Tensor out(kF32, 2, 4);
    const AttentionArgs args{out.matrix(), q.matrix(), k.matrix(),   v.matrix(), 2, 1, 2,
                             0.75f,        softcap,    begin.data(), end.data()};
    s.expect_values(&KernelTable::attention, out, args, softcap > 0.0f ? capped : plain);
  }
  const Tensor cos = tensor(2, 1, {0.5f, -0.25f});
  const Tensor sin = tensor(2, 1, {0.75f, 2.0f});
  for (const RopePairs pairs : {RopePairs::kAdjacent, RopePairs::kHalves}) {  // of one pair they are the same
    const Tensor out(kF32, 2, 4);
    AttentionArgs args{out.matrix(), q.matrix(), k.matrix(),   v.matrix(), 2, 1, 2,
                       0.75f,        0.0f,       begin.data(), end.data()};
    args.rotation = {cos.matrix(), sin.matrix(), pairs};
    s.expect_values(
        &KernelTable::attention, out, args,
        {1.44167301, 14.4167301, 1.96538116, 19.6538116, 3.8815795, 38.815795, 2.09275641, 20.9275641});
  }
}

}  // namespace

void check_anchors(Suite& s, Op op) {
  if (!s.begin_case("literal values")) return;
  switch (op) {
    case Op::k_gather_rows:
      return gathers(s);
    case Op::k_convert_rows:
      return conversions(s);
    case Op::k_rms_norm:
    case Op::k_layer_norm:
      return norms(s, op);
    case Op::k_add:
      return additions(s);
    case Op::k_gated_act:
      return activations(s);
    case Op::k_rope:
      return rotations(s);
    case Op::k_patchify:
      return patches(s);
    case Op::k_matmul:
      return matmuls(s);
    case Op::k_attention:
      return attentions(s);
    case Op::k_unit_rows:
    case Op::k_sum_rows:
    case Op::k_gram:
    case Op::k_greedy_pick:
      return prune_anchors(s, op);
    case Op::kCount:
      return;
  }
}

}  // namespace trimtok::parity
