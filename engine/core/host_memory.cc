#include "engine/core/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace trimtok {
namespace {

constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();

size_t system_memory() {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  size_t kib = 0;
  while (file >> name >> kib) {
    if (name == "MemAvailable:") return kib * 1024;
    std::getline(file, unit);
  }
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// The number in a file; kUnlimited where there is none ("max", no such file).
size_t number_in(const std::string& path) {
  std::ifstream file(path);
  size_t value = 0;
  return file >> value ? value : kUnlimited;
}

// Version 2 of control groups, and version 1. A container may see its own group as the root.
size_t group_limit() {
  std::ifstream file("/proc/self/cgroup");
  size_t limit = std::min(number_in("/sys/fs/cgroup/memory.max"),
                          number_in("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
  for (std::string line; std::getline(file, line);) {
    const size_t controllers = line.find(':');
    const size_t path = line.find(':', controllers + 1);
    if (controllers == std::string::npos || path == std::string::npos) continue;
    const std::string group = line.substr(path + 1);
    const std::string names = line.substr(controllers + 1, path - controllers - 1);
    if (names.empty()) limit = std::min(limit, number_in("/sys/fs/cgroup" + group + "/memory.max"));
    if (names == "memory") {
      limit = std::min(limit, number_in("/sys/fs/cgroup/memory" + group + "/memory.limit_in_bytes"));
    }
  }
  return limit;
}

}  // namespace

size_t available_host_memory() {
  return std::min(system_memory(), group_limit());
}

bool has_huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  return std::getline(file, line) && line.find("[never]") == std::string::npos;
}

}  // namespace trimtok
