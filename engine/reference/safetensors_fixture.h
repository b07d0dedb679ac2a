// Safetensors files of f32 tensors among the fixtures, for native tests.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "engine/adapter/safetensors.h"
#include "engine/reference/fixture.h"

namespace lapidary::reference {

// All tensors of tests/fixtures/<path>, by name. A broken file fails the test.
inline std::map<std::string, std::vector<float>> read_fixture_safetensors(std::string_view path) {
  const std::vector<std::byte> file = read_fixture(path);
  const Result<adapter::Safetensors> parsed = adapter::parse_safetensors(file);
  EXPECT_TRUE(parsed.has_value()) << path << ": " << parsed.error().message;
  std::map<std::string, std::vector<float>> tensors;
  for (const adapter::SafetensorsEntry& entry : parsed->tensors) {
    Result<std::vector<float>> values = adapter::to_floats(entry);
    EXPECT_TRUE(values.has_value()) << path << ": " << values.error().message;
    tensors[entry.name] = std::move(*values);
  }
  return tensors;
}

}  // namespace lapidary::reference
