// How much memory the host has left for this process.
#pragma once

#include <cstddef>

namespace trimtok {

// Bytes that can be had without swapping: what the system calls available, in which the cached pages of
// files count, and the limit of the control group (a container), whichever is less.
size_t available_host_memory();

// Whether the system has huge pages for those who ask.
bool has_huge_pages();

}  // namespace trimtok
