// Chat templates for Qwen-VL files without one. Conversations are ChatML; Qwen2-VL and Qwen2.5-VL begin with
// a system message that they were trained with, Qwen3-VL does not.
#pragma once

namespace trimtok {

// Spec 11.2: the published template without its branches for video, which arrives as pictures.
inline constexpr const char* kQwen2VlTemplate = R"jinja(
{%- for m in messages %}
  {%- if loop.first and m.role != 'system' %}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
  {%- endif %}
  {{- '<|im_start|>' ~ m.role ~ '\n' }}
  {%- if m.content is string %}
    {{- m.content }}
  {%- else %}
    {%- for part in m.content %}
      {%- if part.type == 'image' %}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
      {%- elif 'text' in part %}
        {{- part.text }}
      {%- endif %}
    {%- endfor %}
  {%- endif %}
  {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\n' }}
{%- endif %})jinja";

inline constexpr const char* kQwen3VlTemplate = R"jinja(
{%- for m in messages %}
  {{- '<|im_start|>' ~ m.role ~ '\n' }}
  {%- if m.content is string %}
    {{- m.content }}
  {%- else %}
    {%- for part in m.content %}
      {%- if part.type == 'image' %}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
      {%- elif 'text' in part %}
        {{- part.text }}
      {%- endif %}
    {%- endfor %}
  {%- endif %}
  {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\n' }}
{%- endif %})jinja";

}  // namespace trimtok
