#include "engine/tokenizer/tokenizer.h"

#include <algorithm>

#include "engine/tokenizer/merge.h"
#include "engine/tokenizer/utf8.h"

namespace lapidary::tokenizer {
namespace {

// Encodes text between special tokens: newline runs apart from the rest (gemma4.md §5, steps 3 and
// 4).
void encode_fragment(const Vocabulary& vocabulary, Merger& merger, std::string_view text,
                     std::vector<uint32_t>& ids) {
  while (!text.empty()) {
    const bool newlines = text.front() == '\n';
    const size_t end = newlines ? text.find_first_not_of('\n') : text.find('\n');
    const std::string_view run = text.substr(0, end);
    text.remove_prefix(run.size());
    const auto whole = newlines ? vocabulary.find(run) : std::nullopt;
    if (whole) {
      ids.push_back(*whole);
    } else {
      merger.encode(run, ids);
    }
  }
}

void add_bos_once(uint32_t bos, std::vector<uint32_t>& ids) {
  if (ids.empty() || ids.front() != bos) ids.insert(ids.begin(), bos);
}

}  // namespace

Result<Tokenizer> Tokenizer::create(const VocabularySource& source) {
  TRY(Vocabulary vocabulary, Vocabulary::create(source));
  return Tokenizer(std::move(vocabulary));
}

std::vector<uint32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<uint32_t> ids;
  Merger merger(vocabulary_);
  size_t start = 0;
  if (options.specials != SpecialTokens::kPlain) {
    for (size_t at = 0; at < text.size();) {
      const uint32_t id =
          vocabulary_.match_special(text.substr(at), options.specials == SpecialTokens::kParse);
      if (id == kNoToken) {
        ++at;
        continue;
      }
      encode_fragment(vocabulary_, merger, text.substr(start, at - start), ids);
      ids.push_back(id);
      at += vocabulary_.text(id).size();
      start = at;
    }
  }
  encode_fragment(vocabulary_, merger, text.substr(start), ids);
  if (options.add_bos) add_bos_once(bos(), ids);
  return ids;
}

std::vector<uint32_t> Tokenizer::encode_pieces(std::span<const TextPiece> pieces,
                                               bool add_bos) const {
  std::vector<uint32_t> ids;
  Merger merger(vocabulary_);
  std::string fragment;  // text since the last special token, across pieces
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (!pieces[i].special) {
      fragment.append(pieces[i].text);
      continue;
    }
    const std::string_view text = pieces[i].text;
    for (size_t at = 0; at < text.size();) {
      const uint32_t id = vocabulary_.match_special(text.substr(at), /*control=*/true);
      if (id == kNoToken) {
        fragment.push_back(text[at++]);
        continue;
      }
      encode_fragment(vocabulary_, merger, fragment, ids);
      fragment.clear();
      ids.push_back(id);
      at += vocabulary_.text(id).size();
    }
  }
  encode_fragment(vocabulary_, merger, fragment, ids);
  if (add_bos) add_bos_once(bos(), ids);
  return ids;
}

void Tokenizer::decode_to(std::string& out, uint32_t id, bool show_control) const {
  std::string_view text = vocabulary_.text(id);
  switch (vocabulary_.type(id)) {
    case TokenType::kControl:
    case TokenType::kUnknown:
      if (show_control) out.append(text);
      return;
    case TokenType::kUserDefined:
      out.append(text);
      return;
    case TokenType::kByte:
      out.push_back(static_cast<char>(vocabulary_.byte_value(id)));
      return;
    case TokenType::kNormal:
    case TokenType::kUnused:
      break;
  }
  constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
  for (size_t mark = text.find(kSpaceMark); mark != std::string_view::npos;
       mark = text.find(kSpaceMark)) {
    out.append(text.substr(0, mark));
    out.push_back(' ');
    text.remove_prefix(mark + kSpaceMark.size());
  }
  out.append(text);
}

std::string Tokenizer::decode(std::span<const uint32_t> ids, bool show_control) const {
  std::string out;
  for (const uint32_t id : ids) {
    if (id < size()) decode_to(out, id, show_control);
  }
  return out;
}

bool Tokenizer::is_end_of_generation(uint32_t id) const {
  return std::ranges::binary_search(vocabulary_.end_of_generation(), id);
}

std::string StreamDecoder::push(uint32_t id) {
  if (id < tokenizer_->size()) tokenizer_->decode_to(pending_, id, show_control_);
  return take(/*final=*/false);
}

std::string StreamDecoder::flush() { return take(/*final=*/true); }

std::string StreamDecoder::take(bool final) {
  std::string out;
  size_t at = 0;
  while (at < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(at);
    const Utf8Step step = utf8_step(rest);
    if (step.valid) {
      out.append(rest.substr(0, step.length));
      at += step.length;
      continue;
    }
    if (step.incomplete && !final) break;
    out.append("\xEF\xBF\xBD");
    at += step.incomplete ? rest.size() : 1;
  }
  pending_.erase(0, at);
  return out;
}

}  // namespace lapidary::tokenizer
