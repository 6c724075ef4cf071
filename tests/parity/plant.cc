// Deliberate bugs, to prove that the harness sees what it claims to see.
#include <cstring>
#include <vector>

#include "harness.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::parity {
namespace {

const KernelTable* g_sound = nullptr;  // the table that the planted bodies call

const Matrix& output_of(const RopeArgs& a) {
  return a.x;
}
// Picks are whole numbers, which no rounding hits: their scores are struck.
const Matrix& output_of(const GreedyPickArgs& a) {
  return a.scores;
}
template <typename Args>
const Matrix& output_of(const Args& a) {
  return a.out;
}

using Bug = Status (*)(const ExecContext&, const Matrix& out,
                       const std::function<Status(const ExecContext&)>& run);

char* last_element(const Matrix& m, int64_t r, int64_t* bytes) {
  const DtypeInfo& info = *dtype_info(m.dtype);
  *bytes = info.block_elems == 1 ? info.block_bytes : 1;
  return static_cast<char*>(m.data) + r * m.stride + row_bytes(m.dtype, m.cols) - *bytes;
}

Status tail_bug(const ExecContext& ctx, const Matrix& out,
                const std::function<Status(const ExecContext&)>& run) {
  const bool strikes = out.data != nullptr && out.rows > 0 && row_bytes(out.dtype, out.cols) > 0 &&
                       (out.cols % 8 != 0 || out.dtype == Dtype::kQ8_0);
  std::vector<std::vector<char>> kept;
  for (int64_t r = 0; strikes && r < out.rows; ++r) {
    int64_t bytes = 0;
    const char* p = last_element(out, r, &bytes);
    kept.emplace_back(p, p + bytes);
  }
  const Status status = run(ctx);
  if (!strikes || status != Status::kOk) return status;
  for (int64_t r = 0; r < out.rows; ++r) {
    int64_t bytes = 0;
    char* p = last_element(out, r, &bytes);
    std::memcpy(p, kept[static_cast<size_t>(r)].data(), static_cast<size_t>(bytes));
  }
  return status;
}

Status guard_bug(const ExecContext& ctx, const Matrix& out,
                 const std::function<Status(const ExecContext&)>& run) {
  const Status status = run(ctx);
  if (status != Status::kOk || out.rows == 0 || out.cols == 0) return status;
  // Before the first row, because behind the last one there may be a protected page.
  static_cast<char*>(out.data)[-1] = 0;
  return status;
}

Status threads_bug(const ExecContext& ctx, const Matrix& out,
                   const std::function<Status(const ExecContext&)>& run) {
  const Status status = run(ctx);
  if (status != Status::kOk || out.rows == 0 || out.cols == 0 || ctx.n_threads == 1) return status;
  // One unit of the last place: within every tolerance but those of exact ops.
  static_cast<char*>(out.data)[0] ^= 1;
  return status;
}

Status half_bug(const ExecContext& ctx, const Matrix& out,
                const std::function<Status(const ExecContext&)>& run) {
  const Status status = run(ctx);
  if (status != Status::kOk || out.dtype != Dtype::kF32) return status;
  for (int64_t r = 0; r < out.rows; ++r) {
    auto* row = reinterpret_cast<float*>(static_cast<char*>(out.data) + r * out.stride);
    for (int64_t c = 0; c < out.cols; ++c) row[c] = f32_from_f16(f16_from_f32(row[c]));
  }
  return status;
}

template <typename Args, Status (*KernelTable::*kEntry)(const ExecContext&, const Args&), Bug kBug>
Status planted(const ExecContext& ctx, const Args& args) {
  return kBug(ctx, output_of(args), [&](const ExecContext& c) { return (g_sound->*kEntry)(c, args); });
}

template <Bug kBug>
void replace_all(KernelTable* table) {
#define TT_OP(name, Args) table->name = planted<Args, &KernelTable::name, kBug>;
#include "trimtok/ops.def"
#undef TT_OP
}

}  // namespace

bool plant_bug(const std::string& kind, const KernelTable& table, KernelTable* planted_table) {
  g_sound = &table;
  *planted_table = table;
  if (kind == "tail") {
    replace_all<tail_bug>(planted_table);
  } else if (kind == "guard") {
    replace_all<guard_bug>(planted_table);
  } else if (kind == "threads") {
    replace_all<threads_bug>(planted_table);
  } else if (kind == "half") {
    replace_all<half_bug>(planted_table);
  } else {
    return false;
  }
  return true;
}

}  // namespace trimtok::parity
