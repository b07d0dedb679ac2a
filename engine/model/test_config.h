// Fixtures' files with some of their entries changed, and what Config and check_tensors make of
// them.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "engine/base/text.h"
#include "engine/gguf/writer.h"
#include "engine/model/config.h"
#include "engine/model/tensor_table.h"
#include "engine/reference/fixture.h"

namespace lapidary::model {

using gguf::TensorType;
using reference::read_fixture;

inline gguf::Header parse(Bytes file) {
  Result<gguf::Header> header = gguf::parse_header(file);
  if (!header) {
    ADD_FAILURE() << header.error().message;
    std::abort();
  }
  return std::move(*header);
}

// A metadata value to put in place of the file's.
using Entry =
    std::variant<uint32_t, int32_t, float, std::string, std::vector<int32_t>, std::vector<bool>>;

// A fixture with some of its entries changed, added (value) or removed (nullopt), and tensors
// likewise.
struct Edits {
  std::map<std::string, std::optional<Entry>> metadata;
  struct Tensor {
    std::vector<uint64_t> dims;
    TensorType type = TensorType::kF32;
  };
  std::map<std::string, std::optional<Tensor>> tensors;
  std::map<std::string, std::string> renames;
};

inline void write_entry(gguf::Writer& writer, std::string_view key, const Entry& entry) {
  if (const auto* u = std::get_if<uint32_t>(&entry)) writer.add(key, *u);
  if (const auto* i = std::get_if<int32_t>(&entry)) writer.add(key, *i);
  if (const auto* f = std::get_if<float>(&entry)) writer.add(key, *f);
  if (const auto* s = std::get_if<std::string>(&entry)) writer.add(key, std::string_view(*s));
  if (const auto* v = std::get_if<std::vector<int32_t>>(&entry)) {
    writer.add_array<int32_t>(key, std::span<const int32_t>(*v));
  }
  if (const auto* v = std::get_if<std::vector<bool>>(&entry)) {
    const auto flags = std::make_unique<bool[]>(v->size());
    std::copy(v->begin(), v->end(), flags.get());
    writer.add_array<bool>(key, std::span<const bool>(flags.get(), v->size()));
  }
}

inline std::vector<std::byte> edited(const std::string& fixture, const Edits& edits) {
  const std::vector<std::byte> file = read_fixture(cat("gemma4/", fixture, ".gguf"));
  const gguf::Header header = parse(file);
  gguf::Writer writer;
  std::set<std::string> seen;
  for (const gguf::KeyValue& kv : header.metadata()) {
    const std::string key(kv.key);
    seen.insert(key);
    const auto edit = edits.metadata.find(key);
    if (edit == edits.metadata.end()) {
      writer.add(kv.key, kv.value);
    } else if (edit->second) {
      write_entry(writer, key, *edit->second);
    }
  }
  for (const auto& [key, entry] : edits.metadata) {
    if (!seen.contains(key) && entry) write_entry(writer, key, *entry);
  }
  const auto zeros = [](const Edits::Tensor& t) {
    uint64_t elements = 1;
    for (const uint64_t dim : t.dims) elements *= dim;
    return std::vector<std::byte>(
        static_cast<size_t>(gguf::tensor_bytes(t.type, elements).value()));
  };
  for (const gguf::TensorInfo& tensor : header.tensors()) {
    const std::string name(tensor.name);
    seen.insert(name);
    const auto rename = edits.renames.find(name);
    const std::string new_name = rename == edits.renames.end() ? name : rename->second;
    const auto edit = edits.tensors.find(name);
    if (edit == edits.tensors.end()) {
      writer.add_tensor(new_name, std::span(tensor.dims.data(), tensor.n_dims), tensor.type,
                        Bytes(file).subspan(tensor.offset, tensor.bytes));
    } else if (edit->second) {
      writer.add_tensor(new_name, edit->second->dims, edit->second->type, zeros(*edit->second));
    }
  }
  for (const auto& [name, tensor] : edits.tensors) {
    if (!seen.contains(name) && tensor)
      writer.add_tensor(name, tensor->dims, tensor->type, zeros(*tensor));
  }
  Result<std::vector<std::byte>> out = writer.finish();
  if (!out) {
    ADD_FAILURE() << out.error().message;
    std::abort();
  }
  return std::move(*out);
}

// What loading makes of an edited fixture.
inline Error load_error(const std::string& fixture, const Edits& edits) {
  const std::vector<std::byte> file = edited(fixture, edits);
  const gguf::Header header = parse(file);
  const Result<Config> config = Config::from_gguf(header);
  if (!config) return config.error();
  const Status status = check_tensors(*config, header);
  return status ? Error{ErrorCode::kOk, ""} : status.error();
}

inline Config config_of(std::string_view path) {
  const gguf::Header header = parse(read_fixture(path));
  Result<Config> config = Config::from_gguf(header);
  if (!config) {
    ADD_FAILURE() << config.error().message;
    std::abort();
  }
  const Status status = check_tensors(*config, header);
  EXPECT_TRUE(status.has_value()) << status.error().message;
  return std::move(*config);
}

struct Hostile {
  const char* what;
  const char* fixture;
  Edits edits;
  ErrorCode code;
  const char* message;  // a part of it
};

// Each is refused with its code and message.
inline void expect_refused(std::span<const Hostile> table) {
  for (const Hostile& hostile : table) {
    const Error error = load_error(hostile.fixture, hostile.edits);
    EXPECT_EQ(error_code_name(error.code), error_code_name(hostile.code))
        << hostile.what << ": " << error.message;
    EXPECT_NE(error.message.find(hostile.message), std::string::npos)
        << hostile.what << ": expected \"" << hostile.message << "\" in \"" << error.message << '"';
  }
}

}  // namespace lapidary::model
