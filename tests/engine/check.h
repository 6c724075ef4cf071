// The smallest test harness: a failed check says where and the process ends with 1.
#pragma once

namespace trimtok::test {

void report(const char* file, int line, const char* what);  // of a failure
int failures();

#define TT_EXPECT(condition) ((condition) ? void() : ::trimtok::test::report(__FILE__, __LINE__, #condition))

void check_allocator();
void check_isolation();
void check_mapping();
void check_step_graph();

}  // namespace trimtok::test
