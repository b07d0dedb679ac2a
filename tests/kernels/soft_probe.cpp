// Logits of a prompt with soft tokens (tests/model/soft-tokens.test.ts knows what they should be).
#include <memory>
#include <vector>

#include "engine/base/text.h"
#include "engine/generate/text_model.h"

namespace lapidary::generate {
namespace {

constexpr uint32_t kPlace = UINT32_MAX;  // of the next soft token

// Logits after every token, then after the last as a prompt's end gives them, then the same from
// what the cache holds.
Task<Result<std::vector<float>>> soft_logits(uint32_t source, std::vector<uint32_t> ids,
                                             std::vector<float> rows, uint32_t batch) {
  const Json options = {{"kvType", "f32"}, {"batchSize", batch}, {"tune", false}};
  CO_TRY(const std::shared_ptr<TextModel> model,
         co_await TextModel::load(
             source, options, [](std::string_view, uint64_t, uint64_t) {}, [] { return false; }));
  const auto hidden = model->info()["embedding"].get<uint32_t>();
  gpu::Device device;
  CO_TRY(gpu::Buffer made,
         device.create_buffer(rows.size() * sizeof(float), gpu::kStorageUsage, "soft tokens"));
  device.write(made, 0, std::as_bytes(std::span(rows)));
  SoftSpans soft = {{.rows = static_cast<uint32_t>(rows.size() / hidden),
                     .values = std::make_shared<const gpu::Buffer>(std::move(made))}};
  uint32_t row = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] != kPlace) continue;
    if (row == 0) soft[0].position = static_cast<uint32_t>(i);
    ids[i] = model::kSoftToken + row++;
  }
  CO_TRY(std::vector<float> out, co_await model->logits(ids, true, soft));
  CO_TRY_VOID(model->truncate(0));
  for (int i = 0; i < 2; ++i) {
    CO_TRY(const std::vector<float> last, co_await model->logits(ids, false, soft));
    out.insert(out.end(), last.begin(), last.end());
    CO_TRY_VOID(model->truncate(soft[0].position + 2));
  }
  co_return out;
}

Task<void> answer(uint32_t call, uint32_t source, std::vector<uint32_t> ids,
                  std::vector<float> rows, uint32_t batch) {
  const Result<std::vector<float>> logits =
      co_await soft_logits(source, std::move(ids), std::move(rows), batch);
  if (logits) {
    gpu::host_complete(call, 0, reinterpret_cast<const char*>(logits->data()),
                       static_cast<uint32_t>(logits->size() * sizeof(float)));
  } else {
    const std::string& message = logits.error().message;
    gpu::host_complete(call, static_cast<uint32_t>(logits.error().code), message.data(),
                       static_cast<uint32_t>(message.size()));
  }
}

}  // namespace
}  // namespace lapidary::generate

// Completes with f32 [tokens + 2][vocab]. ids: 0xffffffff takes the next of `rows`, which are side
// by side. batch: tokens of a submission.
extern "C" __attribute__((export_name("soft_probe"))) void soft_probe(
    uint32_t call, uint32_t source, const uint32_t* ids, uint32_t id_bytes, const float* rows,
    uint32_t row_bytes, uint32_t batch) {
  lapidary::spawn(lapidary::generate::answer(call, source, {ids, ids + id_bytes / sizeof(uint32_t)},
                                             {rows, rows + row_bytes / sizeof(float)}, batch));
}
