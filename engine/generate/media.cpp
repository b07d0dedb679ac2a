#include "engine/generate/media.h"

#include <algorithm>
#include <charconv>

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
// Pixels that one read asks for.
constexpr uint32_t kPixelsRead = 1 << 20;

// Ids that say which medium they are of: what the KV cache holds of one serves that one alone, in
// this engine and, in a snapshot, in the next.
Result<std::vector<uint32_t>> ids_of(std::string_view key, uint32_t count) {
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
  uint64_t more = count;
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
    return fail(ErrorCode::kInvalidArgument, cat("a picture needs a ", key));
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

Status Media::find_towers(const gguf::Header& header, uint32_t source, bool projector) {
  auto config = model::VisionConfig::from_gguf(header, hidden_);
  if (!config && config.error().code != ErrorCode::kUnsupported)
    return std::unexpected(std::move(config).error());
  if (config && !*config) {
    if (!projector) return {};
    return fail(ErrorCode::kInvalidFormat, "the projector's file has no vision tower");
  }
  refused_ = config ? Status{} : std::unexpected(config.error());
  vision_ = config ? *config : std::nullopt;
  tensors_ = config ? std::make_unique<model::VisionTensors>(header) : nullptr;
  source_ = source;
  return {};
}

Status Media::can_see() const {
  TRY_VOID(refused_);
  if (vision_) return {};
  return fail(ErrorCode::kUnsupported,
              "this model takes no pictures: neither its file has a vision tower, nor was a "
              "projector's file given");
}

uint64_t Media::bytes() const {
  uint64_t sum = tower_ ? tower_->bytes() : 0;
  for (const auto& [key, medium] : media_) sum += medium.rows->size();
  return sum;
}

const Media::Medium* Media::find(std::string_view key) const {
  const auto found = media_.find(key);
  return found == media_.end() ? nullptr : &found->second;
}

const Media::Medium* Media::hold(std::string_view key) {
  const auto found = media_.find(key);
  if (found == media_.end()) return nullptr;
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
      if (it->second.holds > 0) continue;
      kept += it->second.rows->size();
      if (oldest == media_.end() || it->second.used < oldest->second.used) oldest = it;
    }
    if (kept <= kKeptBytes) return;
    media_.erase(oldest);
  }
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
  CO_TRY(std::vector<uint32_t> ids, ids_of(key, vision::soft_tokens(size)));

  const Lock::Held held = co_await lock_.enter();
  // Another reply may have brought the same meanwhile.
  if (const Medium* medium = hold(key)) co_return medium;
  if (tower_ == nullptr) {
    CO_TRY(tower_, co_await model::VisionTower::load(*device_, *vision_, *tensors_, source_,
                                                     variant_, cancelled));
  }
  CO_TRY(const std::vector<uint8_t> rgb, co_await scaled(source, channels, given, size, cancelled));
  CO_TRY(gpu::Buffer rows, co_await tower_->encode(rgb, size));
  media_[key] = {.ids = std::move(ids),
                 .rows = std::make_shared<const gpu::Buffer>(std::move(rows))};
  const Medium* medium = hold(key);
  forget_oldest();
  co_return medium;
}

}  // namespace lapidary::generate
