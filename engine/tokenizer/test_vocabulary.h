// Vocabularies for tests and fuzzers, as the byte arrays of a GGUF header.
#pragma once

#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/tokenizer/vocabulary.h"

namespace lapidary::tokenizer {

struct TestVocabulary {
  std::string tokens, merges;
  std::vector<int32_t> types;
  uint64_t token_count = 0, merge_count = 0;
  uint32_t bos = 2;
  std::vector<uint32_t> eos{1};

  static void append(std::string& array, std::string_view text) {
    const uint64_t length = text.size();
    array.append(reinterpret_cast<const char*>(&length), sizeof length);
    array.append(text);
  }
  void add_token(std::string_view text, TokenType type = TokenType::kNormal) {
    append(tokens, text);
    types.push_back(static_cast<int32_t>(type));
    ++token_count;
  }
  void add_merge(std::string_view pair) {
    append(merges, pair);
    ++merge_count;
  }
  void add_bytes() {
    for (int value = 0; value < 256; ++value) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(value));
      add_token(name, TokenType::kByte);
    }
  }
  // Valid as long as this object is.
  VocabularySource source() const {
    return {.tokens = {std::as_bytes(std::span(tokens)), token_count},
            .token_types = std::as_bytes(std::span(types)),
            .merges = {std::as_bytes(std::span(merges)), merge_count},
            .bos = bos,
            .eos = eos};
  }
};

// A handful of words with their merges, all tags of the chat format, bytes.
inline TestVocabulary small_vocabulary() {
  TestVocabulary v;
  for (const char* name : {"<pad>", "<eos>", "<bos>"}) v.add_token(name, TokenType::kControl);
  v.add_token("<unk>", TokenType::kUnknown);
  for (const char* name : {"<|turn>", "<turn|>", "<|think|>", "<|image|>"})
    v.add_token(name, TokenType::kControl);
  for (const char* name : {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>",
                           "<|tool_response>", "<tool_response|>", "<|\"|>"}) {
    v.add_token(name, TokenType::kUserDefined);
  }
  v.add_bytes();
  for (const char* text :
       {"\n",     "\n\n", "\n\n\n", "▁",    "▁▁",       "▁▁▁▁", "a",    "b",  "c",  "h",   "e",
        "l",      "o",    "aa",     "aaaa", "aaaaaaaa", "▁a",   "▁b",   "he", "ll", "llo", "hello",
        "▁hello", "é",    "éé",     "a▁",   "世",       "界",   "世界", "<",  "|",  "<|"}) {
    v.add_token(text);
  }
  for (const char* pair :
       {"\n \n", "\n\n \n", "▁ ▁", "▁▁ ▁▁", "a a", "aa aa", "aaaa aaaa", "▁ a", "▁ b", "h e", "l l",
        "ll o", "he llo", "▁ hello", "é é", "a ▁", "世 界", "< |"}) {
    v.add_merge(pair);
  }
  return v;
}

// tests/fixtures/nano/tokenizer.json.gz, in the form and with the types that its GGUF has.
inline TestVocabulary nano_vocabulary(const Json& json) {
  std::vector<std::string> texts(json["model"]["vocab"].size());
  for (const auto& [text, id] : json["model"]["vocab"].items()) texts.at(id.get<size_t>()) = text;
  std::vector<TokenType> types(texts.size(), TokenType::kNormal);
  for (const Json& token : json["added_tokens"]) {
    types.at(token["id"].get<size_t>()) = TokenType::kControl;
  }
  TestVocabulary v;
  for (size_t id = 0; id < texts.size(); ++id) {
    v.add_token(texts[id], id >= 238 && id < 494 ? TokenType::kByte : types[id]);
  }
  for (const Json& merge : json["model"]["merges"]) {
    v.add_merge(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  v.eos = {1, 106, 50};
  return v;
}

}  // namespace lapidary::tokenizer
