// The tables that can be held to the reference, by name.
#include "harness.h"
#include "kernels/cpu/isa_tables.h"
#include "tile_unit.h"
#include "trimtok/device.h"

namespace trimtok::parity {
namespace {

// A table of an ISA that this machine lacks, whose code can be executed all the same.
struct StandIn {
  const char* name;
  Isa isa;
  const KernelTable* (*find)();
};

#if defined(__x86_64__)
const KernelTable* layered(Isa below, void (*install)(KernelTable&), KernelTable* table) {
  *table = *cpu_table(below);
  install(*table);
  return table;
}

const KernelTable* emulated_amx() {
  static KernelTable table;
  static const KernelTable* const kTable =
      cpu_table(Isa::kAvx512Bf16) != nullptr && cpu_table(Isa::kAmx) == nullptr && trap_tile_instructions()
          ? layered(Isa::kAvx512Bf16, install_amx, &table)
          : nullptr;
  return kTable;
}

const KernelTable* evex_avx_vnni() {
  static KernelTable table;
  static const KernelTable* const kTable =
      cpu_table(Isa::kAvx512) != nullptr && cpu_table(Isa::kAvxVnni) == nullptr
          ? layered(Isa::kAvx2, install_avx_vnni_evex, &table)
          : nullptr;
  return kTable;
}
#else
const KernelTable* emulated_amx() {
  return nullptr;
}
const KernelTable* evex_avx_vnni() {
  return nullptr;
}
#endif

constexpr StandIn kStandIns[] = {{"amx_emulated", Isa::kAmx, emulated_amx},
                                 {"avx_vnni_evex", Isa::kAvxVnni, evex_avx_vnni}};
constexpr int32_t kFirstStandIn = static_cast<int32_t>(Isa::kNone);
static_assert(kNumTables == kFirstStandIn + sizeof(kStandIns) / sizeof(kStandIns[0]));

const char* g_tile_complaint = nullptr;  // what finish found

}  // namespace

const char* table_name(int32_t i) {
  return i < kFirstStandIn ? isa_name(static_cast<Isa>(i)) : kStandIns[i - kFirstStandIn].name;
}

const KernelTable* find_table(int32_t i) {
  if (i < kNumIsas) return cpu_table(static_cast<Isa>(i));
  if (i >= kFirstStandIn) return kStandIns[i - kFirstStandIn].find();
  const char* reason = nullptr;
  const KernelTable* table = cuda_table(&reason);
  const bool wanted = table != nullptr && table->isa == static_cast<Isa>(i);
  return wanted && cuda::device_count(&reason) > 0 ? table : nullptr;
}

bool is_stand_in(const KernelTable& table) {
  return static_cast<int32_t>(table.isa) < kNumIsas && cpu_table(table.isa) == nullptr;
}

const char* table_name(const KernelTable& table) {
  for (const StandIn& s : kStandIns) {
    if (is_stand_in(table) && table.isa == s.isa) return s.name;
  }
  return isa_name(table.isa);
}

Status finish(const KernelTable& table) {
  if (on_device(table)) return cuda::synchronize(nullptr);
  if (table.isa != Isa::kAmx || !is_stand_in(table)) return Status::kOk;
  g_tile_complaint = take_tile_complaint();
  return g_tile_complaint == nullptr ? Status::kOk : Status::kDeviceError;
}

const char* failure(const KernelTable& table) {
  if (on_device(table)) return cuda::last_error();
  return is_stand_in(table) && g_tile_complaint != nullptr ? g_tile_complaint : "";
}

}  // namespace trimtok::parity
