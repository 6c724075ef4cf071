#include "engine/core/error.h"

#include <cstdarg>
#include <cstdio>

#include "trimtok/device.h"

namespace trimtok {
namespace {

std::string format_va(const char* format, va_list args) {
  va_list measure;
  va_copy(measure, args);
  const int length = std::vsnprintf(nullptr, 0, format, measure);
  va_end(measure);
  if (length < 0) return format;
  std::string text(static_cast<size_t>(length), '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, args);
  return text;
}

const char* describe(Status status) {
  switch (status) {
    case Status::kOk:
      return "ok";
    case Status::kBadArgument:
      return "bad argument (shapes or scalars break the op's contract)";
    case Status::kUnsupported:
      return "unsupported argument (a data type that this kernel table does not serve)";
    case Status::kUnimplemented:
      return "not implemented in this kernel table";
    case Status::kOutOfMemory:
      return "no memory for scratch";
    case Status::kDeviceError:
      return "the device reported an error";
  }
  return "unknown status";
}

}  // namespace

void fail(ErrorCode code, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string message = format_va(format, args);
  va_end(args);
  throw Error(code, message);
}

std::string format(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = format_va(format, args);
  va_end(args);
  return text;
}

void check_status(Status status, const char* op, const char* where) {
  if (status == Status::kOk) return;
  ErrorCode code = ErrorCode::kInternal;
  if (status == Status::kOutOfMemory) code = ErrorCode::kOutOfMemory;
  if (status == Status::kUnsupported || status == Status::kUnimplemented) code = ErrorCode::kUnsupported;
  const bool of_device = status == Status::kDeviceError;
  fail(code, "[%s] %s: %s%s%s", op, where, describe(status), of_device ? ": " : "",
       of_device ? cuda::last_error() : "");
}

}  // namespace trimtok
