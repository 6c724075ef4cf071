// The smallest test harness: a failed check says where and the process ends with 1.
#pragma once

#include <string>

#include "engine/core/error.h"

namespace trimtok::test {

void report(const char* file, int line, const char* what);  // of a failure
int failures();

#define TT_EXPECT(condition) ((condition) ? void() : ::trimtok::test::report(__FILE__, __LINE__, #condition))

// The message of the Error that `call` ends with; empty: it ended with none.
template <typename Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void check_allocator();
void check_isolation();
void check_mapping();
void check_step_graph();

}  // namespace trimtok::test
