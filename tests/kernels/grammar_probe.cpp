// Replies in a format, from random logits in the place of a model's: for tests in TypeScript, which
// hold them against another implementation's reading of the schema.
#include <algorithm>
#include <string>
#include <vector>

#include "engine/generate/listeners.h"
#include "engine/grammar/reply_format.h"
#include "engine/tokenizer/test_vocabulary.h"

namespace lapidary {
namespace {

using generate::Candidate;
using generate::Constraint;

// One reply: {events, whole, tokens}. whole: it ended by itself, in at most `most` tokens.
Result<Json> draw_reply(Constraint constraint, const tokenizer::Tokenizer& tokenizer,
                        const grammar::TokenBytes& bytes, const generate::SamplingOptions& sampling,
                        uint64_t seed, uint32_t most, std::vector<chat::ToolDeclaration> tools) {
  Json events = Json::array();
  generate::ChatListener listener(tokenizer, {},
                                  [&](const Json& event) { events.push_back(event); },
                                  {.tools = std::move(tools)});
  bool whole = false;
  uint32_t count = 0;
  for (; count < most && !whole; ++count) {
    std::vector<Candidate> allowed;
    for (uint32_t id = 0; id < tokenizer.size(); ++id) {
      if (!constraint.allows(id)) continue;
      float logit =
          4 * static_cast<float>(generate::draw_bits(seed, uint64_t{count} << 32 | id) >> 40) *
          0x1p-24f;
      // What closes something is likelier than with a model, so that replies end soon.
      const std::string_view text = bytes[id];
      if (text.empty() || text.find_first_of("\"]}\xFF\xFC\xFE") != std::string_view::npos)
        logit += 4;
      allowed.push_back({id, logit});
    }
    if (allowed.empty()) return fail(ErrorCode::kInternal, "no token is allowed");
    std::ranges::sort(allowed, generate::is_likelier);
    const uint32_t id = generate::draw_token(sampling, allowed, generate::draw_bits(~seed, count));
    if (tokenizer.is_end_of_generation(id)) {
      whole = true;
      break;
    }
    constraint.accept(id);
    listener.on_token({.id = id});
    whole = constraint.finished();
  }
  listener.finish();
  return Json{{"events", std::move(events)}, {"whole", whole}, {"tokens", count}};
}

// request: {format, tools, mustCall, mayThink, replies, seed, maxTokens, temperature}
Result<Json> draw_replies(std::string_view vocabulary, std::string_view text) {
  static std::unique_ptr<tokenizer::Tokenizer> tokenizer;
  if (tokenizer == nullptr) {
    TRY(const Json json, parse_json(vocabulary, "vocabulary"));
    const tokenizer::TestVocabulary source = tokenizer::nano_vocabulary(json);
    TRY(tokenizer::Tokenizer made, tokenizer::Tokenizer::create(source.source()));
    tokenizer = std::make_unique<tokenizer::Tokenizer>(std::move(made));
  }
  static const grammar::TokenBytes bytes(*tokenizer);
  TRY(Json request, parse_json(text, "request"));
  TRY(const std::vector<chat::ToolDeclaration> tools, chat::parse_tools(request["tools"]));
  const bool must_call = request.value("mustCall", false);
  grammar::ReplyFormat format{.format = request["format"],
                              .may_call = !tools.empty(),
                              .many_calls = true,
                              .may_think = request.value("mayThink", false)};
  if (must_call) format.must_call = tools;
  TRY(grammar::Automaton made, grammar::compile(format));
  const auto automaton = std::make_shared<const grammar::Automaton>(std::move(made));
  const auto seed = request.value("seed", uint64_t{1});
  const generate::SamplingOptions sampling{
      .temperature = request.value("temperature", 1.0f), .top_k = 0, .top_p = 1};
  Json replies = Json::array();
  for (uint32_t i = 0; i < request.value("replies", 1u); ++i) {
    TRY(Json reply,
        draw_reply({automaton, *tokenizer, bytes}, *tokenizer, bytes, sampling,
                   generate::draw_bits(seed, i), request.value("maxTokens", 500u), tools));
    replies.push_back(std::move(reply));
  }
  return replies;
}

}  // namespace
}  // namespace lapidary

// vocabulary: nano's tokenizer.json; request: as draw_replies. The result is JSON.
extern "C" __attribute__((export_name("grammar_replies"))) void grammar_replies(
    uint32_t call, const char* vocabulary, uint32_t vocabulary_bytes, const char* request,
    uint32_t request_bytes) {
  const auto replies =
      lapidary::draw_replies({vocabulary, vocabulary_bytes}, {request, request_bytes});
  const std::string text = replies ? lapidary::dump_json(*replies) : replies.error().message;
  const auto code = replies ? 0 : static_cast<uint32_t>(replies.error().code);
  lapidary::gpu::host_complete(call, code, text.data(), static_cast<uint32_t>(text.size()));
}
