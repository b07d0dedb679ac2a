// Soft tokens in prompts: what a session makes of them, and what the reference model does
// (tests/model/soft-tokens.test.ts compares).
#include <memory>
#include <string>
#include <vector>

#include "engine/base/event.h"
#include "engine/base/text.h"
#include "engine/generate/text_model.h"
#include "engine/gguf/header_parser.h"
#include "engine/reference/model.h"
#include "tests/kernels/probe.h"

namespace lapidary::generate {
namespace {

// {ids, spans: [{position, rows, first, audio}]}; `first` counts the rows of all prompts, which lie
// side by side.
struct SoftPrompt {
  std::vector<uint32_t> ids;
  SoftSpans soft;
  std::vector<uint32_t> first;  // row, by span
};

SoftPrompt read_prompt(const Json& json) {
  SoftPrompt prompt{.ids = json["ids"].get<std::vector<uint32_t>>()};
  for (const Json& span : json["spans"]) {
    prompt.soft.push_back(
        {.position = span["position"].get<uint32_t>(),
         .rows = span["rows"].get<uint32_t>(),
         .kind = span.value("audio", false) ? model::SoftKind::kAudio : model::SoftKind::kImage});
    prompt.first.push_back(span["first"].get<uint32_t>());
  }
  return prompt;
}

class Reply : public Listener {
 public:
  void on_prefill(uint32_t, uint32_t, uint32_t) override {}
  bool on_token(const ChosenToken&) override { return true; }
};

// Runs one reply to its end, beside others.
struct Running {
  Reply listener;
  Result<RunResult> result = RunResult{};
  bool done = false;
};
Task<void> run_one(Session& session, SoftPrompt prompt, const GenerateOptions& options,
                   Running& running, Event& ended) {
  running.result = co_await session.run(
      std::move(prompt.ids), options, 1, running.listener, [] { return false; }, nullptr, {},
      std::move(prompt.soft));
  running.done = true;
  ended.notify();
}

class Probe {
 public:
  Probe(uint32_t call, std::shared_ptr<TextModel> model, std::vector<float> rows)
      : call_(call), model_(std::move(model)), rows_(std::move(rows)) {}

  // {op: "all" | "last", prompt}: logits. {op: "truncate", length}. {op: "prefill", prompts}: emits
  // {cached}. {op: "runs", prompts, tokens}: replies at once, greedy; the tokens of each. {op:
  // "save"}: emits {header}; the payload's bytes as they are. {op: "restore", header, source}.
  // Every op emits {batch}: the room that there is. `fails`: the code of an error that it may end
  // with.
  Task<Status> run(const Json& op) {
    const std::string name = op["op"].get<std::string>();
    Session& session = model_->session();
    if (name == "all" || name == "last") {
      CO_TRY(SoftPrompt prompt, prompt_of(op["prompt"]));
      CO_TRY(const std::vector<float> logits,
             co_await session.logits(std::move(prompt.ids), name == "all", std::move(prompt.soft)));
      add(logits);
    } else if (name == "truncate") {
      CO_TRY_VOID(session.truncate(op["length"].get<uint32_t>()));
    } else if (name == "prefill") {
      std::vector<std::vector<uint32_t>> ids;
      std::vector<SoftSpans> soft;
      for (const Json& json : op["prompts"]) {
        CO_TRY(SoftPrompt prompt, prompt_of(json));
        ids.push_back(std::move(prompt.ids));
        soft.push_back(std::move(prompt.soft));
      }
      CO_TRY(const std::vector<Prefilled> done,
             co_await session.prefill(std::move(ids), [] { return false; }, std::move(soft)));
      Json cached = Json::array();
      for (const Prefilled& one : done) cached.push_back(one.cached_tokens);
      emit({{"cached", std::move(cached)}});
    } else if (name == "runs") {
      CO_TRY_VOID(co_await run_all(session, op));
    } else if (name == "save") {
      CO_TRY(const SavedSession saved, session.save("model", 0));
      emit({{"header", saved.header}});
      for (;;) {
        CO_TRY(const std::vector<std::byte> piece, co_await session.read_saved());
        if (piece.empty()) break;
        const size_t at = out_.size();
        out_.resize(at + piece.size() / sizeof(float));
        std::memcpy(out_.data() + at, piece.data(), piece.size());
      }
    } else {
      CO_TRY_VOID(co_await session.restore(op["source"].get<uint32_t>(),
                                           op["header"].get<std::string>(), "model",
                                           [] { return false; }));
    }
    emit({{"batch", session.decoder().max_batch()}});
    co_return Status{};
  }
  const std::vector<float>& out() const { return out_; }

 private:
  Result<SoftPrompt> prompt_of(const Json& json) {
    SoftPrompt prompt = read_prompt(json);
    const auto hidden = model_->info()["embedding"].get<uint32_t>();
    for (size_t i = 0; i < prompt.soft.size(); ++i) {
      const auto rows = std::span(rows_).subspan(size_t{prompt.first[i]} * hidden,
                                                 size_t{prompt.soft[i].rows} * hidden);
      TRY(gpu::Buffer made,
          device_.create_buffer(rows.size_bytes(), gpu::kStorageUsage, "soft tokens"));
      device_.write(made, 0, std::as_bytes(rows));
      prompt.soft[i].values = std::make_shared<const gpu::Buffer>(std::move(made));
    }
    return prompt;
  }
  Task<Status> run_all(Session& session, const Json& op) {
    const GenerateOptions options{.sampling = {.temperature = 0},
                                  .max_tokens = op["tokens"].get<uint32_t>(),
                                  .ignore_eos = true};
    std::vector<std::unique_ptr<Running>> all;
    Event ended;
    for (const Json& json : op["prompts"]) {
      CO_TRY(SoftPrompt prompt, prompt_of(json));
      all.push_back(std::make_unique<Running>());
      spawn(run_one(session, std::move(prompt), options, *all.back(), ended));
    }
    while (!std::ranges::all_of(all, [](const auto& one) { return one->done; })) co_await ended;
    for (const auto& one : all) {
      if (!one->result) co_return std::unexpected(one->result.error());
      for (const uint32_t id : one->result->tokens) out_.push_back(static_cast<float>(id));
    }
    co_return Status{};
  }
  void add(const std::vector<float>& values) {
    out_.insert(out_.end(), values.begin(), values.end());
  }
  void emit(const Json& event) const {
    const std::string text = dump_json(event);
    gpu::host_emit(call_, text.data(), static_cast<uint32_t>(text.size()));
  }

  uint32_t call_;
  std::shared_ptr<TextModel> model_;
  std::vector<float> rows_;
  gpu::Device device_;
  std::vector<float> out_;
};

// request: {options, ops}
Task<Result<std::vector<float>>> probe(uint32_t call, uint32_t source, std::string request,
                                       std::vector<float> rows) {
  CO_TRY(const Json json, parse_json(request, "request"));
  CO_TRY(std::shared_ptr<TextModel> model,
         co_await TextModel::load(
             source, json["options"], [](std::string_view, uint64_t, uint64_t) {},
             [] { return false; }));
  Probe probe(call, std::move(model), std::move(rows));
  for (const Json& op : json["ops"]) {
    Status status = co_await probe.run(op);
    if (!status && op.contains("fails") && op["fails"] == error_code_name(status.error().code))
      continue;
    CO_TRY_VOID(std::move(status));
  }
  co_return probe.out();
}

Task<void> answer(uint32_t call, uint32_t source, std::string request, std::vector<float> rows) {
  complete_call(call, co_await probe(call, source, std::move(request), std::move(rows)));
}

Result<std::vector<float>> reference(Bytes file, std::string_view request,
                                     std::span<const float> rows) {
  TRY(const gguf::Header header, gguf::parse_header(file));
  TRY(const reference::ReferenceModel model, reference::ReferenceModel::load(header, file));
  TRY(const Json json, parse_json(request, "request"));
  SoftPrompt prompt = read_prompt(json);
  std::vector<float> taken;
  std::vector<reference::Image> images;
  for (size_t i = 0; i < prompt.soft.size(); ++i) {
    const model::SoftRows& soft = prompt.soft[i];
    const size_t hidden = model.config().hidden;
    const auto from = rows.subspan(prompt.first[i] * hidden, soft.rows * hidden);
    taken.insert(taken.end(), from.begin(), from.end());
    if (soft.kind == model::SoftKind::kImage && model.config().image_bidirectional)
      images.push_back({.position = soft.position, .tokens = soft.rows});
  }
  for (uint32_t& id : prompt.ids) {
    if (id >= model::kSoftToken) id = reference::kSoftToken;
  }
  return model.forward(prompt.ids, {.soft_rows = taken, .images = images});
}

}  // namespace
}  // namespace lapidary::generate

// Completes with what the ops of the request give, one after another.
extern "C" __attribute__((export_name("soft_probe"))) void soft_probe(
    uint32_t call, uint32_t source, const char* request, uint32_t request_bytes, const float* rows,
    uint32_t row_bytes) {
  lapidary::spawn(lapidary::generate::answer(call, source, {request, request_bytes},
                                             {rows, rows + row_bytes / sizeof(float)}));
}

// Completes with f32 [tokens][vocab] of a prompt.
extern "C" __attribute__((export_name("soft_reference"))) void soft_reference(
    uint32_t call, const std::byte* file, uint32_t file_bytes, const char* request,
    uint32_t request_bytes, const float* rows, uint32_t row_bytes) {
  lapidary::complete_call(
      call, lapidary::generate::reference({file, file_bytes}, {request, request_bytes},
                                          {rows, row_bytes / sizeof(float)}));
}
