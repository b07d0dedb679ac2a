#include "engine/tokenizer/merge.h"

#include <algorithm>
#include <functional>

#include "engine/tokenizer/utf8.h"

namespace lapidary::tokenizer {
namespace {

constexpr uint32_t kNone = UINT32_MAX;
// Text comes apart wherever no merge can join two characters, in practice at most words. What never
// does is cut here all the same, so that memory is bounded by about 28 bytes times this.
constexpr size_t kMaxSymbols = 1u << 20;

bool is_space_mark(std::string_view character) {
  return character == " " || character == "\xE2\x96\x81";
}

}  // namespace

void Merger::encode(std::string_view run, std::vector<uint32_t>& ids) {
  size_t start = 0;
  uint32_t last = 0;
  symbols_.clear();
  for (size_t at = 0; at < run.size();) {
    const Utf8Step step = utf8_step(run.substr(at));
    const std::string_view character = run.substr(at, step.length);
    const bool space = is_space_mark(character);
    const uint32_t first = space ? 256u : static_cast<unsigned char>(character.front());
    if (!symbols_.empty() &&
        (!vocabulary_.joinable(last, first) || symbols_.size() == kMaxSymbols)) {
      merge_piece(run.substr(start, at - start), ids);
      symbols_.clear();
      start = at;
    }
    const auto lead = static_cast<unsigned char>(character.front());
    const uint32_t id = space         ? vocabulary_.space_token()
                        : lead < 0x80 ? vocabulary_.ascii_token(lead)
                        : step.valid  ? vocabulary_.find(character).value_or(kNoToken)
                                      : kNoToken;
    const auto index = static_cast<uint32_t>(symbols_.size());
    symbols_.push_back(
        {static_cast<uint32_t>(at - start), id, index == 0 ? kNone : index - 1, kNone, kNoRank});
    if (index != 0) symbols_[index - 1].next = index;
    last = space ? 256u : static_cast<unsigned char>(character.back());
    at += step.length;
  }
  if (!symbols_.empty()) merge_piece(run.substr(start), ids);
}

// Puts the merge of symbol `left` with its neighbour into the queue, if there is one.
void Merger::offer(uint32_t left) {
  Symbol& symbol = symbols_[left];
  symbol.rank =
      symbol.next == kNone ? kNoRank : vocabulary_.merge(symbol.id, symbols_[symbol.next].id).rank;
  if (symbol.rank == kNoRank) return;
  queue_.push_back(uint64_t{symbol.rank} << 32 | left);
  std::ranges::push_heap(queue_, std::greater{});
}

void Merger::merge_piece(std::string_view piece, std::vector<uint32_t>& ids) {
  queue_.clear();
  for (uint32_t i = 0; i + 1 < symbols_.size(); ++i) offer(i);
  while (!queue_.empty()) {
    std::ranges::pop_heap(queue_, std::greater{});
    const auto left = static_cast<uint32_t>(queue_.back());
    const auto rank = static_cast<uint32_t>(queue_.back() >> 32);
    queue_.pop_back();
    Symbol& symbol = symbols_[left];
    if (symbol.rank != rank) continue;  // a neighbour has changed since; the newer offer counts
    const uint32_t right = symbol.next;
    symbol.id = vocabulary_.merge(symbol.id, symbols_[right].id).id;
    symbol.next = symbols_[right].next;
    if (symbol.next != kNone) symbols_[symbol.next].previous = left;
    symbols_[right].rank = kNoRank;
    offer(left);
    if (symbol.previous != kNone) offer(symbol.previous);
  }
  for (uint32_t i = 0; i != kNone; i = symbols_[i].next) {
    const Symbol& symbol = symbols_[i];
    if (symbol.id != kNoToken) {
      ids.push_back(symbol.id);
      continue;
    }
    const size_t end = symbol.next == kNone ? piece.size() : symbols_[symbol.next].offset;
    for (size_t at = symbol.offset; at < end; ++at) {
      ids.push_back(vocabulary_.byte_token(static_cast<uint8_t>(piece[at])));
    }
  }
}

}  // namespace lapidary::tokenizer
