#include "engine/generate/media.h"

#include <algorithm>
#include <charconv>
#include <type_traits>

#include "engine/base/random.h"
#include "engine/base/text.h"
#include "engine/model/decoder.h"
#include "engine/vision/resize.h"

namespace lapidary::generate {
namespace {

// Soft tokens that are kept beyond those in use, in bytes: some hundred pictures.
constexpr uint64_t kKeptBytes = 256 << 20;
constexpr size_t kMaxKey = 128;
// Of a digest, in hexadecimal.
constexpr size_t kDigestDigits = 64;
constexpr size_t kWordDigits = 16;
// Pixels, and bytes of sound, that one read asks for.
constexpr uint32_t kPixelsRead = 1 << 20;
constexpr uint64_t kSoundRead = 1 << 20;
// Frames of a recording that comes that are encoded together, or more: 0.64 s.
constexpr size_t kLiveFrames = 64;
// Of one recording: an hour and a half.
constexpr size_t kMostSoundTokens = 135'000;

// Ids that say which medium they are of: what the KV cache holds of one serves that one alone, in
// this engine and, in a snapshot, in the next.
Result<std::vector<uint32_t>> ids_of(std::string_view key, uint32_t piece, uint32_t count) {
  uint64_t words[kDigestDigits / kWordDigits] = {};
  bool good = key.size() >= kDigestDigits && key.size() <= kMaxKey;
  for (size_t i = 0; good && i < std::size(words); ++i) {
    const char* const begin = key.data() + i * kWordDigits;
    const auto [end, error] = std::from_chars(begin, begin + kWordDigits, words[i], 16);
    good = error == std::errc() && end == begin + kWordDigits;
  }
  if (!good) {
    return fail(ErrorCode::kInvalidArgument,
                "a medium is named by the 64 hexadecimal digits of its digest");
  }
  uint64_t more = uint64_t{piece} << 32 | count;
  for (const char c : key.substr(kDigestDigits)) more = more * 31 + static_cast<unsigned char>(c);
  Random first(words[0], words[1]);
  Random second(words[2] + more, words[3]);
  std::vector<uint32_t> ids(count);
  for (uint32_t& id : ids) id = model::kSoftToken | (first.next() ^ second.next());
  return ids;
}

Result<uint32_t> number(const Json& spec, std::string_view key) {
  const Json* value = json_member(spec, key);
  if (value == nullptr || !value->is_number_unsigned() || value->get<uint64_t>() > UINT32_MAX)
    return fail(ErrorCode::kInvalidArgument, cat("a medium needs a ", key));
  return value->get<uint32_t>();
}

// The picture in `source`, RGB in the size that the tower takes.
Task<Result<std::vector<uint8_t>>> scaled(uint32_t source, uint32_t channels,
                                          vision::ImageSize given, vision::ImageSize size,
                                          const std::function<bool()>& cancelled) {
  if (gpu::host_source_size(source) != static_cast<double>(given.pixels() * channels)) {
    co_return fail(ErrorCode::kInvalidArgument,
                   cat("a picture of ", given.width, " x ", given.height, " pixels has ",
                       given.pixels() * channels, " bytes, not ", gpu::host_source_size(source)));
  }
  vision::Resizer resizer(given, size);
  std::vector<uint8_t> bytes;
  for (uint64_t at = 0; at < given.pixels(); at += kPixelsRead) {
    if (cancelled()) co_return fail(ErrorCode::kCancelled, "cancelled");
    const auto pixels = static_cast<uint32_t>(std::min<uint64_t>(kPixelsRead, given.pixels() - at));
    bytes.resize(size_t{pixels} * channels);
    CO_TRY_VOID(co_await gpu::HostCall([&](uint32_t ticket) {
      gpu::host_source_read(source, static_cast<double>(at * channels), bytes.data(),
                            static_cast<uint32_t>(bytes.size()), ticket);
    }));
    if (channels == 4) {
      for (size_t i = 0; i < pixels; ++i) std::copy_n(&bytes[4 * i], 3, &bytes[3 * i]);
      bytes.resize(size_t{3} * pixels);
    }
    CO_TRY_VOID(resizer.push(bytes));
  }
  co_return std::move(resizer).finish();
}

}  // namespace

uint64_t Media::Medium::bytes() const {
  uint64_t sum = 0;
  for (const Piece& piece : pieces) sum += piece.rows->size();
  return sum;
}

size_t Media::Medium::tokens() const {
  size_t sum = 0;
  for (const Piece& piece : pieces) sum += piece.ids.size();
  return sum;
}

size_t Media::Live::tokens() const {
  size_t sum = medium_.tokens();
  for (const model::AudioRows& rows : rows_) sum += rows.tokens;
  return sum;
}

Status Media::find_towers(const gguf::Header& header, uint32_t source, bool projector) {
  const auto place = [&](auto& found, auto config) -> Status {
    using Found = std::remove_reference_t<decltype(found)>;
    if (!config && config.error().code != ErrorCode::kUnsupported)
      return std::unexpected(std::move(config).error());
    if (config && !*config) return {};
    found = Found();
    if (!config) {
      found.refused = std::unexpected(std::move(config).error());
      return {};
    }
    found.config = std::move(*config);
    found.tensors = std::make_unique<typename decltype(found.tensors)::element_type>(header);
    found.source = source;
    return {};
  };
  TRY_VOID(place(eyes_, model::VisionConfig::from_gguf(header, hidden_)));
  if (as_llama_cpp_ && eyes_.config && eyes_.source == source) {
    // A file that says nothing of its activation: the quick form of GELU.
    TRY(const bool gelu, header.get_bool("clip.use_gelu", false));
    eyes_.config->quick_gelu = !gelu;
  }
  TRY(const auto raw, model::RawAudioConfig::from_gguf(header, hidden_));
  if (raw) {
    raw_config_ = raw;
    ears_ = {.source = source};
  } else {
    TRY_VOID(place(ears_, model::AudioConfig::from_gguf(header, hidden_)));
  }
  if (!projector || eyes_.source == source || ears_.source == source) return {};
  TRY_VOID(eyes_.refused);
  TRY_VOID(ears_.refused);
  return fail(ErrorCode::kInvalidFormat, "the projector's file has no tower");
}

Status Media::can_see() const {
  TRY_VOID(eyes_.refused);
  if (eyes_.config) return {};
  return fail(ErrorCode::kUnsupported,
              "this model takes no pictures: neither its file has a vision tower, nor was a "
              "projector's file given that has one");
}

Status Media::can_hear() const {
  TRY_VOID(ears_.refused);
  if (ears_.config || raw_config_) return {};
  return fail(ErrorCode::kUnsupported,
              "this model takes no sound: neither its file has an audio tower, nor was a "
              "projector's file given that has one");
}

uint64_t Media::bytes() const {
  uint64_t sum = eyes_.tower ? eyes_.tower->bytes() : 0;
  if (ears_.tower) sum += ears_.tower->bytes();
  if (raw_ears_) sum += raw_ears_->bytes();
  for (const auto& [key, medium] : media_) sum += medium.bytes();
  return sum;
}

const Media::Medium* Media::find(std::string_view key) const {
  const auto found = media_.find(key);
  return found == media_.end() ? nullptr : &found->second;
}

const Media::Medium* Media::hold(std::string_view key) {
  const auto found = media_.find(key);
  if (found == media_.end()) return nullptr;
  if (key == awaited_) awaited_.clear();
  ++found->second.holds;
  found->second.used = ++clock_;
  return &found->second;
}

void Media::release(std::string_view key) {
  const auto found = media_.find(key);
  if (found == media_.end() || found->second.holds == 0) return;
  --found->second.holds;
  forget_oldest();
}

void Media::forget_oldest() {
  for (;;) {
    uint64_t kept = 0;
    auto oldest = media_.end();
    for (auto it = media_.begin(); it != media_.end(); ++it) {
      if (it->second.holds > 0 || it->first == awaited_) continue;
      kept += it->second.bytes();
      if (oldest == media_.end() || it->second.used < oldest->second.used) oldest = it;
    }
    if (kept <= kKeptBytes) return;
    media_.erase(oldest);
  }
}

const Media::Medium* Media::keep(const std::string& key, Medium medium) {
  media_[key] = std::move(medium);
  const Medium* kept = hold(key);
  forget_oldest();
  return kept;
}

Task<Result<const Media::Medium*>> Media::add_image(std::string key, uint32_t source, Json spec,
                                                    std::function<bool()> cancelled) {
  CO_TRY_VOID(can_see());
  vision::ImageSize given;
  CO_TRY(given.width, number(spec, "width"));
  CO_TRY(given.height, number(spec, "height"));
  CO_TRY(const uint32_t channels, number(spec, "channels"));
  if (channels != 3 && channels != 4)
    co_return fail(ErrorCode::kInvalidArgument, "a picture has 3 or 4 channels");
  CO_TRY(const uint32_t budget, number(spec, "maxTokens"));
  CO_TRY(const vision::ImageSize size, vision::tower_size(given, budget));
  CO_TRY(std::vector<uint32_t> ids, ids_of(key, 0, vision::soft_tokens(size)));

  const Lock::Held held = co_await lock_.enter();
  // Another reply may have brought the same meanwhile.
  if (const Medium* medium = hold(key)) co_return medium;
  CO_TRY(const std::vector<uint8_t> rgb, co_await scaled(source, channels, given, size, cancelled));
  gpu::Buffer rows;
  const auto look = [&]() -> Task<Status> {
    if (eyes_.tower == nullptr) {
      CO_TRY(eyes_.tower, co_await model::VisionTower::load(*device_, *eyes_.config, *eyes_.tensors,
                                                            eyes_.source, variant_, cancelled));
    }
    CO_TRY(rows, co_await eyes_.tower->encode(rgb, size));
    co_return Status{};
  };
  CO_TRY_VOID(co_await with_room(look, ears_.tower));
  Medium medium{.kind = model::SoftKind::kImage};
  medium.pieces.push_back(
      {.ids = std::move(ids), .rows = std::make_shared<const gpu::Buffer>(std::move(rows))});
  co_return keep(key, std::move(medium));
}

template <typename Work, typename Tower>
Task<Status> Media::with_room(Work work, std::unique_ptr<Tower>& other) {
  Status status = co_await work();
  if (status || status.error().code != ErrorCode::kOutOfMemory || other == nullptr)
    co_return status;
  other.reset();
  // Errors that follow from the refused allocation are not the next attempt's.
  static_cast<void>(co_await device_->sync());
  co_return co_await work();
}

Task<Status> Media::load_ears(const std::function<bool()>& cancelled) {
  if (raw_config_ && raw_ears_ == nullptr) {
    CO_TRY(raw_ears_, co_await model::RawAudio::load(*device_, *raw_config_, ears_.source, variant_,
                                                     cancelled));
  }
  if (!ears_.config || ears_.tower != nullptr) co_return Status{};
  const auto load = [&]() -> Task<Status> {
    CO_TRY(ears_.tower, co_await model::AudioTower::load(*device_, *ears_.config, *ears_.tensors,
                                                         ears_.source, variant_, cancelled));
    co_return Status{};
  };
  co_return co_await with_room(load, eyes_.tower);
}

// The rows of a window side by side.
Task<Status> Media::end_window(Live& live) {
  uint32_t tokens = 0;
  for (const model::AudioRows& rows : live.rows_) tokens += rows.tokens;
  if (tokens == 0) co_return Status{};
  gpu::Buffer whole;
  if (live.rows_.size() == 1) {
    whole = std::move(live.rows_.front().rows);
  } else {
    const uint64_t row = uint64_t{hidden_} * sizeof(float);
    CO_TRY(whole, device_->create_buffer(tokens * row, gpu::kStorageUsage, "audio"));
    gpu::CommandList list;
    uint64_t at = 0;
    for (const model::AudioRows& rows : live.rows_) {
      list.copy(rows.rows, 0, whole, at, rows.tokens * row);
      at += rows.tokens * row;
    }
    device_->submit(list);
    CO_TRY_VOID(co_await device_->sync());
  }
  live.rows_.clear();
  live.medium_.pieces.push_back({.ids = std::vector<uint32_t>(tokens),
                                 .rows = std::make_shared<const gpu::Buffer>(std::move(whole))});
  if (live.medium_.tokens() > kMostSoundTokens) {
    co_return fail(ErrorCode::kInvalidArgument,
                   cat("a recording of more than ", kMostSoundTokens,
                       " tokens, 25 a second, is longer than is read at once: cut it"));
  }
  co_return Status{};
}

Task<Status> Media::encode(Live& live, bool whole) {
  // A picture between two pieces of a recording may have needed the tower's room.
  CO_TRY_VOID(co_await load_ears([] { return false; }));
  // What takes samples as they are does so by windows.
  while (const auto frames = live.recording_.take(whole || raw_config_.has_value())) {
    model::AudioRows rows;
    if (raw_ears_) {
      rows.tokens = model::RawAudio::soft_tokens(frames->values.size());
      CO_TRY(rows.rows, co_await raw_ears_->encode(frames->values));
    } else {
      live.frames_.insert(live.frames_.end(), frames->values.begin(), frames->values.end());
      if (!frames->last && live.frames_.size() < kLiveFrames * audio::kMelBins) continue;
      CO_TRY(rows, co_await ears_.tower->encode(live.stream_, live.frames_, frames->last));
      live.frames_.clear();
    }
    if (rows.tokens != 0) live.rows_.push_back(std::move(rows));
    if (frames->last) CO_TRY_VOID(co_await end_window(live));
  }
  co_return Status{};
}

Task<Status> Media::finish(Live& live, const std::string& key, bool whole) {
  CO_TRY_VOID(live.recording_.finish());
  CO_TRY_VOID(co_await encode(live, whole));
  live.medium_.seconds = live.seconds();
  for (size_t w = 0; w < live.medium_.pieces.size(); ++w) {
    std::vector<uint32_t>& ids = live.medium_.pieces[w].ids;
    CO_TRY(ids, ids_of(key, static_cast<uint32_t>(w), static_cast<uint32_t>(ids.size())));
  }
  co_return Status{};
}

Result<Media::Live> Media::open_samples(const Json& spec) const {
  TRY(const uint32_t rate, number(spec, "rate"));
  TRY(const uint32_t channels, number(spec, "channels"));
  Live live;
  TRY(live.recording_, audio::Recording::of_samples(rate, channels, mel_floor()));
  return live;
}

Task<Result<const Media::Medium*>> Media::add_sound(std::string key, uint32_t source, Json spec,
                                                    std::function<bool()> cancelled) {
  CO_TRY_VOID(can_hear());
  const Json* format = json_member(spec, "format");
  const bool samples = format != nullptr && *format == "f32";
  if (!samples && (format == nullptr || *format != "wav"))
    co_return fail(ErrorCode::kInvalidArgument, "the format of sound is wav or f32");
  Live live;
  uint32_t channels = 1;
  if (samples) {
    CO_TRY(live, open_samples(spec));
    CO_TRY(channels, number(spec, "channels"));
  } else {
    live.recording_ = audio::Recording(mel_floor());
  }
  audio::Recording& recording = live.recording_;
  if (raw_config_) recording.keep_samples();
  CO_TRY_VOID(ids_of(key, 0, 1));

  const Lock::Held held = co_await lock_.enter();
  if (const Medium* medium = hold(key)) co_return medium;
  CO_TRY_VOID(co_await load_ears(cancelled));
  const auto size = static_cast<uint64_t>(gpu::host_source_size(source));
  const uint64_t step =
      samples ? kSoundRead / (channels * sizeof(float)) * (channels * sizeof(float)) : kSoundRead;
  std::vector<float> values;
  for (uint64_t at = 0; at < size; at += step) {
    if (cancelled()) co_return fail(ErrorCode::kCancelled, "cancelled");
    const uint64_t count = std::min(step, size - at);
    values.resize((count + sizeof(float) - 1) / sizeof(float));
    CO_TRY_VOID(co_await gpu::HostCall([&](uint32_t ticket) {
      gpu::host_source_read(source, static_cast<double>(at), values.data(),
                            static_cast<uint32_t>(count), ticket);
    }));
    const Bytes bytes = std::as_bytes(std::span(values)).first(count);
    CO_TRY_VOID(samples ? recording.push_samples(std::span(values).first(count / sizeof(float)))
                        : recording.push(bytes));
    CO_TRY_VOID(co_await encode(live, /*whole=*/true));
  }
  CO_TRY_VOID(co_await finish(live, key, /*whole=*/true));
  co_return keep(key, std::move(live.medium_));
}

Task<Result<std::shared_ptr<Media::Live>>> Media::begin_live(Json spec,
                                                             std::function<bool()> cancelled) {
  CO_TRY_VOID(can_hear());
  CO_TRY(Live live, open_samples(spec));
  if (raw_config_) live.recording_.keep_samples();
  const Lock::Held held = co_await lock_.enter();
  CO_TRY_VOID(co_await load_ears(cancelled));
  co_return std::make_shared<Live>(std::move(live));
}

Task<Status> Media::write_live(std::shared_ptr<Live> live, std::vector<float> samples,
                               std::function<bool()> cancelled) {
  const Lock::Held held = co_await lock_.enter();
  if (live->failed_) co_return fail(ErrorCode::kInvalidArgument, "this recording has failed");
  live->failed_ = true;  // until this has gone well
  if (cancelled()) co_return fail(ErrorCode::kCancelled, "cancelled");
  CO_TRY_VOID(live->recording_.push_samples(samples));
  CO_TRY_VOID(co_await encode(*live, /*whole=*/false));
  live->failed_ = false;
  co_return Status{};
}

Task<Result<const Media::Medium*>> Media::end_live(std::shared_ptr<Live> live, std::string key,
                                                   std::function<bool()> cancelled) {
  CO_TRY_VOID(co_await write_live(live, {}, std::move(cancelled)));
  CO_TRY_VOID(ids_of(key, 0, 1));
  const Lock::Held held = co_await lock_.enter();
  live->failed_ = true;  // it has ended
  if (const Medium* medium = find(key)) co_return medium;
  CO_TRY_VOID(co_await finish(*live, key, /*whole=*/false));
  const Medium* medium = keep(key, std::move(live->medium_));
  awaited_ = key;
  release(key);
  co_return medium;
}

}  // namespace lapidary::generate
