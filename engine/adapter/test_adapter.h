// Small adapters and damaged files for the tests of this room.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/adapter/adapter.h"
#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/gguf/header_parser.h"
#include "engine/model/config.h"
#include "engine/reference/fixture.h"

namespace lapidary::adapter {

// A safetensors file of any header and data, right or wrong.
inline std::vector<std::byte> raw_safetensors(std::string_view header, size_t data_bytes) {
  std::vector<std::byte> out(8 + header.size() + data_bytes);
  const uint64_t length = header.size();
  std::memcpy(out.data(), &length, 8);
  std::memcpy(out.data() + 8, header.data(), header.size());
  return out;
}

// A module with values that tell every place from every other.
inline LoraModule make_module(uint32_t layer, model::TensorRole role, uint32_t rank,
                              uint32_t inputs, uint32_t outputs, float alpha = 16) {
  LoraModule module{layer, role, rank, alpha, inputs, outputs, {}, {}};
  for (uint32_t i = 0; i < rank * inputs; ++i) {
    module.a.push_back(static_cast<float>(i + 1) / 7.0f);
  }
  for (uint32_t i = 0; i < rank * outputs; ++i) {
    module.b.push_back(-static_cast<float>(i + 1) / 3.0f);
  }
  return module;
}

// Three modules, the head among them.
inline LoraAdapter make_adapter() {
  using enum model::TensorRole;
  LoraAdapter adapter{.name = "capitals", .base_model = "nano", .rank = 2, .alpha = 16};
  adapter.base_digest = "sha256:" + std::string(64, 'a');
  adapter.modules = {make_module(0, kAttnQ, 2, 3, 4), make_module(11, kProj, 2, 5, 2),
                     make_module(0, kOutput, 2, 3, 6)};
  return adapter;
}

inline model::Config fixture_config(std::string_view path) {
  const std::vector<std::byte> file = reference::read_fixture(path);
  auto header = gguf::parse_header(file);
  if (!header) std::abort();
  auto config = model::Config::from_gguf(*header);
  if (!config) std::abort();
  return std::move(*config);
}

inline void expect_error(const auto& result, ErrorCode code, std::string_view text) {
  ASSERT_FALSE(result.has_value()) << "accepted; expected: " << text;
  EXPECT_EQ(error_code_name(result.error().code), error_code_name(code)) << result.error().message;
  EXPECT_TRUE(result.error().message.contains(text))
      << "'" << result.error().message << "' does not contain '" << text << "'";
}

inline std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  if (at == std::string::npos) ADD_FAILURE() << "no '" << from << "' in " << text;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

}  // namespace lapidary::adapter
