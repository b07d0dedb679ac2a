#include "engine/adapter/gguf_lora.h"

#include <algorithm>
#include <cmath>

#include "engine/adapter/collector.h"
#include "engine/base/text.h"
#include "engine/gguf/codec.h"
#include "engine/gguf/header_parser.h"
#include "engine/gguf/writer.h"

namespace lapidary::adapter {
namespace {

using gguf::TensorType;

constexpr std::string_view kArchitecture = "gemma4";
constexpr std::string_view kAlphaKey = "adapter.lora.alpha";
constexpr std::string_view kBaseNameKey = "general.base_model.0.name";
constexpr std::string_view kDigestKey = "lapidary.base_model_digest";  // the format has none

std::unexpected<Error> unsupported(const std::string& message) {
  return fail(ErrorCode::kUnsupported, cat("GGUF adapter: ", message));
}

Status require_text(const gguf::Header& header, std::string_view key, std::string_view expected) {
  TRY(const std::string_view found, header.get_string(key, ""));
  if (found == expected) return {};
  return unsupported(cat("'", key, "' is '", printable(found), "', expected '", expected, "'"));
}

// A layer's tensor: "blk.3.attn_q.weight"; the head's: "output.weight".
std::optional<Target> parse_base(std::string_view name) {
  Target target;
  if (name == model::tensor_name(target.role)) return target;
  constexpr std::string_view kPrefix = "blk.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  const auto layer = parse_layer(name.substr(0, name.find('.')));
  if (!layer) return std::nullopt;
  target.layer = *layer;
  for (const model::TensorRole role : kRoles) {
    target.role = role;
    if (model::tensor_name(role, static_cast<int>(*layer)).substr(kPrefix.size()) == name) {
      return target;
    }
  }
  return std::nullopt;
}

Result<Target> parse_name(std::string_view name) {
  constexpr std::pair<std::string_view, Half> kEnds[] = {{".lora_a", Half::kA},
                                                         {".lora_b", Half::kB}};
  for (const auto& [end, half] : kEnds) {
    if (!name.ends_with(end)) continue;
    if (auto target = parse_base(name.substr(0, name.size() - end.size()))) {
      target->half = half;
      return *target;
    }
    return unsupported(
        cat("tensor '", printable(name), "' changes a matrix that adapters cannot change here"));
  }
  return unsupported(
      cat("tensor '", printable(name), "' is not a LoRA matrix (….lora_a, ….lora_b)"));
}

Status add_tensor(Collector& collector, const gguf::TensorInfo& tensor, Bytes file) {
  TRY(const Target target, parse_name(tensor.name));
  const bool readable = tensor.type == TensorType::kF32 || tensor.type == TensorType::kF16 ||
                        tensor.type == TensorType::kBF16 || tensor.type == TensorType::kQ8_0;
  if (!readable) {
    return unsupported(cat("tensor '", printable(tensor.name), "' is of type ",
                           gguf::tensor_type_info(tensor.type).name,
                           ", expected F32, F16, BF16 or Q8_0"));
  }
  if (tensor.dims[2] != 1 || tensor.dims[3] != 1) {
    return unsupported(cat("tensor '", printable(tensor.name), "' has over 2 dimensions"));
  }
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  TRY_VOID(gguf::decode_block_row(
      tensor.type,
      file.subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.bytes)), values));
  return collector.add(target, tensor.name, tensor.dims[1], tensor.dims[0], std::move(values));
}

// alpha such that alpha / rank is the module's scale.
float plain_alpha(const LoraAdapter& adapter, const LoraModule& module) {
  return adapter.rs_lora ? static_cast<float>(scale(adapter, module) * module.rank) : module.alpha;
}

}  // namespace

Result<LoraAdapter> read_gguf_lora(Bytes file) {
  TRY(const gguf::Header header, gguf::parse_header(file));
  TRY_VOID(require_text(header, "general.type", "adapter"));
  TRY_VOID(require_text(header, "adapter.type", "lora"));
  TRY_VOID(require_text(header, "general.architecture", kArchitecture));
  if (header.find("adapter.alora.invocation_tokens")) {
    return unsupported("'adapter.alora.invocation_tokens' is not supported");
  }
  LoraAdapter adapter;
  Collector collector;
  for (const gguf::TensorInfo& tensor : header.tensors()) {
    TRY_VOID(add_tensor(collector, tensor, file));
  }
  TRY(adapter.modules, std::move(collector).finish());
  TRY(const double value, header.get_float(kAlphaKey, 0.0));
  const std::optional<float> alpha = float_alpha(value);
  if (!alpha) {
    return fail(ErrorCode::kInvalidFormat, cat("GGUF adapter: '", kAlphaKey, "' is out of range"));
  }
  // llama.cpp takes an alpha of 0 as a scale of 1.
  for (LoraModule& module : adapter.modules) {
    module.alpha = *alpha == 0 ? static_cast<float>(module.rank) : *alpha;
  }
  adapter.rank = adapter.modules[0].rank;
  adapter.alpha = adapter.modules[0].alpha;
  TRY(adapter.name, header.get_string("general.name", ""));
  TRY(adapter.base_model, header.get_string(kBaseNameKey, ""));
  TRY(adapter.base_digest, header.get_string(kDigestKey, ""));
  TRY_VOID(check(adapter));
  return adapter;
}

Result<std::vector<std::byte>> write_gguf_lora(const LoraAdapter& adapter) {
  TRY_VOID(check(adapter));
  const float alpha = plain_alpha(adapter, adapter.modules[0]);
  if (!std::isfinite(alpha)) return unsupported("alpha is too large for the format");
  gguf::Writer writer;
  writer.add("general.architecture", kArchitecture);
  writer.add("general.type", std::string_view("adapter"));
  writer.add("adapter.type", std::string_view("lora"));
  if (!adapter.name.empty()) writer.add("general.name", adapter.name);
  if (!adapter.base_model.empty()) {
    writer.add("general.base_model.count", uint32_t{1});
    writer.add(kBaseNameKey, adapter.base_model);
  }
  if (!adapter.base_digest.empty()) writer.add(kDigestKey, adapter.base_digest);
  writer.add("general.file_type", uint32_t{0});  // all F32
  writer.add(kAlphaKey, alpha);
  writer.add("general.quantization_version", uint32_t{2});
  for (const LoraModule& module : adapter.modules) {
    const std::string name = module_name(module);
    writer.add_tensor(cat(name, ".lora_a"), {module.inputs, module.rank}, TensorType::kF32,
                      std::as_bytes(std::span(module.a)));
    const std::initializer_list<uint64_t> dims = {module.rank, module.outputs};
    if (plain_alpha(adapter, module) == alpha) {
      writer.add_tensor(cat(name, ".lora_b"), dims, TensorType::kF32,
                        std::as_bytes(std::span(module.b)));
      continue;
    }
    const double factor = scale(adapter, module) * module.rank / double{alpha};
    std::vector<std::byte> folded(module.b.size() * sizeof(float));
    for (size_t i = 0; i < module.b.size(); ++i) {
      const auto value = static_cast<float>(double{module.b[i]} * factor);
      if (!std::isfinite(value)) {
        return unsupported(cat(name, ": its scale differs too much from the others'"));
      }
      std::memcpy(folded.data() + i * sizeof value, &value, sizeof value);
    }
    writer.add_tensor(cat(name, ".lora_b"), dims, TensorType::kF32, std::move(folded));
  }
  return writer.finish();
}

}  // namespace lapidary::adapter
