#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "harness.h"
#include "tolerance.h"
#include "trimtok/quant_blocks.h"

namespace trimtok::parity {
namespace {

constexpr int64_t kQuickEvery = 7;        // share of the cases that --quick keeps
constexpr int64_t kRealThreadsEvery = 8;  // share of the cases that run on threads that really run at once
constexpr int64_t kReportsPerOp = 20;

// Q8_0 is compared as stored: scale bits and codes, where any NaN scale equals any other.
bool same_q8_0_row(const char* expected, const char* actual, int64_t cols, int64_t* column) {
  for (int64_t b = 0; b < cols / 32; ++b) {
    BlockQ8_0 e;
    BlockQ8_0 a;
    std::memcpy(&e, expected + b * static_cast<int64_t>(sizeof(e)), sizeof(e));
    std::memcpy(&a, actual + b * static_cast<int64_t>(sizeof(a)), sizeof(a));
    const bool nan_scales = std::isnan(f32_from_f16(e.d)) && std::isnan(f32_from_f16(a.d));
    *column = 32 * b;
    if (e.d != a.d && !nan_scales) return false;
    if (std::memcmp(e.qs, a.qs, sizeof(e.qs)) != 0) return false;
  }
  return true;
}

}  // namespace

Suite::Suite(const KernelTable& table, Op op, const Options& options)
    : table_(table), op_(op), options_(options) {}

bool Suite::begin_case(const char* format, ...) {
  ++numbered_;
  // Small ops have few cases: the first ones always run, so that --quick still meets the odd sizes.
  if (options_.quick && numbered_ > 24 && numbered_ % kQuickEvery != 0) return false;
  char text[256];
  va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof(text), format, list);
  va_end(list);
  description_ = text;
  const auto stream = static_cast<uint64_t>(op_) * 1000003u + static_cast<uint64_t>(numbered_);
  rng_ = Rng(Rng(options_.seed * 0x100000001b3u + stream).next());
  ++cases_;
  case_failed_ = false;
  run_name_ = "checks";
  return true;
}

double Suite::tolerance() const {
  return parity::tolerance(op_);
}

Layout Suite::next_layout() {
  Layout layout;
  layout.at_page_end = rng_.below(3) == 0;
  layout.offset = rng_.below(3) == 0 ? 0 : rng_.below(16);
  layout.pad = rng_.below(3) == 0 ? 0 : rng_.below(20);
  return layout;
}

bool Suite::fail_case(const char* format, ...) {
  if (!case_failed_) ++failures_;
  case_failed_ = true;
  if (failures_ > kReportsPerOp) return false;
  char text[256];
  va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof(text), format, list);
  va_end(list);
  std::printf("FAIL %s %s [%s] seed=%llu case=%lld %s: %s\n", table_name(table_), op_name(op_),
              description_.c_str(), static_cast<unsigned long long>(options_.seed),
              static_cast<long long>(numbered_), run_name_.c_str(), text);
  return false;
}

bool Suite::check_output(const Tensor& expected, const Tensor& actual, const Tolerance& tolerance,
                         bool nan_expected) {
  for (int64_t r = 0; r < expected.rows(); ++r) {
    const auto row = static_cast<long long>(r);
    if (expected.dtype() == Dtype::kQ8_0) {
      int64_t column = 0;
      if (!same_q8_0_row(expected.row(r), actual.row(r), expected.cols(), &column)) {
        return fail_case("row %lld: Q8_0 block at column %lld differs", row, static_cast<long long>(column));
      }
      continue;
    }
    const std::vector<float> e = expected.values(r);
    const std::vector<float> a = actual.values(r);
    for (int64_t c = 0; c < expected.cols(); ++c) {
      const double want = e[static_cast<size_t>(c)];
      const double got = a[static_cast<size_t>(c)];
      if (nan_expected && std::isnan(want) && std::isnan(got)) continue;
      if (nan_expected && want == got) continue;  // infinities
      if (!nan_expected && !std::isfinite(want)) {
        return fail_case("out[%lld][%lld]: the reference itself gives %g", row, static_cast<long long>(c),
                         want);
      }
      const double allowed = tolerance(r, c, want);
      const double error = std::fabs(got - want);
      if (allowed > 0.0) worst_ = std::max(worst_, error / allowed);
      if (!(error <= allowed)) {  // so written that NaN fails
        return fail_case("out[%lld][%lld] is %.9g, expected %.9g (error %.3g, allowed %.3g)", row,
                         static_cast<long long>(c), got, want, error, allowed);
      }
    }
  }
  return true;
}

void Suite::compare_runs(const Tensor& out, const Run& ref, const Run& run, const Tolerance& tolerance,
                         bool nan_expected) {
  using Threads = Execution::Threads;
  const Tensor expected = out.clone();
  const Execution ref_execution(Threads::kNone, 1, 1);
  run_name_ = "reference";
  if (const Status s = ref(ref_execution.context(), expected.matrix()); s != Status::kOk) {
    fail_case("the reference returned status %d", static_cast<int>(s));
    return;
  }
  if (expected.first_stray_write(out)) fail_case("the reference wrote outside its output");

  const Tensor first = out.clone();
  for (int32_t threads = 1; threads <= 3; ++threads) {
    const Threads mode = threads == 1                      ? Threads::kNone
                         : cases_ % kRealThreadsEvery == 0 ? Threads::kReal
                                                           : Threads::kSimulated;
    const Execution execution(mode, threads, rng_.next());
    const Tensor other = out.clone();
    const Tensor& actual = threads == 1 ? first : other;
    run_name_ = (on_device(table_) ? "run=" : "threads=") + std::to_string(threads);
    set_run_order(table_, threads);
    Status s = run(execution.context(), actual.matrix());
    if (s == Status::kOk) s = finish(table_);
    if (s != Status::kOk) {
      fail_case("status %d %s", static_cast<int>(s), failure(table_));
      return;
    }
    if (const auto at = actual.first_stray_write(out)) {
      fail_case("wrote outside the output, at byte %lld from its start", static_cast<long long>(*at));
    }
    if (!execution.scratch_intact()) fail_case("wrote beyond its scratch");
    if (!check_output(expected, actual, tolerance, nan_expected)) return;
    if (!actual.same_bytes(first)) {
      fail_case(on_device(table_) ? "the result differs between two runs"
                                  : "the result differs from that of one thread");
    }
  }

  run_name_ = "no scratch";
  const Execution no_scratch(Threads::kNone, 1, 1, true);
  const Tensor actual = out.clone();
  Status s = run(no_scratch.context(), actual.matrix());
  if (s == Status::kOk) s = finish(table_);
  if (s != Status::kOk && s != Status::kOutOfMemory) fail_case("status %d", static_cast<int>(s));
  if (actual.first_stray_write(out)) fail_case("wrote outside the output");
  if (s == Status::kOk && !actual.same_bytes(first)) fail_case("kOk, but another result than with scratch");
}

void Suite::rejected(const std::function<Status(const ExecContext&)>& run, const Tensor& out) {
  const Tensor before = out.clone();
  const Execution execution(Execution::Threads::kNone, 1, 1);
  run_name_ = "bad argument";
  if (const Status s = run(execution.context()); s != Status::kBadArgument) {
    fail_case("status %d, expected kBadArgument", static_cast<int>(s));
  }
  if (!out.same_bytes(before)) fail_case("the output was touched");
}

void Suite::survived(const std::function<Status(const ExecContext&)>& run, const Tensor& out,
                     int64_t concerned) {
  const Tensor before = out.clone();
  const Execution execution(Execution::Threads::kNone, 1, 1);
  run_name_ = "bad contents";
  Status s = run(execution.context());
  if (s == Status::kOk) s = finish(table_);
  if (s != Status::kOk) fail_case("status %d %s", static_cast<int>(s), failure(table_));
  if (out.first_stray_write(before)) fail_case("wrote outside the output");
  if (!execution.scratch_intact()) fail_case("wrote beyond its scratch");
  if (concerned < 0) return;
  for (const float value : out.values(concerned)) {
    if (!std::isnan(value)) {
      fail_case("row %lld is not NaN although its arguments are wrong", static_cast<long long>(concerned));
      return;
    }
  }
}

void Suite::values_match(const std::function<Status(const ExecContext&)>& run, const Tensor& out,
                         const std::vector<double>& expected) {
  const Execution execution(Execution::Threads::kNone, 1, 1);
  run_name_ = "literal values";
  Status s = run(execution.context());
  if (s == Status::kOk) s = finish(table_);
  if (s != Status::kOk) {
    fail_case("status %d", static_cast<int>(s));
    return;
  }
  if (static_cast<int64_t>(expected.size()) != out.rows() * out.cols()) {
    fail_case("%zu literals for %lld elements", expected.size(),
              static_cast<long long>(out.rows() * out.cols()));
    return;
  }
  for (int64_t r = 0; r < out.rows(); ++r) {
    const std::vector<float> values = out.values(r);
    for (int64_t c = 0; c < out.cols(); ++c) {
      const double want = expected[static_cast<size_t>(r * out.cols() + c)];
      const double got = values[static_cast<size_t>(c)];
      // The literals are rounded to nine digits; f32 evaluation adds a few units of its last place.
      if (!(std::fabs(got - want) <= 1e-6 * std::fabs(want) + 2e-8)) {
        fail_case("out[%lld][%lld] is %.9g, expected %.9g", static_cast<long long>(r),
                  static_cast<long long>(c), got, want);
        return;
      }
    }
  }
}

}  // namespace trimtok::parity
