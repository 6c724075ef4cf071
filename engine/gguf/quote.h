// Names and keys come from hostile files and end up in terminals and Python strings.
#pragma once

#include <string>
#include <string_view>

namespace trimtok {

bool is_utf8(std::string_view text);
// 'text' in quotes, control bytes and broken UTF-8 as \xNN, cut after about max_bytes.
std::string quote_text(std::string_view text, size_t max_bytes = 96);
// A path in quotes: never cut, since the end is what tells files apart.
std::string quote_path(std::string_view path);

}  // namespace trimtok
