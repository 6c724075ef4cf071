// Where a processor without AMX meets a tile instruction it raises SIGILL: the handler decodes the
// instruction, executes it by the model and goes on behind it.
#include <atomic>

#include "tile_unit.h"

#if defined(__linux__) && defined(__x86_64__)
#include <signal.h>
#include <ucontext.h>
#endif

namespace trimtok::parity {
namespace {

std::atomic<const char*> g_complaint = nullptr;
std::atomic<int64_t> g_executed = 0;
std::atomic<int32_t> g_configured = 0;  // threads

}  // namespace

const char* take_tile_complaint() {
  const char* complaint = g_complaint.exchange(nullptr);
  if (complaint != nullptr) return complaint;
  return g_configured.load() != 0 ? "a thread's tiles were left configured" : nullptr;
}

int64_t trapped_tile_instructions() {
  return g_executed.load();
}

#if defined(__linux__) && defined(__x86_64__)

namespace {

thread_local TileUnit t_unit;

// C4, then two bytes of VEX: ~R ~X ~B and the opcode map, W ~vvvv L and the prefix; opcode; ModRM; SIB.
struct Instruction {
  uint8_t opcode;
  int prefix;  // 0 none, 1: 66, 2: F3, 3: F2
  bool memory;
  int reg;     // ModRM.reg
  int rm;      // ModRM.rm, where it names a register
  int second;  // VEX.vvvv
  char* address;
  int64_t stride;  // of a SIB operand: the scaled index
  int length;
};

int64_t gpr(const greg_t* regs, int i) {
  constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return regs[kOrder[i]];
}

int64_t little_endian(const uint8_t* p, int bytes) {
  uint32_t v = 0;
  for (int i = 0; i < bytes; ++i) v |= static_cast<uint32_t>(p[i]) << (8 * i);
  return bytes == 1 ? static_cast<int8_t>(v) : static_cast<int32_t>(v);
}

// Vector instructions of map 0F38, 128 bits, W = 0: where all tile instructions of AMX-TILE, -BF16, -INT8
// are.
bool decode(const uint8_t* code, const greg_t* regs, Instruction* i) {
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) return false;
  const int reg_high = (code[1] & 0x80) == 0 ? 8 : 0;
  const int index_high = (code[1] & 0x40) == 0 ? 8 : 0;
  const int base_high = (code[1] & 0x20) == 0 ? 8 : 0;
  const int mode = code[4] >> 6;
  const int rm = code[4] & 7;
  *i = {code[3], code[2] & 3, mode != 3, (code[4] >> 3 & 7) + reg_high, rm + base_high, ~code[2] >> 3 & 15,
        nullptr, 0,           5};
  if (!i->memory) return true;
  int64_t base = 0;
  int displacement = mode == 1 ? 1 : mode == 2 ? 4 : 0;
  bool relative = false;
  if (rm == 4) {
    const int sib = code[i->length++];
    const int index = (sib >> 3 & 7) + index_high;
    if (index != 4) i->stride = gpr(regs, index) << (sib >> 6);
    if ((sib & 7) == 5 && mode == 0) {
      displacement = 4;
    } else {
      base = gpr(regs, (sib & 7) + base_high);
    }
  } else if (rm == 5 && mode == 0) {
    displacement = 4;
    relative = true;
  } else {
    base = gpr(regs, rm + base_high);
  }
  if (displacement > 0) base += little_endian(code + i->length, displacement);
  i->length += displacement;
  if (relative) base += regs[REG_RIP] + i->length;
  i->address = reinterpret_cast<char*>(base);
  return true;
}

// False for what is no tile instruction that the kernels use.
bool execute(const Instruction& i, const char** complaint) {
  const int key = i.opcode << 8 | i.prefix << 4 | (i.memory ? 1 : 0);
  switch (key) {
    case 0x4901: {  // an index is part of the address here
      const bool before = t_unit.configured();
      *complaint = t_unit.configure(i.address + i.stride);
      g_configured += (t_unit.configured() ? 1 : 0) - (before ? 1 : 0);
      return i.reg == 0;
    }
    case 0x4900:
      g_configured -= t_unit.configured() ? 1 : 0;
      *complaint = t_unit.release();
      return i.reg == 0 && i.rm == 0;
    case 0x4930:
      *complaint = t_unit.zero(i.reg);
      return true;
    case 0x4b31:
      *complaint = t_unit.load(i.reg, i.address, i.stride);
      return true;
    case 0x4b21:
      *complaint = t_unit.store(i.reg, i.address, i.stride);
      return true;
    case 0x5c20:
      *complaint = t_unit.dot_bf16(i.reg, i.rm, i.second);
      return true;
    case 0x5e20:
      *complaint = t_unit.dot_int8(i.reg, i.rm, i.second);
      return true;
    default:
      return false;
  }
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  auto* regs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  Instruction instruction;
  const char* complaint = nullptr;
  int64_t executed = 0;
  // The next one is often of the same kind, and a trap costs a thousand times as much as looking.
  while (decode(reinterpret_cast<const uint8_t*>(regs[REG_RIP]), regs, &instruction) &&
         execute(instruction, &complaint)) {
    ++executed;
    const char* none = nullptr;
    if (complaint != nullptr) g_complaint.compare_exchange_strong(none, complaint);
    regs[REG_RIP] += instruction.length;
  }
  g_executed += executed;
  if (executed == 0) signal(SIGILL, SIG_DFL);  // comes back at once, and dies as it would have
}

bool install() {
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vnni")) return false;
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  if (sigaction(SIGILL, &action, nullptr) != 0) return false;
  __asm__ volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0xc0" : : : "memory");  // tilerelease
  return trapped_tile_instructions() > 0;
}

}  // namespace

bool trap_tile_instructions() {
  static const bool kTrapped = install();
  return kTrapped;
}

#else

bool trap_tile_instructions() {
  return false;
}

#endif

}  // namespace trimtok::parity
