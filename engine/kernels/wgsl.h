// The text of the modules in wgsl/, embedded at compile time.
#pragma once

#include <string_view>

namespace lapidary::kernels {

// The module `name` ("common.wgsl"); empty if there is none.
std::string_view wgsl(std::string_view name);

}  // namespace lapidary::kernels
