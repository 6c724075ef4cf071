#include <cstdio>

#include "check.h"

namespace trimtok::test {
namespace {

int g_failures = 0;

}  // namespace

void report(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
  ++g_failures;
}

int failures() {
  return g_failures;
}

}  // namespace trimtok::test

int main() {
  trimtok::test::check_allocator();
  trimtok::test::check_isolation();
  trimtok::test::check_mapping();
  trimtok::test::check_step_graph();
  if (trimtok::test::failures() == 0) std::puts("engine: all checks hold");
  return trimtok::test::failures() == 0 ? 0 : 1;
}
