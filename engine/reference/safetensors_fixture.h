// Safetensors files of f32 tensors among the fixtures, for native tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "engine/reference/fixture.h"

namespace lapidary::reference {

struct FixtureTensor {
  std::vector<size_t> shape;
  std::vector<float> values;
};

// All tensors of tests/fixtures/<path>, by name. A broken file, or a tensor that is not F32, fails
// the test.
inline std::map<std::string, FixtureTensor> read_fixture_safetensors(std::string_view path) {
  const auto require = [&](bool condition, std::string_view what) {
    if (condition) return;
    ADD_FAILURE() << path << ": " << what;
    std::abort();
  };
  // The length of the header (8 bytes), the header in JSON, the values.
  const std::vector<std::byte> file = read_fixture(path);
  uint64_t length = 0;
  require(file.size() >= sizeof length, "no header");
  std::memcpy(&length, file.data(), sizeof length);
  require(length <= file.size() - sizeof length, "the header ends beyond the file");
  const auto* text = reinterpret_cast<const char*>(file.data()) + sizeof length;
  const Result<Json> header = parse_json({text, static_cast<size_t>(length)}, path);
  require(header && header->is_object(), "the header is not a JSON object");
  const Bytes data = Bytes(file).subspan(sizeof length + static_cast<size_t>(length));

  const auto sizes = [&](const Json& entry, std::string_view key) {
    const Json* list = json_member(entry, key);
    require(list && list->is_array(), "a list is missing");
    std::vector<size_t> values;
    for (const Json& value : *list) {
      require(value.is_number_unsigned(), "a size is not a number");
      values.push_back(value.get<size_t>());
    }
    return values;
  };
  std::map<std::string, FixtureTensor> tensors;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") continue;
    const Json* type = json_member(entry, "dtype");
    require(type && *type == "F32", "a tensor is not F32");
    const std::vector<size_t> offsets = sizes(entry, "data_offsets");
    require(offsets.size() == 2 && offsets[0] <= offsets[1] && offsets[1] <= data.size(),
            "a tensor lies outside the file");
    FixtureTensor& tensor = tensors[name];
    tensor.shape = sizes(entry, "shape");
    size_t left = (offsets[1] - offsets[0]) / sizeof(float);
    tensor.values.resize(left);
    for (const size_t dim : tensor.shape) {
      require(dim > 0 && left % dim == 0, "a tensor's shape does not match its values");
      left /= dim;
    }
    require(left == 1 && tensor.values.size() * sizeof(float) == offsets[1] - offsets[0],
            "a tensor's shape does not match its values");
    std::memcpy(tensor.values.data(), data.data() + offsets[0], offsets[1] - offsets[0]);
  }
  return tensors;
}

}  // namespace lapidary::reference
