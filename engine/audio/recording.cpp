#include "engine/audio/recording.h"

#include <algorithm>
#include <cmath>

#include "engine/base/text.h"

namespace lapidary::audio {
namespace {

constexpr uint64_t kMostWaiting = uint64_t{3600} * (kSampleRate / kHop) * kMelBins;
// So much is decoded at once, whatever is pushed.
constexpr size_t kPiece = 1 << 16;

}  // namespace

Result<Recording> Recording::of_samples(uint32_t rate, uint32_t channels, MelFloor floor) {
  if (rate < kLowestRate || rate > kHighestRate || channels == 0 || channels > kMostChannels) {
    return fail(ErrorCode::kUnsupported,
                cat("audio of ", channels, " channels at ", rate, " Hz is not supported: 1 to ",
                    kMostChannels, " at ", kLowestRate, " to ", kHighestRate, " Hz are"));
  }
  Recording recording(floor);
  recording.channels_ = channels;
  recording.resampler_.emplace(rate);
  return recording;
}

Status Recording::add_mono() {
  even_.clear();
  resampler_->push(mono_, even_);
  mono_.clear();
  return add_even();
}

Status Recording::add_even() {
  for (std::span<const float> rest = even_; !rest.empty();) {
    const auto in_window = static_cast<uint32_t>(samples_ % kWindowSamples);
    if (in_window == 0) {
      if (!frames_.empty()) frames_.back().last = true;
      frames_.push_back({.window = static_cast<uint32_t>(samples_ / kWindowSamples)});
      mel_.restart();
    }
    const size_t some = std::min<size_t>(rest.size(), kWindowSamples - in_window);
    std::vector<float>& values = frames_.back().values;
    const size_t before = values.size();
    if (keeps_samples_) {
      values.insert(values.end(), rest.begin(), rest.begin() + static_cast<long>(some));
    } else {
      mel_.push(rest.first(some), values);
    }
    waiting_ += values.size() - before;
    samples_ += some;
    rest = rest.subspan(some);
    if (waiting_ > kMostWaiting) {
      return fail(ErrorCode::kInvalidArgument,
                  "more than an hour of audio waits: take its windows while it is read");
    }
  }
  return {};
}

Status Recording::push(Bytes wav) {
  while (!wav.empty()) {
    const Bytes some = wav.first(std::min(wav.size(), kPiece));
    wav = wav.subspan(some.size());
    TRY_VOID(wav_.push(some, mono_));
    if (wav_.format() == nullptr) continue;
    if (!resampler_) resampler_.emplace(wav_.format()->rate);
    TRY_VOID(add_mono());
  }
  return {};
}

Status Recording::push_samples(std::span<const float> samples) {
  if (channels_ == 0 || samples.size() % channels_ != 0) {
    return fail(ErrorCode::kInvalidArgument,
                cat(samples.size(), " samples are not those of ", channels_, " channels"));
  }
  for (size_t at = 0; at < samples.size(); at += channels_) {
    double sum = 0;
    for (const float value : samples.subspan(at, channels_)) sum += value;
    const auto value = static_cast<float>(sum / channels_);
    if (!std::isfinite(value)) {
      return fail(ErrorCode::kInvalidArgument,
                  cat("sample ", given_, " of the audio is no finite number"));
    }
    mono_.push_back(value);
    ++given_;
    if (mono_.size() == kPiece) TRY_VOID(add_mono());
  }
  return add_mono();
}

Status Recording::finish() {
  if (channels_ == 0) TRY_VOID(wav_.finish());
  if (resampler_) {
    even_.clear();
    resampler_->finish(even_);
    TRY_VOID(add_even());
  }
  if (samples_ < kFewestSamples) {
    return fail(ErrorCode::kInvalidArgument,
                cat("the audio is ", seconds(), " s long: less than a hundredth of a second"));
  }
  const uint64_t in_window = samples_ % kWindowSamples;
  if (in_window != 0 && in_window < kFewestSamples) {
    // Its frames are none yet, and nobody has seen them.
    frames_.pop_back();
  }
  if (!frames_.empty()) frames_.back().last = true;
  return {};
}

std::optional<Frames> Recording::take(bool whole) {
  if (frames_.empty()) return std::nullopt;
  Frames& front = frames_.front();
  if (!front.last && (whole || front.values.empty())) return std::nullopt;
  waiting_ -= front.values.size();
  Frames taken{front.window, std::exchange(front.values, {}), front.last};
  if (taken.last) frames_.pop_front();
  return taken;
}

}  // namespace lapidary::audio
