// Fuzzes the reply parser: any sequence of tags and text, never lost, never split differently by
// how the text is cut. The bytes 0x00 to 0x0A stand for tags (TAB for the quote); everything else
// is text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>

#include "engine/chat/reply_parser.h"
#include "engine/chat/tool_call.h"

using namespace lapidary;
using namespace lapidary::chat;

namespace {

constexpr std::string_view kTags[] = {
    "<|channel>",       "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>",
    "<tool_response|>", "<turn|>",    "<|image|>",    "<eos>",        "<|\"|>"};

void check(bool holds) {
  if (!holds) std::abort();
}

struct Reply {
  std::string text, thinking, calls;
  bool operator==(const Reply&) const = default;
};

Reply parse(std::string_view input, size_t step, bool thinking, bool start) {
  static const std::vector<ToolDeclaration> tools = *parse_tools(*parse_json(
      R"([{"name": "f", "parameters": {"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}}])",
      "tools"));
  ReplyParser parser({.thinking = thinking, .start_in_thinking = start, .tools = tools});
  std::vector<ReplyEvent> events;
  for (size_t at = 0; at < input.size();) {
    const auto c = static_cast<unsigned char>(input[at]);
    if (c < std::size(kTags)) {
      parser.push(kTags[c], true, events);
      ++at;
      continue;
    }
    size_t end = at;
    while (end < input.size() && end - at < step &&
           static_cast<unsigned char>(input[end]) >= std::size(kTags))
      ++end;
    parser.push(input.substr(at, end - at), false, events);
    at = end;
  }
  parser.finish(events);
  Reply reply;
  for (const ReplyEvent& event : events) {
    if (event.kind == ReplyEventKind::kToolCall) {
      check(!event.call.name.empty() && event.call.arguments.is_object());
      reply.calls += event.call.name + dump_json(event.call.arguments) + "\n";
      continue;
    }
    check(!event.text.empty());
    (event.kind == ReplyEventKind::kText ? reply.text : reply.thinking) += event.text;
  }
  return reply;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const bool start = data[0] & 1;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Reply whole = parse(input, SIZE_MAX, true, start);
  check(whole == parse(input, 1, true, start));
  check(whole == parse(input, 7, true, start));
  const Reply quiet = parse(input, 3, false, start);
  check(quiet.thinking.empty() && quiet.text == whole.text && quiet.calls == whole.calls);
  // Without tags, the reply is the text.
  bool tagged = start;
  for (const char c : input) tagged |= static_cast<unsigned char>(c) < std::size(kTags);
  if (!tagged) check(whole.text == input);
  (void)parse_tool_calls(mark_quotes(input), {});
  return 0;
}
