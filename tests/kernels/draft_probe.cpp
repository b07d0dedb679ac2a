// What a drafter sees and what it guesses: the state of its target after a prompt, and the
// drafter's logits guess by guess (tests/model/drafter.test.ts has a reference in float64).
#include <string>
#include <vector>

#include "engine/generate/text_model.h"
#include "tests/kernels/probe.h"

namespace lapidary {

namespace model {

struct DraftProbe {
  // Guesses `count` tokens after `first`; then the logits of the last of them are there.
  static Task<Status> logits(Drafter& drafter, const gpu::Device& device, const StepRow& first,
                             uint32_t count, std::span<float> out) {
    gpu::CommandList list;
    drafter.draft(list, first, {}, count);
    device.submit(list);
    co_return co_await device.read(drafter.logits_, 0, std::as_writable_bytes(out));
  }
  static Task<Status> stream(const Drafter& drafter, const gpu::Device& device,
                             std::span<float> out) {
    co_return co_await device.read(drafter.stream_, 0, std::as_writable_bytes(out));
  }
};

}  // namespace model

namespace generate {
namespace {

// A request: {options, prompts: [{ids, token}], guesses}; ids: the prompt, token: what follows it.
// The result, of each prompt: the target's residual stream after its last layer [hidden], then K
// and V of each layer that has its own, [rows] as the cache keeps them from the first position that
// a sliding layer's query sees, or position 0; then the drafter's logits [guesses][vocab].
Task<Status> probe_prompt(Session& session, const Json& json, uint32_t guesses,
                          std::vector<float>& out) {
  const auto ids = json["ids"].get<std::vector<uint32_t>>();
  CO_TRY(const std::vector<float> last, co_await session.logits(ids, false));
  const auto position = static_cast<uint32_t>(ids.size());
  const model::StepRow first{.position = position, .token = json["token"].get<uint32_t>()};
  const gpu::Device device;
  std::vector<float> logits(size_t{guesses} * last.size());
  for (uint32_t i = 0; i < guesses; ++i) {
    CO_TRY_VOID(co_await model::DraftProbe::logits(
        *session.drafter(), device, first, i + 1,
        std::span(logits).subspan(i * last.size(), last.size())));
  }
  const model::Decoder& decoder = session.decoder();
  const size_t begin = out.size();
  out.resize(begin + decoder.hidden());
  CO_TRY_VOID(co_await model::DraftProbe::stream(*session.drafter(), device,
                                                 std::span(out).subspan(begin)));
  for (const model::KvRows& rows : decoder.kv_rows()) {
    const uint32_t seen = decoder.window() - 1;
    const uint32_t from = rows.sliding && position > seen ? position - seen : 0;
    for (const bool values : {false, true}) {
      const size_t at = out.size();
      out.resize(at + size_t{position - from} * rows.bytes / sizeof(float));
      CO_TRY_VOID(co_await decoder.read_kv(rows, values, 0, from,
                                           std::as_writable_bytes(std::span(out).subspan(at))));
    }
  }
  out.insert(out.end(), logits.begin(), logits.end());
  co_return Status{};
}

Task<Result<std::vector<float>>> probe(uint32_t source, std::string request) {
  CO_TRY(const Json json, parse_json(request, "request"));
  CO_TRY(std::shared_ptr<TextModel> model,
         co_await TextModel::load(
             source, json["options"], [](std::string_view, uint64_t, uint64_t) {},
             [] { return false; }));
  std::vector<float> out;
  for (const Json& prompt : json["prompts"]) {
    CO_TRY_VOID(
        co_await probe_prompt(model->session(), prompt, json["guesses"].get<uint32_t>(), out));
  }
  co_return out;
}

Task<void> answer(uint32_t call, uint32_t source, std::string request) {
  complete_call(call, co_await probe(source, std::move(request)));
}

}  // namespace
}  // namespace generate
}  // namespace lapidary

// options.drafter: the number of a source.
extern "C" __attribute__((export_name("draft_probe"))) void draft_probe(uint32_t call,
                                                                        uint32_t source,
                                                                        const char* request,
                                                                        uint32_t request_bytes) {
  lapidary::spawn(lapidary::generate::answer(call, source, {request, request_bytes}));
}
