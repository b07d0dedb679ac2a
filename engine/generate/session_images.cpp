// The part of a session that keeps images whole. Where the model lets an image's tokens see each
// other both ways, K and V of each depend on all of them: no batch ends within an image, and what
// the cache keeps of a sequence does not either.
#include <algorithm>

#include "engine/base/text.h"
#include "engine/generate/session_run.h"

namespace lapidary::generate {

using model::SoftKind;
using model::SoftRows;

namespace {

bool is_soft(const std::vector<uint32_t>& tokens, uint32_t at) {
  return at < tokens.size() && tokens[at] >= model::kSoftToken;
}

}  // namespace

Status Session::check_soft(const std::vector<uint32_t>& prompt, const SoftSpans& soft) const {
  const auto bad = [](const auto&... parts) {
    return fail(ErrorCode::kInvalidArgument, cat(parts...));
  };
  uint64_t end = 0;
  for (const SoftRows& span : soft) {
    if (span.position < end) return bad("images and audio of a prompt are not in order");
    end = uint64_t{span.position} + span.rows;
    if (end > prompt.size() || !std::all_of(prompt.begin() + span.position, prompt.begin() + end,
                                            [](uint32_t id) { return id >= model::kSoftToken; }))
      return bad("an image or audio is not where the prompt has its tokens");
    if (end == prompt.size()) return bad("a prompt ends in a token, not in an image or audio");
    if (span.kind == SoftKind::kImage && decoder_->sees_both_ways() &&
        span.rows > decoder_->most_image_tokens()) {
      return bad("an image of ", span.rows, " tokens is too large: this model takes ",
                 decoder_->most_image_tokens(), " of one image at most");
    }
  }
  return {};
}

uint32_t Session::whole_images(const std::vector<uint32_t>& cached, uint32_t length,
                               const SoftSpans& soft) const {
  if (!decoder_->sees_both_ways()) return length;
  for (const SoftRows& image : soft) {
    if (image.kind != SoftKind::kImage || length <= image.position || length > image.end())
      continue;
    // What goes on in the cache may be the rest of another image that begins like it.
    if (length < image.end() || is_soft(cached, length)) return image.position;
  }
  return length;
}

uint32_t Session::whole_images(const std::vector<uint32_t>& cached, uint32_t length) const {
  length = std::min(length, static_cast<uint32_t>(cached.size()));
  if (!decoder_->sees_both_ways() || !is_soft(cached, length)) return length;
  while (length > 0 && is_soft(cached, length - 1)) --length;
  return length;
}

uint32_t Session::piece(const SoftSpans& soft, uint32_t at, uint32_t most) const {
  if (!decoder_->sees_both_ways()) return most;
  const uint32_t end = at + most;
  for (const SoftRows& image : soft) {
    if (image.kind != SoftKind::kImage || end <= image.position || end >= image.end()) continue;
    return image.position > at ? image.position - at : image.end() - at;
  }
  return most;
}

Task<Status> Session::reserve(const SoftSpans& soft) {
  if (!decoder_->sees_both_ways()) co_return Status{};
  uint32_t most = 0;
  for (const SoftRows& image : soft) {
    if (image.kind == SoftKind::kImage) most = std::max(most, image.rows);
  }
  co_return co_await decoder_->reserve_batch(most);
}

Task<Status> Session::make_room() {
  const std::vector<Run*> active(scheduler_.active().begin(), scheduler_.active().end());
  for (Run* run : active) {
    if (run->has_room) continue;
    run->has_room = true;
    Status status = co_await reserve(run->soft);
    if (status) continue;
    // The others have the room that they need.
    if (status.error().code != ErrorCode::kOutOfMemory) co_return status;
    run->status = std::move(status);
  }
  co_return Status{};
}

}  // namespace lapidary::generate
