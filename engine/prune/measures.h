// Diversity inside pictures and between them (docs/pruning.md, "Measures").
#pragma once

#include <vector>

#include "engine/prune/scene.h"

namespace trimtok {

struct Measures {
  std::vector<double> d_intra;  // per picture
  double d_intra_mean = 0.0;    // over the non-empty ones
  double d_inter = 0.0;
};

Measures measure(Backend& backend, const Scene& scene, InterMeasure inter);

}  // namespace trimtok
