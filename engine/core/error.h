// The one exception type of the engine. Python maps each code to an exception class of its own.
#pragma once

#include <stdexcept>
#include <string>

#include "trimtok/view.h"

namespace trimtok {

enum class ErrorCode {
  kInvalidArgument,  // the caller passed something out of range           -> ValueError
  kIo,               // a file is missing or cannot be read                -> OSError
  kFormat,           // a file lies about itself                           -> ModelFormatError
  kUnsupported,      // a legal file or request that the engine cannot do  -> UnsupportedError
  kContextOverflow,  // the prompt does not fit the context                -> ContextOverflowError
  kOutOfMemory,      //                                                    -> MemoryError
  kCancelled,        // cancel() or Ctrl-C                                 -> Cancelled
  kNumerics,         // NaN or Inf where a finite number must be           -> NumericsError
  kInternal,         // a bug of ours                                      -> RuntimeError
};

// Messages have the form "[where] what is, what was expected; what to do", values included.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// printf-style message; every message of the engine is built here.
[[noreturn, gnu::format(printf, 2, 3)]] void fail(ErrorCode code, const char* format, ...);
[[gnu::format(printf, 1, 2)]] std::string format(const char* format, ...);

// Throws when a kernel reports anything but kOk; `op` names the op, `where` the caller ("llama layer 3").
void check_status(Status status, const char* op, const char* where);

}  // namespace trimtok
