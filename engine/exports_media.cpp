// What lapidary.wasm exports of pictures and sound, and recordings that are encoded while they
// come.
#include <cstring>
#include <optional>

#include "engine/exports.h"
#include "engine/generate/media.h"

namespace lapidary {
namespace {

using generate::TextModel;

// A recording that is encoded while it comes, and the model that hears it.
struct LiveRecording {
  std::shared_ptr<TextModel> model;
  std::shared_ptr<generate::Media::Live> live;
};

Table<LiveRecording>& recordings() {
  static Table<LiveRecording> table("this recording");
  return table;
}

Json media_report(const generate::Media::Medium* medium) {
  if (medium == nullptr) return {{"tokens", 0}, {"windows", 0}, {"seconds", 0}};
  return {{"tokens", medium->tokens()},
          {"windows", medium->pieces.size()},
          {"seconds", medium->seconds}};
}

// What writing to a recording and ending it, which has a key, share.
void start_recording(uint32_t call, uint32_t recording, std::vector<float> samples,
                     std::optional<std::string> key) {
  start(call,
        [=, samples = std::move(samples),
         key = std::move(key)]() mutable -> Task<Result<std::string>> {
          CO_TRY(const std::shared_ptr<LiveRecording> target, recordings().find(recording));
          generate::Media& media = target->model->media();
          if (key) {
            CO_TRY(const auto* medium,
                   co_await media.end_live(target->live, std::move(*key), cancel_check(call)));
            co_return dump_json(media_report(medium));
          }
          CO_TRY_VOID(
              co_await media.write_live(target->live, std::move(samples), cancel_check(call)));
          co_return dump_json(
              {{"tokens", target->live->tokens()}, {"seconds", target->live->seconds()}});
        });
}

}  // namespace
}  // namespace lapidary

using namespace lapidary;  // NOLINT(google-build-using-namespace): this file is the boundary

// A medium that the engine has soft tokens of is kept until it is released as often as it was held
// or added. The answer: {tokens, windows, seconds}, tokens 0 where it is not there. audio: 0 for a
// picture. Errors of generate::Media::can_see and can_hear.
LAPIDARY_EXPORT(lap_media_hold)
uint32_t lap_media_hold(uint32_t model, const char* key, uint32_t length, uint32_t audio) {
  const auto target = models().find(model);
  if (!target) return answer(target.error());
  generate::Media& media = (*target)->media();
  if (const Status can = audio != 0 ? media.can_hear() : media.can_see(); !can)
    return answer(can.error());
  return answer(dump_json(media_report(media.hold({key, length}))));
}

LAPIDARY_EXPORT(lap_media_release)
uint32_t lap_media_release(uint32_t model, const char* key, uint32_t length) {
  const auto target = models().find(model);
  if (!target) return answer(target.error());
  (*target)->media().release({key, length});
  return answer(std::string());
}

// Completes with what lap_media_hold answers. source: a picture's pixels, or sound; spec: {key},
// and as in generate::Media::add_image and add_sound.
LAPIDARY_EXPORT(lap_media_add)
void lap_media_add(uint32_t call, uint32_t model, uint32_t source, const char* spec,
                   uint32_t length, uint32_t audio) {
  start(call, [=, text = std::string(spec, length)]() -> Task<Result<std::string>> {
    CO_TRY(Json json, parse_json(text, "a medium"));
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    generate::Media& media = target->media();
    std::string key = text_member(json, "key");
    auto work = audio != 0
                    ? media.add_sound(std::move(key), source, std::move(json), cancel_check(call))
                    : media.add_image(std::move(key), source, std::move(json), cancel_check(call));
    CO_TRY(const auto* medium, co_await std::move(work));
    co_return dump_json(media_report(medium));
  });
}

// Completes with {recording}. spec: as in generate::Media::begin_live.
LAPIDARY_EXPORT(lap_recording_open)
void lap_recording_open(uint32_t call, uint32_t model, const char* spec, uint32_t length) {
  start(call, [=, text = std::string(spec, length)]() -> Task<Result<std::string>> {
    CO_TRY(Json json, parse_json(text, "a recording"));
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    CO_TRY(auto live, co_await target->media().begin_live(std::move(json), cancel_check(call)));
    const uint32_t handle =
        recordings().add(std::make_shared<LiveRecording>(target, std::move(live)));
    co_return dump_json({{"recording", handle}});
  });
}

// Completes with {tokens, seconds} so far. samples: f32, channel after channel for each moment.
LAPIDARY_EXPORT(lap_recording_write)
void lap_recording_write(uint32_t call, uint32_t recording, const void* samples, uint32_t bytes) {
  std::vector<float> values(bytes / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), samples, values.size() * sizeof(float));
  start_recording(call, recording, std::move(values), std::nullopt);
}

// Completes with what lap_media_hold answers; it is not held.
LAPIDARY_EXPORT(lap_recording_end)
void lap_recording_end(uint32_t call, uint32_t recording, const char* key, uint32_t length) {
  start_recording(call, recording, {}, std::string(key, length));
}

LAPIDARY_EXPORT(lap_recording_close) void lap_recording_close(uint32_t recording) {
  // A call that still runs keeps its own reference.
  recordings().close(recording);
}
