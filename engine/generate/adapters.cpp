#include "engine/generate/adapters.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/adapter/gguf_lora.h"
#include "engine/adapter/peft.h"
#include "engine/adapter/rullama.h"
#include "engine/adapter/safetensors.h"
#include "engine/base/text.h"
#include "engine/gguf/header_parser.h"
#include "engine/gpu/source.h"

namespace lapidary::generate {
namespace {

Status check_values(uint64_t values) {
  if (values <= kMaxAdapterValues) return {};
  return fail(ErrorCode::kOutOfMemory, cat("the adapter has ", values, " values; at most ",
                                           kMaxAdapterValues, " fit in memory"));
}

// Names the adapters that are on, and how strongly.
std::string key_of(const std::string& content, float scale) {
  return cat(content, ":", std::bit_cast<uint32_t>(scale), " ");
}

// Tells contents apart, not forgeries: 128 bits of a mixing hash.
class Fingerprint {
 public:
  void add(uint64_t word) {
    a_ = std::rotl(a_ ^ word, 29) * 0x9e3779b97f4a7c15u;
    b_ = (std::rotl(b_, 37) + word) * 0xc2b2ae3d27d4eb4fu;
  }
  void add(std::span<const float> values) {
    add(values.size());
    for (const float value : values) add(std::bit_cast<uint32_t>(value));
  }
  std::string text() const { return cat(a_ ^ (a_ >> 31), "-", b_ ^ (b_ >> 29)); }

 private:
  uint64_t a_ = 1;
  uint64_t b_ = 2;
};

std::string content_of(std::span<const model::AdapterMatrix> matrices) {
  Fingerprint print;
  for (const model::AdapterMatrix& matrix : matrices) {
    print.add(static_cast<uint64_t>(matrix.role));
    print.add(matrix.layer);
    print.add(matrix.rank);
    print.add(std::bit_cast<uint64_t>(matrix.scale));
    print.add(matrix.a);
    print.add(matrix.b);
  }
  return print.text();
}

}  // namespace

Result<float> parse_adapter_scale(const Json& json, float absent) {
  const Json* scale = json_member(json, "scale");
  if (scale == nullptr || scale->is_null()) return absent;
  const double value = scale->is_number() ? scale->get<double>() : NAN;
  if (!(std::fabs(value) <= kMaxAdapterScale)) {
    return fail(ErrorCode::kInvalidArgument, cat("an adapter's scale must be a number from -",
                                                 kMaxAdapterScale, " to ", kMaxAdapterScale));
  }
  return static_cast<float>(value);
}

Result<adapter::LoraAdapter> read_adapter(Bytes file, const std::string* config) {
  if (file.size() >= 4 && std::memcmp(file.data(), "GGUF", 4) == 0) {
    TRY(const gguf::Header header, gguf::parse_header(file));
    uint64_t values = 0;
    for (const gguf::TensorInfo& tensor : header.tensors()) values += tensor.elements();
    TRY_VOID(check_values(values));
    return adapter::read_gguf_lora(file);
  }
  TRY_VOID(check_values(file.size() / 2));  // two bytes a value at least
  TRY(const adapter::Safetensors parsed, adapter::parse_safetensors(file));
  const std::string* format = parsed.find_metadata("format");
  if (format != nullptr && format->starts_with("rullama")) return adapter::read_rullama(file);
  if (config != nullptr) return adapter::read_peft(file, *config);
  return fail(ErrorCode::kInvalidArgument,
              "a PEFT adapter needs its adapter_config.json beside the safetensors");
}

Task<Result<adapter::LoraAdapter>> read_adapter_source(uint32_t source, Json options,
                                                       std::function<bool()> cancelled) {
  const Json* config = json_member(options, "config");
  const std::string* config_text =
      config != nullptr && config->is_string() ? &config->get_ref<const std::string&>() : nullptr;
  CO_TRY(const std::vector<std::byte> file,
         co_await gpu::read_source(source, kMaxAdapterBytes, "the adapter's file", cancelled));
  co_return read_adapter(file, config_text);
}

Task<Status> Adapters::apply(std::vector<Loaded> wanted) {
  std::vector<model::ActiveAdapter> active;
  std::string key;
  for (const Loaded& one : wanted) {
    if (one.scale == 0) continue;
    active.push_back({one.weights, one.scale});
    key += key_of(one.content, one.scale);
  }
  CO_TRY_VOID(co_await session_.set_adapters(active, std::move(key)));
  loaded_ = std::move(wanted);
  co_return Status{};
}

Task<Result<uint32_t>> Adapters::add(const adapter::LoraAdapter& adapter, float scale,
                                     std::string name) {
  if (loaded_.size() >= kMaxAdapters) {
    co_return fail(ErrorCode::kInvalidArgument,
                   cat("there are ", loaded_.size(), " adapters already; remove one first"));
  }
  CO_TRY_VOID(adapter::check(adapter, config_));
  CO_TRY_VOID(adapter::check_digest(adapter, digest_));
  std::vector<model::AdapterMatrix> matrices;
  uint64_t parameters = 0;
  for (const adapter::LoraModule& module : adapter.modules) {
    matrices.push_back({.role = module.role,
                        .layer = module.layer,
                        .rank = module.rank,
                        .inputs = module.inputs,
                        .outputs = module.outputs,
                        .scale = adapter::scale(adapter, module),
                        .a = module.a,
                        .b = module.b});
    parameters += module.a.size() + module.b.size();
  }
  std::string content = content_of(matrices);
  CO_TRY(model::AdapterWeights weights, co_await model::upload_adapter(device_, matrices));
  const uint32_t id = next_id_;
  Json description = {{"id", id},
                      {"name", printable(adapter.name.empty() ? name : adapter.name)},
                      {"rank", adapter.rank},
                      {"alpha", adapter.alpha},
                      {"rsLora", adapter.rs_lora},
                      {"baseModel", printable(adapter.base_model)},
                      {"baseDigest", printable(adapter.base_digest, 128)},
                      {"matrices", adapter.modules.size()},
                      {"parameters", parameters},
                      {"gpuBytes", weights.bytes}};
  std::vector<Loaded> wanted = loaded_;
  wanted.push_back({.id = id,
                    .description = std::move(description),
                    .content = std::move(content),
                    .weights = std::make_shared<model::AdapterWeights>(std::move(weights)),
                    .scale = scale});
  CO_TRY_VOID(co_await apply(std::move(wanted)));
  ++next_id_;
  co_return id;
}

Task<Result<Json>> Adapters::load(uint32_t source, Json options, std::function<bool()> cancelled) {
  CO_TRY(const float scale, parse_adapter_scale(options, 1));
  if (const Json* id = json_member(options, "id")) {
    if (!id->is_number_unsigned() || *id < next_id_ || *id > kMaxAdapterId)
      co_return fail(ErrorCode::kInvalidArgument, "an adapter's id must be above all before it");
    next_id_ = id->get<uint32_t>();
  }
  const Json* name = json_member(options, "name");
  CO_TRY(const adapter::LoraAdapter adapter,
         co_await read_adapter_source(source, options, cancelled));
  if (cancelled()) co_return fail(ErrorCode::kCancelled, "cancelled");
  CO_TRY(const uint32_t id,
         co_await add(adapter, scale,
                      name != nullptr && name->is_string() ? name->get<std::string>() : ""));
  static_cast<void>(id);
  co_return describe().back();
}

Task<Status> Adapters::set(Json request) {
  if (!request.is_array())
    co_return fail(ErrorCode::kInvalidArgument, "adapters are a list of ids and scales");
  std::vector<Loaded> wanted = loaded_;
  for (Loaded& one : wanted) one.scale = 0;
  std::vector<uint32_t> seen;
  for (const Json& entry : request) {
    const Json* id = json_member(entry, "id");
    const auto found = std::ranges::find_if(wanted, [&](const Loaded& one) {
      return id != nullptr && id->is_number_unsigned() && *id == one.id;
    });
    if (found == wanted.end() || std::ranges::contains(seen, found->id)) {
      co_return fail(ErrorCode::kInvalidArgument,
                     cat("there is no adapter ", id == nullptr ? "without an id" : dump_json(*id),
                         ", or it is named twice"));
    }
    seen.push_back(found->id);
    CO_TRY(found->scale, parse_adapter_scale(entry, 1));
  }
  co_return co_await apply(std::move(wanted));
}

Task<Status> Adapters::remove(uint32_t id) {
  std::vector<Loaded> wanted = loaded_;
  if (std::erase_if(wanted, [&](const Loaded& one) { return one.id == id; }) == 0)
    co_return fail(ErrorCode::kInvalidArgument, cat("there is no adapter ", id));
  co_return co_await apply(std::move(wanted));
}

Json Adapters::describe() const {
  Json out = Json::array();
  for (const Loaded& one : loaded_) {
    out.push_back(one.description);
    out.back()["scale"] = one.scale;
  }
  return out;
}

}  // namespace lapidary::generate
