// What memory a fine-tuning run takes, and what the GPU has room for. WebGPU does not say how much
// memory is free: only an allocation tells.
#include <algorithm>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/training/finetune.h"

namespace lapidary::training {
namespace {

constexpr uint32_t kUnit = 64;  // tokens; Trainer rounds up to them

uint32_t rounded(uint32_t tokens) { return static_cast<uint32_t>(round_up(tokens, kUnit)); }

std::unexpected<Error> no_room() {
  return fail(ErrorCode::kOutOfMemory,
              cat("the GPU has no room to train this model, not even on ", kUnit,
                  " tokens at once: use a smaller model, a lower rank or fewer targets"));
}

}  // namespace

TrainerOptions Finetune::trainer_options(uint32_t tokens) const {
  return {.max_tokens = tokens,
          .checkpointing = options_.checkpointing,
          .dropout = options_.dropout,
          .variant = base_.variant};
}

Result<uint64_t> Finetune::estimate(uint32_t tokens) {
  return Trainer::estimate(*base_.device, cache_, *base_.config, *base_.weights, adapter_,
                           trainer_options(tokens));
}

Task<Result<bool>> Finetune::has_room(uint32_t tokens) {
  const Status tried = co_await Trainer::try_allocate(
      *base_.device, cache_, *base_.config, *base_.weights, adapter_, trainer_options(tokens));
  if (!tried && tried.error().code != ErrorCode::kOutOfMemory)
    co_return std::unexpected(tried.error());
  // What one trial held is free when the next begins. A limit that was exceeded may have been found
  // after allocations that failed: their error is of this trial, too.
  const Status freed = co_await base_.device->sync();
  if (!freed && freed.error().code != ErrorCode::kOutOfMemory)
    co_return std::unexpected(freed.error());
  co_return tried.has_value() && freed.has_value();
}

// The most tokens of a micro-batch that have room, where `fitting` do (0: not tried) and `failing`
// do not; both are multiples of kUnit. Doubling first: most of what is tried fits.
Task<Result<uint32_t>> Finetune::most_tokens(uint32_t fitting, uint32_t failing) {
  bool doubling = fitting > 0;
  while (failing - fitting > kUnit) {
    const uint32_t middle = fitting + (failing - fitting) / (2 * kUnit) * kUnit;
    const uint32_t next = doubling ? std::min(2 * fitting, failing - kUnit) : middle;
    CO_TRY(const bool fits, co_await has_room(next));
    doubling = doubling && fits;
    (fits ? fitting : failing) = next;
  }
  co_return fitting;
}

Task<Result<Json>> Finetune::probe() {
  if (trainer_) co_return fail(ErrorCode::kInvalidArgument, "the fine-tuning run is ready already");
  const uint32_t length = options_.data.max_length;
  const uint32_t asked = rounded(asked_tokens());
  CO_TRY(const bool fits, co_await has_room(asked));
  const uint32_t past = std::max(asked, kMostProbed) + kUnit;
  CO_TRY(const uint32_t most, co_await most_tokens(fits ? asked : 0, fits ? past : asked));
  if (most == 0) co_return no_room();
  const auto sized = [&](uint32_t rows, uint32_t row_length) -> Result<Json> {
    TRY(const uint64_t bytes, estimate(rows * row_length));
    return Json{{"maxLength", row_length}, {"batch", rows}, {"bytes", bytes}};
  };
  CO_TRY(Json out, sized(options_.rows, length));
  out["fits"] = fits;
  uint64_t parameters = 0;
  for (const adapter::LoraModule& m : adapter_.modules) parameters += m.a.size() + m.b.size();
  out["parameters"] = parameters;
  CO_TRY(out["longest"], sized(1, std::min(most, base_.context)));
  if (most >= length) {
    CO_TRY(out["largest"], sized(std::min(most / length, kMostRows), length));
  }
  co_return out;
}

Task<Result<std::unique_ptr<Trainer>>> Finetune::make_trainer() {
  auto trainer = co_await Trainer::create(*base_.device, cache_, *base_.config, *base_.weights,
                                          adapter_, trainer_options(asked_tokens()));
  if (trainer) {
    for (adapter::LoraModule& m : adapter_.modules) m.a = m.b = {};
  }
  if (trainer || trainer.error().code != ErrorCode::kOutOfMemory) co_return trainer;
  const uint32_t length = options_.data.max_length;
  CO_TRY(const uint64_t bytes, estimate(asked_tokens()));
  CO_TRY(const uint32_t most,
         co_await most_tokens(0, std::min(rounded(asked_tokens()), kMostProbed + kUnit)));
  if (most == 0) co_return no_room();
  const uint32_t rows = std::max(most / length, 1u);
  co_return fail(ErrorCode::kOutOfMemory,
                 cat("the GPU has no room to train on ", options_.rows, " rows of ", length,
                     " tokens, about ", (bytes + 999'999) / 1'000'000, " MB; ", rows, " of ",
                     std::min(length, most), " fit (batch, maxLength)"));
}

}  // namespace lapidary::training
