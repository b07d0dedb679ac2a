// A GGUF header as JSON, for `show` and for callers who want to look before they load.
#include <array>

#include "engine/base/text.h"
#include "engine/generate/text_model.h"
#include "engine/model/tensor_table.h"

namespace lapidary::generate {
namespace {

// Longer arrays are shown by their type and length alone.
constexpr size_t kShownElements = 16;

template <typename V>
Json scalar(const V& value) {
  if (const auto text = value.as_string()) return *text;
  if (const auto number = value.as_uint()) return *number;
  if (const auto number = value.as_int()) return *number;
  if (const auto number = value.as_float()) return *number;
  if (const auto truth = value.as_bool()) return *truth;
  return nullptr;
}

Json array(const gguf::ArrayView& view) {
  if (view.size() > kShownElements) {
    return {{"type", gguf::value_type_name(view.element_type())}, {"count", view.size()}};
  }
  Json out = Json::array();
  if (view.element_type() == gguf::ValueType::kString) {
    for (const std::string_view text : view.strings()) out.push_back(text);
    return out;
  }
  const size_t bytes = gguf::value_type_bytes(view.element_type());
  for (size_t i = 0; i < view.size(); ++i) {
    out.push_back(scalar(gguf::Value(view.element_type(), view.data().subspan(i * bytes, bytes))));
  }
  return out;
}

}  // namespace

Json describe(const gguf::Header& header) {
  Json metadata = Json::object();
  for (const gguf::KeyValue& entry : header.metadata()) {
    const auto view = entry.value.as_array();
    metadata[std::string(entry.key)] = view ? array(*view) : scalar(entry.value);
  }
  Json tensors = Json::array();
  uint64_t parameters = 0;
  for (const gguf::TensorInfo& tensor : header.tensors()) {
    Json shape = Json::array();
    for (uint32_t d = 0; d < tensor.n_dims; ++d) shape.push_back(tensor.dims[d]);
    tensors.push_back({{"name", tensor.name},
                       {"shape", std::move(shape)},
                       {"type", gguf::tensor_type_name(static_cast<uint32_t>(tensor.type))},
                       {"offset", tensor.offset},
                       {"bytes", tensor.bytes}});
    parameters += tensor.elements();
  }
  return {{"version", header.version()},    {"alignment", header.alignment()},
          {"fileSize", header.file_size()}, {"dataOffset", header.data_offset()},
          {"parameters", parameters},       {"metadata", std::move(metadata)},
          {"tensors", std::move(tensors)}};
}

Json describe(const model::MemoryNeeds& needs, const model::MemoryPlan& plan, uint64_t budget) {
  constexpr std::array kFits = {"fits", "streamed", "does not fit"};
  const model::WeightBytes& weights = needs.weights;
  Json out = {{"fit", kFits[static_cast<size_t>(plan.fit)]},
              {"needs",
               {{"dense", weights.dense},
                {"experts", weights.experts},
                {"tables", weights.tables},
                {"perLayerEmbeddings", weights.per_layer},
                {"vectors", weights.vectors},
                {"towers", needs.towers},
                {"drafter", needs.drafter},
                {"kv", needs.kv},
                {"scratch", needs.scratch}}},
              {"total", needs.total()},
              {"least", plan.least},
              {"planned", plan.bytes},
              {"residentLayers", plan.places.resident}};
  if (budget > 0) out["budget"] = budget;
  if (plan.places.expert_slots > 0) out["expertSlots"] = plan.places.expert_slots;
  return out;
}

Result<Json> describe(const gguf::Header& header, const Json& json) {
  Json out = describe(header);
  const Result<model::Config> config = model::Config::from_gguf(header);
  // Files of other kinds take no memory of ours.
  if (!config || !model::check_tensors(*config, header)) return out;
  TRY(LoadOptions options, parse_load_options(json, config->vocab));
  options.context = usable_context(options.context, *config);
  // As if one binding could hold everything: there may be no GPU here.
  constexpr double kAny = 1e15;
  const gpu::GpuInfo limits{.max_buffer_size = kAny, .max_binding_size = kAny};
  TRY(model::MemoryNeeds needs,
      model::measure_memory(limits, header, *config, decoder_options_of(options)));
  needs.towers = model::tower_bytes(header);
  const model::MemoryPlan plan = model::plan_memory(needs, options.per_layer, options.gpu_memory);
  out["memory"] = describe(needs, plan, options.gpu_memory);
  return out;
}

}  // namespace lapidary::generate
