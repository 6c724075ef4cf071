// Rows of a picture that lie in a rectangle: cell (x, y) is row first + y * stride + x.
#pragma once

#include <cstdint>

namespace trimtok {

struct RowGrid {
  int32_t first = 0;
  int32_t width = 0;
  int32_t height = 0;
  int32_t stride = 0;  // at least width; more where other rows (a newline) end every line
};

}  // namespace trimtok
