// How well rows agree with the user's words.
#pragma once

#include <span>
#include <vector>

#include "engine/prune/scene.h"

namespace trimtok {

// kCosine: y . mean(t / |t|); kL2: -(|x|^2 - 2 x . mean(t)); zeros without text. y: unit rows [n, d],
// norms: [n]. Throws kNumerics for a text row that is not finite.
std::vector<double> agreement(Backend& backend, const ConstMatrix& text, Agreement kind, const ConstMatrix& y,
                              std::span<const float> norms);

// y . mean(t) / |mean(t)|; zeros without text or with a mean of zero.
std::vector<double> relevance(Backend& backend, const ConstMatrix& text, const ConstMatrix& y);

}  // namespace trimtok
