// AMX in software, for machines without it: a model of the tile unit after Intel's manual, and a signal
// handler that executes on it the tile instructions at which this processor traps. So the parity program runs
// the very machine code that is shipped, one instruction at a time.
#pragma once

#include <cstdint>

namespace trimtok::parity {

// One thread's tiles. What would be a fault on a processor, or cannot be meant, is told by every call:
// nullptr, or what is wrong; nothing is done then.
class TileUnit {
 public:
  static constexpr int kTiles = 8;
  static constexpr int kMaxRows = 16;
  static constexpr int kMaxRowBytes = 64;

  const char* configure(const void* config);  // 64 bytes
  const char* release();
  const char* zero(int tile);
  const char* load(int tile, const void* p, int64_t stride);
  const char* store(int tile, void* p, int64_t stride) const;
  const char* dot_bf16(int sums, int a, int b);
  const char* dot_int8(int sums, int a, int b);  // signed a, unsigned b
  bool configured() const { return configured_; }

 private:
  const char* fault(int tile) const;
  const char* fault_of_product(int sums, int a, int b) const;

  bool configured_ = false;
  uint8_t rows_[kTiles] = {};
  uint8_t row_bytes_[kTiles] = {};
  alignas(64) uint8_t data_[kTiles][kMaxRows][kMaxRowBytes] = {};
};

// Executes tile instructions by the model from now on, in every thread. False where they do not trap, or
// where the model itself cannot run.
bool trap_tile_instructions();
// The first complaint since the last call, or nullptr: that of the model, or that a thread's tiles were left
// configured.
const char* take_tile_complaint();
// How many instructions were executed by the model so far.
int64_t trapped_tile_instructions();

}  // namespace trimtok::parity
