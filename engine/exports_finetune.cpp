// What lapidary.wasm exports of fine-tuning.
#include "engine/adapter/gguf_lora.h"
#include "engine/adapter/peft.h"
#include "engine/exports.h"
#include "engine/gpu/source.h"
#include "engine/training/finetune.h"

namespace lapidary {
namespace {

using generate::TextModel;

// Of a checkpoint: the wasm heap must hold it.
constexpr uint64_t kMaxCheckpointBytes = 512 << 20;

// A fine-tuning run and the model that it trains on, which must outlive it.
struct FinetuneRun {
  std::shared_ptr<TextModel> model;
  std::unique_ptr<training::Finetune> run;
};

Table<FinetuneRun>& finetunes() {
  static Table<FinetuneRun> table("this fine-tuning run");
  return table;
}

}  // namespace
}  // namespace lapidary

using namespace lapidary;  // NOLINT(google-build-using-namespace): this file is the boundary

// The answer: {run}. options: training::FinetuneOptions.
LAPIDARY_EXPORT(lap_finetune_open)
uint32_t lap_finetune_open(uint32_t model, const char* options, uint32_t length) {
  const auto target = models().find(model);
  if (!target) return answer(target.error());
  const auto json = parse_json({options, length}, "fine-tuning options");
  if (!json) return answer(json.error());
  auto run = training::Finetune::open((*target)->training_base(), *json);
  if (!run) return answer(run.error());
  const uint32_t handle = finetunes().add(std::make_shared<FinetuneRun>(*target, std::move(*run)));
  return answer(dump_json({{"run", handle}}));
}

LAPIDARY_EXPORT(lap_finetune_probe)
void lap_finetune_probe(uint32_t call, uint32_t run) {
  start(call, [=]() -> Task<Result<std::string>> {
    CO_TRY(const std::shared_ptr<FinetuneRun> target, finetunes().find(run));
    CO_TRY(const Json found, co_await target->run->probe());
    co_return dump_json(found);
  });
}

// Bytes of the dataset.
LAPIDARY_EXPORT(lap_finetune_push)
uint32_t lap_finetune_push(uint32_t run, const std::byte* bytes, uint32_t length) {
  const auto target = finetunes().find(run);
  if (!target) return answer(target.error());
  const Status status = (*target)->run->push({bytes, length});
  return status ? answer(std::string()) : answer(status.error());
}

// checkpoint: a source, or 0 to begin anew.
LAPIDARY_EXPORT(lap_finetune_prepare)
void lap_finetune_prepare(uint32_t call, uint32_t run, uint32_t checkpoint) {
  start(call, [=]() -> Task<Result<std::string>> {
    CO_TRY(const std::shared_ptr<FinetuneRun> target, finetunes().find(run));
    std::vector<std::byte> bytes;
    if (checkpoint != 0) {
      CO_TRY(bytes, co_await gpu::read_source(checkpoint, kMaxCheckpointBytes, "the checkpoint",
                                              cancel_check(call)));
    }
    CO_TRY(const Json done, co_await target->run->prepare(bytes));
    co_return dump_json(done);
  });
}

LAPIDARY_EXPORT(lap_finetune_run)
void lap_finetune_run(uint32_t call, uint32_t run, uint32_t steps) {
  start(call, [=]() -> Task<Result<std::string>> {
    CO_TRY(const std::shared_ptr<FinetuneRun> target, finetunes().find(run));
    CO_TRY(const Json done, co_await target->run->run(steps, emitter(call), cancel_check(call)));
    co_return dump_json(done);
  });
}

// Completes with the file.
LAPIDARY_EXPORT(lap_finetune_checkpoint)
void lap_finetune_checkpoint(uint32_t call, uint32_t run) {
  start(call, [=]() -> Task<Result<std::string>> {
    CO_TRY(const std::shared_ptr<FinetuneRun> target, finetunes().find(run));
    CO_TRY(const std::vector<std::byte> file, co_await target->run->checkpoint());
    co_return bytes_of(file);
  });
}

// Completes with a file. what: 0 adapter_model.safetensors, 1 adapter_config.json, 2 a GGUF LoRA; +
// 4: as it was at the lowest evaluation loss.
LAPIDARY_EXPORT(lap_finetune_adapter)
void lap_finetune_adapter(uint32_t call, uint32_t run, uint32_t what) {
  start(call, [=]() -> Task<Result<std::string>> {
    CO_TRY(const std::shared_ptr<FinetuneRun> target, finetunes().find(run));
    CO_TRY(const adapter::LoraAdapter trained, co_await target->run->adapter((what & 4) != 0));
    if ((what & 3) == 2) {
      CO_TRY(const std::vector<std::byte> file, adapter::write_gguf_lora(trained));
      co_return bytes_of(file);
    }
    CO_TRY(adapter::PeftFiles files, adapter::write_peft(trained));
    co_return (what & 3) == 0 ? bytes_of(files.model) : std::move(files.config);
  });
}

LAPIDARY_EXPORT(lap_finetune_close) void lap_finetune_close(uint32_t run) {
  // A call that still runs keeps its own reference.
  finetunes().close(run);
}
