// The one place that holds the version; CMakeLists.txt and pyproject.toml read this line.
#pragma once

#define TRIMTOK_VERSION "0.1.0"
