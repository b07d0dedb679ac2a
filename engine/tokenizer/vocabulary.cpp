#include "engine/tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>

#include "engine/base/text.h"

namespace lapidary::tokenizer {
namespace {

constexpr uint64_t kMaxTokens = 1u << 24;
// A slot of the merge table holds a rank below seven bits of the pair's hash, which spare most
// comparisons. kNoRank, an empty slot, is all ones: the largest rank is never used.
constexpr uint32_t kRankMask = (1u << 25) - 1;
constexpr uint32_t merge_tag(uint32_t hash) { return hash & ~kRankMask; }
constexpr uint64_t kMaxMerges = kRankMask;
constexpr size_t kMaxSpecialLength = 256;
// Tables are at most half full, so honest texts sit within a few slots of home; a chain this long
// is a file made to stall us.
constexpr uint32_t kMaxProbes = 2048;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// FNV-1a, byte by byte: the hash of "left" continues into that of "left" + "right".
constexpr uint32_t kHashStart = 2166136261u;
uint32_t hash_more(uint32_t hash, std::string_view text) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}
uint32_t mix(uint32_t h) {
  h ^= h >> 16;
  h *= 0x7FEB352Du;
  h ^= h >> 15;
  h *= 0x846CA68Bu;
  return h ^ (h >> 16);
}
uint32_t hash_ids(uint32_t left, uint32_t right) {
  const uint64_t h = (uint64_t{left} << 32 | right) * 0x9E3779B97F4A7C15u;
  return mix(static_cast<uint32_t>(h >> 32) ^ static_cast<uint32_t>(h));
}
size_t table_size(size_t entries) { return std::bit_ceil(std::max<size_t>(entries, 8) * 2); }

// Walks a StringArray; every length is checked against the bytes that are left.
class StringReader {
 public:
  StringReader(const StringArray& array, std::string_view what) : data_(array.data), what_(what) {}
  Result<std::string_view> next() {
    const uint64_t left = data_.size() - position_;
    if (left < 8) return fail(ErrorCode::kTruncated, cat(what_, ": entry ", index_, " is cut off"));
    const auto length = load<uint64_t>(data_, position_);
    if (length > left - 8) {
      return fail(ErrorCode::kTruncated, cat(what_, ": entry ", index_, " claims ", length,
                                             " bytes, ", left - 8, " are left"));
    }
    const auto* begin = reinterpret_cast<const char*>(data_.data()) + position_ + 8;
    position_ += 8 + static_cast<size_t>(length);
    ++index_;
    return std::string_view(begin, static_cast<size_t>(length));
  }
  size_t position() const { return position_; }

 private:
  Bytes data_;
  std::string_view what_;
  size_t position_ = 0;
  uint64_t index_ = 0;
};

Status check_count(const StringArray& array, uint64_t limit, std::string_view what) {
  if (array.count > limit) {
    return fail(ErrorCode::kUnsupported,
                cat(what, ": ", array.count, " entries, at most ", limit, " are read"));
  }
  if (array.count > array.data.size() / 8) {
    return fail(ErrorCode::kTruncated, cat(what, ": ", array.count, " entries do not fit in ",
                                           array.data.size(), " bytes"));
  }
  return {};
}

// "<0x0A>" -> 10; -1 when the text is no byte token's.
int parse_byte(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

bool is_joined(std::string_view text, std::string_view left, std::string_view right) {
  return text.size() == left.size() + right.size() && text.starts_with(left) &&
         text.ends_with(right);
}

// The class that joinable() knows a code point by: its outer byte, or 256 for "▁".
uint32_t last_class(std::string_view text) {
  return text.ends_with(kSpaceMark) ? 256u : static_cast<unsigned char>(text.back());
}
uint32_t first_class(std::string_view text) {
  return text.starts_with(kSpaceMark) ? 256u : static_cast<unsigned char>(text.front());
}

}  // namespace

Result<Vocabulary> Vocabulary::create(const VocabularySource& source) {
  TRY_VOID(check_count(source.tokens, kMaxTokens, "tokenizer.ggml.tokens"));
  TRY_VOID(check_count(source.merges, kMaxMerges, "tokenizer.ggml.merges"));
  if (source.tokens.count == 0) {
    return fail(ErrorCode::kInvalidFormat, "tokenizer.ggml.tokens: the file has no vocabulary");
  }
  if (source.token_types.size() != source.tokens.count * 4) {
    return fail(ErrorCode::kInvalidFormat,
                cat("tokenizer.ggml.token_type: ", source.token_types.size() / 4, " types for ",
                    source.tokens.count, " tokens"));
  }
  Vocabulary vocabulary;
  TRY_VOID(vocabulary.index_tokens(source.tokens, source.token_types));
  TRY_VOID(vocabulary.index_bytes());
  TRY_VOID(vocabulary.index_merges(source.merges));
  vocabulary.index_specials();

  const auto check_id = [&](uint32_t id, std::string_view what) -> Status {
    if (id < vocabulary.size()) return {};
    return fail(ErrorCode::kInvalidFormat,
                cat("tokenizer.ggml.", what, ": ", id, " is outside the vocabulary of ",
                    vocabulary.size()));
  };
  TRY_VOID(check_id(source.bos, "bos_token_id"));
  vocabulary.bos_ = source.bos;
  auto& ends = vocabulary.end_of_generation_;
  for (const uint32_t id : source.eos) {
    TRY_VOID(check_id(id, "eos_token_id"));
    ends.push_back(id);
  }
  // Files name one end or another; generation ends at any of the three (gemma4.md §6.3).
  for (const std::string_view text : {"<eos>", "<turn|>", "<|tool_response>"}) {
    if (const auto id = vocabulary.find_special(text)) ends.push_back(*id);
  }
  std::ranges::sort(ends);
  ends.erase(std::ranges::unique(ends).begin(), ends.end());
  return vocabulary;
}

Status Vocabulary::index_tokens(const StringArray& tokens, Bytes types) {
  const auto count = static_cast<uint32_t>(tokens.count);
  const size_t text_bytes = tokens.data.size() - size_t{count} * 8;
  if (text_bytes > UINT32_MAX - 1) {
    return fail(ErrorCode::kUnsupported, "tokenizer.ggml.tokens: more than 4 GiB of text");
  }
  texts_.reserve(text_bytes);
  offsets_.reserve(size_t{count} + 1);
  types_.reserve(count);
  token_slots_.assign(table_size(count), Slot{0, kNoToken});
  const size_t mask = token_slots_.size() - 1;
  StringReader reader(tokens, "tokenizer.ggml.tokens");
  for (uint32_t id = 0; id < count; ++id) {
    TRY(const std::string_view text, reader.next());
    offsets_.push_back(static_cast<uint32_t>(texts_.size()));
    texts_.append(text);
    longest_token_ = std::max(longest_token_, static_cast<uint32_t>(text.size()));
    const auto type = load<int32_t>(types, size_t{id} * 4);
    types_.push_back(type >= 1 && type <= 6 ? static_cast<TokenType>(type) : TokenType::kNormal);

    const uint32_t hash = mix(hash_more(kHashStart, text));
    uint32_t probes = 0;
    for (size_t at = hash & mask;; at = (at + 1) & mask) {
      Slot& slot = token_slots_[at];
      if (slot.id == kNoToken) {
        slot = {hash, id};
        break;
      }
      if (slot.hash == hash &&
          std::string_view(texts_).substr(offsets_[slot.id],
                                          offsets_[slot.id + 1] - offsets_[slot.id]) == text) {
        break;  // a repeated text: the lowest id keeps it
      }
      if (++probes > kMaxProbes) {
        return fail(ErrorCode::kInvalidFormat, "tokenizer.ggml.tokens: texts made to collide");
      }
    }
  }
  offsets_.push_back(static_cast<uint32_t>(texts_.size()));
  return {};
}

Status Vocabulary::index_bytes() {
  byte_tokens_.fill(kNoToken);
  for (uint32_t id = 0; id < size(); ++id) {
    if (types_[id] != TokenType::kByte) continue;
    const int value = parse_byte(text(id));
    if (value < 0) {
      return fail(ErrorCode::kInvalidFormat,
                  cat("tokenizer.ggml.tokens: byte token ", id, " is named '", printable(text(id)),
                      "', not <0xHH>"));
    }
    if (byte_tokens_[static_cast<size_t>(value)] == kNoToken)
      byte_tokens_[static_cast<size_t>(value)] = id;
  }
  for (size_t value = 0; value < 256; ++value) {
    if (byte_tokens_[value] == kNoToken) {
      return fail(ErrorCode::kInvalidFormat, cat("tokenizer.ggml.tokens: no byte token for byte ",
                                                 value, ", so not every text can be encoded"));
    }
  }
  ascii_tokens_.fill(kNoToken);
  for (size_t c = 0; c < 128; ++c) {
    const char one = static_cast<char>(c);
    ascii_tokens_[c] = find(std::string_view(&one, 1)).value_or(kNoToken);
  }
  space_token_ = find(kSpaceMark).value_or(kNoToken);
  return {};
}

// In batches, a step at a time: each step's table accesses do not wait for one another, and a cache
// miss apiece for half a million merges is what loading a vocabulary costs.
Status Vocabulary::index_merges(const StringArray& merges) {
  const auto count = static_cast<uint32_t>(merges.count);
  merges_.reserve(count);
  merge_slots_.assign(table_size(count), kNoRank);
  joinable_.assign(257 * 257, false);
  StringReader reader(merges, "tokenizer.ggml.merges");
  constexpr uint32_t kBatch = 64;
  struct Piece {
    std::string_view left, right;  // the text is left + right
    uint32_t hash, id;
    std::string_view candidate;  // the text of token `id`
  };
  std::array<Piece, 3 * kBatch> pieces;
  std::array<std::string_view, kBatch> lines;
  for (uint32_t start = 0; start < count; start += kBatch) {
    const uint32_t size = std::min(kBatch, count - start);
    for (uint32_t i = 0; i < size; ++i) {
      TRY(const std::string_view line, reader.next());
      const size_t space = line.find(' ', 1);
      if (space == std::string_view::npos || space + 1 == line.size()) {
        return fail(ErrorCode::kInvalidFormat, cat("tokenizer.ggml.merges: entry ", start + i, " '",
                                                   printable(line), "' is not two pieces"));
      }
      lines[i] = line;
      const std::string_view left = line.substr(0, space), right = line.substr(space + 1);
      const uint32_t left_hash = hash_more(kHashStart, left);
      pieces[3 * i] = {left, {}, mix(left_hash), kNoToken, {}};
      pieces[3 * i + 1] = {right, {}, mix(hash_more(kHashStart, right)), kNoToken, {}};
      pieces[3 * i + 2] = {left, right, mix(hash_more(left_hash, right)), kNoToken, {}};
    }
    const std::span batch(pieces.data(), size_t{3} * size);
    for (Piece& piece : batch) piece.id = first_candidate(piece.hash);
    for (Piece& piece : batch) piece.candidate = text(piece.id);
    for (Piece& piece : batch) {
      if (!is_joined(piece.candidate, piece.left, piece.right)) {
        piece.id = find_pair(piece.left, piece.right);
      }
    }
    for (uint32_t i = 0; i < size; ++i) {
      const MergeRow row{pieces[3 * i].id, pieces[3 * i + 1].id, pieces[3 * i + 2].id};
      if (row.left == kNoToken || row.right == kNoToken || row.id == kNoToken) {
        return fail(ErrorCode::kInvalidFormat,
                    cat("tokenizer.ggml.merges: entry ", start + i, " '", printable(lines[i]),
                        "' names a piece that is no token"));
      }
      merges_.push_back(row);
      joinable_[last_class(pieces[3 * i].left) * 257 + first_class(pieces[3 * i + 1].left)] = true;
    }
    for (uint32_t i = 0; i < size; ++i) {
      if (!insert_merge(start + i)) {
        return fail(ErrorCode::kInvalidFormat, "tokenizer.ggml.merges: pairs made to collide");
      }
    }
  }
  return {};
}

// False when the chain is too long. The lower rank keeps a repeated pair.
bool Vocabulary::insert_merge(uint32_t rank) {
  const MergeRow row = merges_[rank];
  const uint32_t hash = hash_ids(row.left, row.right);
  const size_t mask = merge_slots_.size() - 1;
  uint32_t probes = 0;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    const uint32_t slot = merge_slots_[at];
    if (slot == kNoRank) {
      merge_slots_[at] = merge_tag(hash) | rank;
      return true;
    }
    if ((slot & ~kRankMask) == merge_tag(hash)) {
      const MergeRow& other = merges_[slot & kRankMask];
      if (other.left == row.left && other.right == row.right) return true;
    }
    if (++probes > kMaxProbes) return false;
  }
}

void Vocabulary::index_specials() {
  for (uint32_t id = 0; id < size(); ++id) {
    if (types_[id] != TokenType::kControl && types_[id] != TokenType::kUserDefined) continue;
    const std::string_view name = text(id);
    if (name.empty() || name.size() > kMaxSpecialLength)
      continue;  // never found in text, still decoded
    if (find(name) != id) continue;
    specials_.push_back(id);
    special_first_[static_cast<unsigned char>(name[0])] = true;
  }
  std::ranges::sort(specials_, {}, [&](uint32_t id) { return text(id); });
}

std::string_view Vocabulary::text(uint32_t id) const {
  if (id >= size()) return {};
  return std::string_view(texts_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
}

std::optional<uint32_t> Vocabulary::find(std::string_view wanted) const {
  const uint32_t id = find_pair(wanted, {});
  return id == kNoToken ? std::nullopt : std::optional(id);
}

// The first token with this hash, or kNoToken.
uint32_t Vocabulary::first_candidate(uint32_t hash) const {
  const size_t mask = token_slots_.size() - 1;
  size_t at = hash & mask;
  while (token_slots_[at].id != kNoToken && token_slots_[at].hash != hash) at = (at + 1) & mask;
  return token_slots_[at].id;
}

// The token whose text is left + right, without joining them.
uint32_t Vocabulary::find_pair(std::string_view left, std::string_view right) const {
  if (left.size() + right.size() > longest_token_) return kNoToken;
  const uint32_t hash = mix(hash_more(hash_more(kHashStart, left), right));
  const size_t mask = token_slots_.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    const Slot slot = token_slots_[at];
    if (slot.id == kNoToken) return kNoToken;
    if (slot.hash == hash && is_joined(text(slot.id), left, right)) return slot.id;
  }
}

std::optional<uint32_t> Vocabulary::find_special(std::string_view wanted) const {
  const auto id = find(wanted);
  if (!id || (type(*id) != TokenType::kControl && type(*id) != TokenType::kUserDefined))
    return std::nullopt;
  return id;
}

uint8_t Vocabulary::byte_value(uint32_t byte_token_id) const {
  return static_cast<uint8_t>(std::max(0, parse_byte(text(byte_token_id))));
}

uint32_t Vocabulary::match_special(std::string_view wanted, bool control) const {
  if (wanted.empty() || !special_first_[static_cast<unsigned char>(wanted[0])]) return kNoToken;
  // specials_ is sorted by text: each further byte narrows the range of names that still agree.
  uint32_t best = kNoToken;
  auto begin = specials_.begin(), end = specials_.end();
  for (size_t k = 0; k < wanted.size() && k < kMaxSpecialLength; ++k) {
    const auto c = static_cast<unsigned char>(wanted[k]);
    const auto byte_at = [&](uint32_t id) -> int {
      const std::string_view name = text(id);
      return k < name.size() ? static_cast<unsigned char>(name[k]) : -1;
    };
    begin = std::partition_point(begin, end, [&](uint32_t id) { return byte_at(id) < c; });
    end = std::partition_point(begin, end, [&](uint32_t id) { return byte_at(id) <= c; });
    if (begin == end) break;
    if (text(*begin).size() == k + 1 && (control || type(*begin) == TokenType::kUserDefined))
      best = *begin;
  }
  return best;
}

Vocabulary::Merge Vocabulary::merge(uint32_t left, uint32_t right) const {
  if (left == kNoToken || right == kNoToken) return {};
  const uint32_t hash = hash_ids(left, right);
  const size_t mask = merge_slots_.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    const uint32_t slot = merge_slots_[at];
    if (slot == kNoRank) return {};
    if ((slot & ~kRankMask) != merge_tag(hash)) continue;
    const MergeRow& row = merges_[slot & kRankMask];
    if (row.left == left && row.right == right) return {slot & kRankMask, row.id};
  }
}

size_t Vocabulary::heap_bytes() const {
  return texts_.capacity() + offsets_.capacity() * 4 + types_.capacity() +
         token_slots_.capacity() * sizeof(Slot) + merge_slots_.capacity() * 4 +
         merges_.capacity() * sizeof(MergeRow) + joinable_.capacity() / 8 +
         specials_.capacity() * 4 + end_of_generation_.capacity() * 4;
}

}  // namespace lapidary::tokenizer
