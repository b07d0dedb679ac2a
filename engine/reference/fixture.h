// Fixtures for native tests: files under tests/fixtures/, gzip undone. A missing or broken file
// fails the test.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/gguf/header_parser.h"

namespace lapidary::reference {

// All bytes of tests/fixtures/<path>, or of the whole file <path> if it begins with "models/".
inline std::vector<std::byte> read_fixture(std::string_view path) {
  const std::string file =
      cat(LAPIDARY_ROOT, path.starts_with("models/") ? "/" : "/tests/fixtures/", path);
  const std::string command = cat(path.ends_with(".gz") ? "gzip -dc '" : "cat '", file, "'");
  std::vector<std::byte> bytes;
  std::FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) {
    ADD_FAILURE() << "cannot run " << command;
    std::abort();
  }
  std::byte buffer[1 << 16];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) {
    bytes.insert(bytes.end(), buffer, buffer + n);
  }
  if (pclose(pipe) != 0 || bytes.empty()) {
    ADD_FAILURE() << "cannot read " << file;
    std::abort();
  }
  return bytes;
}

inline Json read_fixture_json(std::string_view path) {
  const std::vector<std::byte> bytes = read_fixture(path);
  Result<Json> json = parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
  if (!json) {
    ADD_FAILURE() << json.error().message;
    std::abort();
  }
  return std::move(*json);
}

inline std::vector<float> read_fixture_floats(std::string_view path) {
  const std::vector<std::byte> bytes = read_fixture(path);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

}  // namespace lapidary::reference
