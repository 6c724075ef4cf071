// trimtok_parity: every table that this machine runs against the reference bodies. Exit codes: 0 all
// equal, 1 a case failed, 2 nothing was proven (unknown option, a table that was asked for is missing, an op
// without cases), 3 the harness itself failed.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "harness.h"
#include "trimtok/device.h"

namespace trimtok::parity {
namespace {

char g_running[64] = "";

// A read beyond an input's end lands in a protected page: say whose it was before dying.
void on_fault(int) {
  const char text[] = "FAIL memory fault (a read or write beyond a tensor's end) in ";
  (void)!write(STDOUT_FILENO, text, sizeof(text) - 1);
  (void)!write(STDOUT_FILENO, g_running, std::strlen(g_running));
  (void)!write(STDOUT_FILENO, "\n", 1);
  _exit(1);
}

int usage() {
  std::fprintf(stderr,
               "usage: trimtok_parity [--isa NAME] [--op NAME] [--seed N] [--quick] [--list]\n"
               "                      [--plant tail|guard|threads|half]\n"
               "                      [--bench [--threads N] [--json] | --plan]\n");
  return 2;
}

bool parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--quick") {
      options->quick = true;
    } else if (name == "--list") {
      options->list = true;
    } else if (name == "--bench") {
      options->bench = true;
    } else if (name == "--plan") {
      options->bench = options->plan = true;
    } else if (name == "--json") {
      options->json = true;
    } else if (i + 1 == argc) {
      return false;
    } else if (name == "--isa") {
      options->isa = argv[++i];
    } else if (name == "--op") {
      options->op = argv[++i];
    } else if (name == "--plant") {
      options->plant = argv[++i];
    } else if (name == "--seed") {
      options->seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (name == "--threads") {
      options->threads = std::atoi(argv[++i]);
    } else {
      return false;
    }
  }
  bool known_op = options->op.empty();
  bool known_isa = options->isa.empty();
  for (int32_t i = 0; i < static_cast<int32_t>(Op::kCount); ++i)
    known_op |= options->op == op_name(static_cast<Op>(i));
  for (int32_t i = 0; i < kNumTables; ++i) known_isa |= options->isa == table_name(i);
  return known_op && known_isa && options->threads >= 1;
}

struct Totals {
  int64_t cases = 0;
  int64_t failures = 0;
  int32_t empty_ops = 0;
};

void check_op(Op op, Suite& suite) {
  switch (op) {
#define TT_OP(name, Args) \
  case Op::k_##name:      \
    check_##name(suite);  \
    break;
#include "trimtok/ops.def"
#undef TT_OP
    case Op::kCount:
      break;
  }
}

Totals check_table(const KernelTable& table, const Options& options) {
  Totals totals;
  for (int32_t i = 0; i < static_cast<int32_t>(Op::kCount); ++i) {
    const auto op = static_cast<Op>(i);
    if (!options.op.empty() && options.op != op_name(op)) continue;
    if (is_stand_in(table) && table.served_by[i] != table.isa) continue;  // proven in the table below
    std::snprintf(g_running, sizeof(g_running), "%s %s", table_name(table), op_name(op));
    Suite suite(table, op, options);
    check_anchors(suite, op);
    check_op(op, suite);
    const bool ok = suite.failures() == 0 && suite.cases() > 0;
    std::printf("%s %s %s served_by=%s cases=%lld failures=%lld worst=%.2f\n", ok ? "PASS" : "FAIL",
                table_name(table), op_name(op), isa_name(table.served_by[i]),
                static_cast<long long>(suite.cases()), static_cast<long long>(suite.failures()),
                suite.worst());
    totals.cases += suite.cases();
    totals.failures += suite.failures();
    totals.empty_ops += suite.cases() == 0 ? 1 : 0;
  }
  return totals;
}

// What a report about a GPU must name.
void describe_device() {
  const char* reason = nullptr;
  const int32_t n = cuda::device_count(&reason);
  if (n == 0) std::printf("device none: %s\n", reason);
  for (int32_t i = 0; i < n; ++i) {
    cuda::DeviceProperties p;
    if (cuda::device_properties(i, &p) != Status::kOk) {
      std::printf("device %d unusable: %s\n", i, cuda::last_error());
      continue;
    }
    std::printf(
        "device %d \"%s\" sm_%d multiprocessors=%d memory_mib=%lld free_mib=%lld driver=%d runtime=%d\n", i,
        p.name, p.compute_capability, p.multiprocessors, static_cast<long long>(p.total_bytes >> 20),
        static_cast<long long>(p.free_bytes >> 20), p.driver_version, p.runtime_version);
  }
}

// What ComputePolicy::kAuto picks, of tables that this machine lacks too.
void list_choice(Isa isa) {
  for (const Dtype dtype : {Dtype::kF16, Dtype::kQ4_K}) {
    const auto name = [&](int64_t rows) {
      return compute_name(cpu_compute(isa, ComputePolicy::kAuto, dtype, rows));
    };
    std::printf("  auto %s few_rows=%s many_rows=%s\n", dtype_info(dtype)->name, name(1), name(512));
  }
}

void list_tables() {
  for (int32_t i = 0; i < kNumTables; ++i) {
    const KernelTable* table = find_table(i);
    std::printf("%s %s\n", table_name(i), table == nullptr ? "unavailable" : "available");
    if (i < kNumIsas) list_choice(static_cast<Isa>(i));
    for (int32_t op = 0; table != nullptr && op < static_cast<int32_t>(Op::kCount); ++op) {
      std::printf("  %s served_by=%s\n", op_name(static_cast<Op>(op)), isa_name(table->served_by[op]));
    }
  }
}

int run(const Options& options) {
  if (options.list) {
    list_tables();
    describe_device();
    return 0;
  }
  Totals totals;
  int32_t tables = 0;
  int32_t skipped = 0;
  for (int32_t i = 0; i < kNumTables; ++i) {
    if (!options.isa.empty() && options.isa != table_name(i)) continue;
    const KernelTable* table = find_table(i);
    if (table == nullptr) {
      std::printf("SKIP %s: this build or this machine has no such table\n", table_name(i));
      ++skipped;
      continue;
    }
    ++tables;
    if (options.bench && is_stand_in(*table) && table->isa == Isa::kAmx) {
      std::printf("SKIP %s: how quick a model is says nothing\n", table_name(i));
      continue;
    }
    if (options.bench) {
      bench_table(*table, options);
      continue;
    }
    KernelTable planted;
    if (!options.plant.empty()) {
      if (!plant_bug(options.plant, *table, &planted)) return usage();
      table = &planted;
    }
    const Totals mine = check_table(*table, options);
    totals.cases += mine.cases;
    totals.failures += mine.failures;
    totals.empty_ops += mine.empty_ops;
  }
  if (tables == 0) return 2;
  if (options.bench) return 0;
  if (totals.cases == 0) return 2;
  std::printf("parity: tables=%d skipped_tables=%d cases=%lld failures=%lld seed=%llu%s\n", tables, skipped,
              static_cast<long long>(totals.cases), static_cast<long long>(totals.failures),
              static_cast<unsigned long long>(options.seed), options.plant.empty() ? "" : " PLANTED BUG");
  if (totals.empty_ops > 0) return 2;
  return totals.failures > 0 ? 1 : 0;
}

}  // namespace
}  // namespace trimtok::parity

int main(int argc, char** argv) {
  trimtok::parity::Options options;
  if (!trimtok::parity::parse(argc, argv, &options)) return trimtok::parity::usage();
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  signal(SIGSEGV, trimtok::parity::on_fault);
  signal(SIGBUS, trimtok::parity::on_fault);
  return trimtok::parity::run(options);
}
