// Merging: what the file holds afterwards, against sums in doubles, and what is refused.
#include "engine/adapter/merge.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/adapter/gguf_lora.h"
#include "engine/adapter/peft.h"
#include "engine/adapter/test_adapter.h"
#include "engine/gguf/codec.h"
#include "engine/gguf/writer.h"

namespace lapidary::adapter {
namespace {

using enum ErrorCode;
using enum model::TensorRole;
using gguf::TensorType;
using reference::read_fixture;
using File = std::vector<std::byte>;

constexpr uint64_t kMost = 1 << 24;
constexpr std::string_view kNano =
    "models/blobs/sha256-5a3f7d0cb69d6eb360230082189a797bb41547f35057d88270de2660ab83059c";

std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// An F32 model with rows of 32 and its adapter; a Q4_K_M one with rows of 256 and its.
const File& tiny() {
  static const File kFile = read_fixture("gemma4/tiny-dense.gguf");
  return kFile;
}
const File& nano() {
  static const File kFile = read_fixture(kNano);
  return kFile;
}
LoraAdapter tiny_lora() { return *read_gguf_lora(read_fixture("gemma4/tiny-dense-lora.gguf")); }
LoraAdapter nano_lora() {
  const File config = read_fixture("nano-lora/adapter_config.json");
  return *read_peft(read_fixture("nano-lora/part.safetensors"), text_of(config));
}

Result<MergePlan> plan(const File& base, LoraAdapter adapter,
                       std::optional<TensorType> type = std::nullopt, float scale = 1) {
  TRY(gguf::Header header, gguf::parse_header(base));
  std::vector<ScaledAdapter> adapters;
  adapters.push_back({std::move(adapter), scale});
  return MergePlan::make(std::move(header), std::move(adapters), type, kMost);
}

// The merged file; matrices in pieces of `rows` rows.
Result<File> merge(const MergePlan& plan, const File& base, MergeMeasure& measure,
                   uint64_t rows = 7) {
  File out(plan.header().begin(), plan.header().end());
  for (const MergedTensor& tensor : plan.tensors()) {
    EXPECT_EQ(out.size(), tensor.offset);
    const Bytes data = Bytes(base).subspan(tensor.base->offset, tensor.base->bytes);
    const uint64_t all = tensor.base->rows(), row = data.size() / all;
    if (tensor.terms.empty()) out.insert(out.end(), data.begin(), data.end());
    for (uint64_t at = 0; !tensor.terms.empty() && at < all; at += rows) {
      TRY(const File piece,
          merge_rows(tensor, at, data.subspan(at * row, std::min(rows, all - at) * row), measure));
      out.insert(out.end(), piece.begin(), piece.end());
    }
    out.resize(round_up(out.size(), plan.alignment()));
  }
  EXPECT_EQ(out.size(), plan.file_size());
  return out;
}

std::vector<float> decode(const gguf::TensorInfo& tensor, const File& file) {
  std::vector<float> values(tensor.elements());
  EXPECT_TRUE(gguf::decode_block_row(tensor.type, Bytes(file).subspan(tensor.offset, tensor.bytes),
                                     values));
  return values;
}

// A changed entry of the header: where a tensor's n_dims lie, the type after them, the offset then.
size_t entry_of(const File& file, std::string_view name) {
  std::string entry(8, '\0');
  entry[0] = static_cast<char>(name.size());
  const size_t at = text_of(file).find(entry + std::string(name));
  EXPECT_NE(at, std::string_view::npos) << name;
  return at + 8 + name.size();
}
File with_type(File file, std::string_view name, TensorType type) {
  std::memcpy(file.data() + entry_of(file, name) + 4 + 16, &type, 4);
  return file;
}

// What is added to one matrix, in doubles.
std::vector<double> change(const LoraAdapter& adapter, const LoraModule& module, double factor) {
  std::vector<double> out(size_t{module.outputs} * module.inputs);
  for (size_t o = 0; o < module.outputs; ++o) {
    for (size_t r = 0; r < module.rank; ++r) {
      const double b = factor * scale(adapter, module) * module.b[o * module.rank + r];
      for (size_t i = 0; i < module.inputs; ++i)
        out[o * module.inputs + i] += b * module.a[r * module.inputs + i];
    }
  }
  return out;
}

// Root of the mean square of merged - (base + change), relative to that of base + change.
double error_of(const gguf::Header& merged, const File& out, const gguf::Header& header,
                const File& base, const LoraAdapter& adapter, const LoraModule& module,
                double factor) {
  const std::string name = module_name(module);
  const std::vector<float> before = decode(*header.tensor(name), base);
  const std::vector<float> after = decode(*merged.tensor(name), out);
  std::vector<double> wanted = change(adapter, module, factor);
  double error = 0, power = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    wanted[i] += before[i];
    error += std::pow(after[i] - wanted[i], 2);
    power += std::pow(wanted[i], 2);
  }
  return std::sqrt(error / power);
}

struct Case {
  std::optional<TensorType> type;
  double bound;
};
class Merge : public testing::TestWithParam<Case> {};

TEST_P(Merge, AddsTheChangeAndCopiesTheRest) {
  LoraAdapter adapter = nano_lora();
  adapter.modules.resize(2);
  // Three steps of training change little: strong enough to be told from the rounding.
  constexpr float kScale = 60;
  auto made = plan(nano(), adapter, GetParam().type, kScale);
  ASSERT_TRUE(made) << made.error().message;
  MergeMeasure measure;
  const auto out = merge(*made, nano(), measure);
  ASSERT_TRUE(out) << out.error().message;
  const auto header = gguf::parse_header(nano()), merged = gguf::parse_header(*out);
  ASSERT_TRUE(merged) << merged.error().message;
  EXPECT_TRUE(std::ranges::equal(merged->preamble(), header->preamble()));
  ASSERT_EQ(merged->tensors().size(), header->tensors().size());
  size_t changed = 0;
  for (size_t i = 0; i < merged->tensors().size(); ++i) {
    const gguf::TensorInfo &before = header->tensors()[i], &after = merged->tensors()[i];
    EXPECT_EQ(after.name, before.name);
    EXPECT_EQ(after.n_dims, before.n_dims);
    EXPECT_EQ(after.dims, before.dims);
    if (!made->tensors()[i].terms.empty()) {
      ++changed;
      EXPECT_EQ(after.type, GetParam().type.value_or(before.type));
      continue;
    }
    EXPECT_EQ(after.type, before.type);
    EXPECT_EQ(text_of(Bytes(*out).subspan(after.offset, after.bytes)),
              text_of(Bytes(nano()).subspan(before.offset, before.bytes)));
  }
  EXPECT_EQ(changed, 2u);
  for (const LoraModule& module : adapter.modules) {
    const double error = error_of(*merged, *out, *header, nano(), adapter, module, kScale);
    EXPECT_LE(error, GetParam().bound) << module_name(module);
    EXPECT_GE(error, GetParam().bound / 20) << module_name(module);
  }
  EXPECT_GT(measure.change, 0);
  if (GetParam().bound < 1e-3) {
    EXPECT_NEAR(measure.kept / measure.change, 1, 0.01);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Types, Merge,
    testing::Values(Case{std::nullopt, 0.1}, Case{TensorType::kF32, 1e-7},
                    Case{TensorType::kF16, 4e-4}, Case{TensorType::kBF16, 3e-3},
                    Case{TensorType::kQ8_0, 0.01}, Case{TensorType::kQ4_0, 0.12},
                    Case{TensorType::kQ5_0, 0.06}, Case{TensorType::kQ4_K, 0.1},
                    Case{TensorType::kQ5_K, 0.05}, Case{TensorType::kQ6_K, 0.03}),
    [](const auto& info) {
      return info.param.type ? std::string(gguf::tensor_type_info(*info.param.type).name)
                             : std::string("keep");
    });

TEST(MergePlan, AddsSeveralAdaptersToOneMatrix) {
  auto header = gguf::parse_header(tiny());
  const LoraAdapter adapter = tiny_lora();
  auto made = MergePlan::make(std::move(*header), {{adapter, 1}, {adapter, -0.25f}, {adapter, 0}},
                              std::nullopt, kMost);
  ASSERT_TRUE(made) << made.error().message;
  MergeMeasure measure;
  const auto out = merge(*made, tiny(), measure);
  ASSERT_TRUE(out);
  const auto base = gguf::parse_header(tiny()), merged = gguf::parse_header(*out);
  for (const LoraModule& module : adapter.modules)
    EXPECT_LE(error_of(*merged, *out, *base, tiny(), adapter, module, 0.75), 1e-7);
  EXPECT_NEAR(measure.kept / measure.change, 1, 1e-5);
}

TEST(MergePlan, ScaleZeroChangesNoByte) {
  for (const uint8_t version : {2, 3}) {
    File base = tiny();
    base[4] = std::byte{version};
    auto made = plan(base, tiny_lora(), TensorType::kQ8_0, 0);
    ASSERT_TRUE(made) << made.error().message;
    MergeMeasure measure;
    EXPECT_EQ(*merge(*made, base, measure), base);
  }
}

TEST(MergePlan, KeepsAnotherAlignment) {
  const auto header = gguf::parse_header(tiny());
  gguf::Writer writer(3, 128);
  for (const gguf::KeyValue& entry : header->metadata()) writer.add(entry.key, entry.value);
  for (const gguf::TensorInfo& tensor : header->tensors()) {
    writer.add_tensor(tensor.name, std::span(tensor.dims).first(tensor.n_dims), tensor.type,
                      Bytes(tiny()).subspan(tensor.offset, tensor.bytes));
  }
  const auto base = writer.finish();
  ASSERT_TRUE(base);
  auto made = plan(*base, tiny_lora(), TensorType::kQ4_0);
  ASSERT_TRUE(made) << made.error().message;
  MergeMeasure measure;
  const auto out = merge(*made, *base, measure);
  ASSERT_TRUE(out);
  const auto merged = gguf::parse_header(*out);
  ASSERT_TRUE(merged);
  EXPECT_EQ(merged->alignment(), 128u);
  for (const gguf::TensorInfo& tensor : merged->tensors()) EXPECT_EQ(tensor.offset % 128, 0u);
}

TEST(MergePlan, WritesWhatItCanWhereATypeCannotBe) {
  using enum TensorType;
  EXPECT_EQ(writable_type(kQ4_K, 512), kQ4_K);
  EXPECT_EQ(writable_type(kQ4_K, 96), kQ5_0);
  EXPECT_EQ(writable_type(kQ6_K, 96), kQ8_0);
  EXPECT_EQ(writable_type(kQ8_0, 40), kF16);
  EXPECT_EQ(writable_type(kF32, 1), kF32);
  EXPECT_EQ(writable_type(kQ2_K, 256), kQ4_K);
  EXPECT_EQ(writable_type(kIQ4_XS, 256), kQ5_K);
  EXPECT_EQ(writable_type(kIQ4_NL, 96), kQ5_0);
  EXPECT_EQ(writable_type(kMXFP4, 32), kQ5_0);
  EXPECT_EQ(writable_type(kQ8_K, 256), kQ8_0);
  // Another type in the header than the data were written in: sound, if nonsense.
  LoraAdapter adapter = nano_lora();
  adapter.modules.resize(1);
  const std::string name = module_name(adapter.modules[0]);
  const File base = with_type(nano(), name, kQ3_K);
  auto made = plan(base, adapter);
  ASSERT_TRUE(made) << made.error().message;
  for (const MergedTensor& tensor : made->tensors()) {
    if (tensor.base->name == name) EXPECT_EQ(tensor.type, kQ4_K);
  }
}

TEST(MergePlan, RefusesWhatCannotBe) {
  LoraAdapter adapter = nano_lora();
  const std::string name = module_name(adapter.modules[0]);
  expect_error(plan(with_type(nano(), name, TensorType::kIQ2_XXS), adapter), kUnsupported, name);
  expect_error(plan(tiny(), adapter), kInvalidFormat, "another model");
  {
    LoraAdapter head = tiny_lora();
    const auto config = fixture_config("gemma4/tiny-dense.gguf");
    head.modules.push_back(make_module(0, kOutput, 4, config.hidden, config.vocab));
    expect_error(plan(tiny(), head), kUnsupported, "output head");
  }
  {
    // The first tensor's bytes twice: together more than there are.
    const auto header = gguf::parse_header(tiny());
    File base = tiny();
    for (const gguf::TensorInfo& tensor : header->tensors()) {
      const size_t offset = entry_of(base, tensor.name) + 4 + 8 * tensor.n_dims + 4;
      std::memset(base.data() + offset, 0, 8);
    }
    base.resize(base.size() / 2);
    expect_error(plan(base, tiny_lora()), kInvalidFormat, "overlap");
  }
  auto header = gguf::parse_header(nano());
  expect_error(MergePlan::make(std::move(*header), {{adapter, 1}}, std::nullopt, 100), kOutOfMemory,
               "values");
  EXPECT_TRUE(check_digest(adapter, "sha256:b"));
  adapter.base_digest = "sha256:a";
  EXPECT_TRUE(check_digest(adapter, ""));
  EXPECT_TRUE(check_digest(adapter, "sha256:a"));
  expect_error(check_digest(adapter, "sha256:b"), kIntegrity, "sha256:b");
}

TEST(MergeRows, RefusesWhatIsNotFiniteOrHasNoRoom) {
  LoraAdapter adapter = tiny_lora();
  const std::string name = module_name(adapter.modules[0]);
  const auto header = gguf::parse_header(tiny());
  MergeMeasure measure;
  File base = tiny();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(base.data() + header->tensor(name)->offset + 4, &nan, 4);
  auto made = plan(base, adapter);
  expect_error(merge(*made, base, measure), kInvalidFormat, name);

  std::ranges::fill(adapter.modules[0].a, 1e4f);
  std::ranges::fill(adapter.modules[0].b, 1e4f);
  for (const TensorType type : {TensorType::kF16, TensorType::kQ8_0, TensorType::kQ4_0}) {
    made = plan(tiny(), adapter, type);
    expect_error(merge(*made, tiny(), measure), kUnsupported, "has no room for");
  }
  std::ranges::fill(adapter.modules[0].a, 1e30f);
  std::ranges::fill(adapter.modules[0].b, 1e30f);
  made = plan(tiny(), adapter);
  expect_error(merge(*made, tiny(), measure), kUnsupported, "has no room for");
  const MergedTensor& tensor = made->tensors()[0];
  expect_error(merge_rows(tensor, 0, Bytes(tiny()).first(3), measure), kInvalidArgument, "rows");
  expect_error(merge_rows(tensor, tensor.base->rows(),
                          Bytes(tiny()).first(tensor.base->bytes / tensor.base->rows()), measure),
               kInvalidArgument, "rows");
}

}  // namespace
}  // namespace lapidary::adapter
