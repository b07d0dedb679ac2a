// Replies, well and badly formed, taken apart; the same however the text is cut into tokens.
#include "engine/chat/reply_parser.h"

#include <gtest/gtest.h>

#include "engine/chat/tool_call.h"

namespace lapidary::chat {
namespace {

// What a reply amounts to: text and thinking joined, calls as name(arguments).
struct Reply {
  std::string text, thinking;
  std::vector<std::string> calls;
  bool operator==(const Reply&) const = default;
};
void PrintTo(const Reply& reply, std::ostream* out) {
  *out << "text '" << reply.text << "' thinking '" << reply.thinking << "'";
  for (const auto& call : reply.calls) *out << " " << call;
}

// Tags stand in the text as themselves; `step` bytes of other text make a token. spelled: tags are
// plain text.
Reply parse(std::string_view text, ReplyOptions options = {}, size_t step = SIZE_MAX,
            bool spelled = false) {
  ReplyParser parser(std::move(options));
  std::vector<ReplyEvent> events;
  while (!text.empty()) {
    const size_t close = text.find('>');
    const bool tag = text.starts_with('<') && !text.starts_with("< ") &&
                     close != std::string_view::npos && !spelled;
    const size_t length = tag ? close + 1 : std::min({text.find('<', 1), text.size(), step});
    parser.push(text.substr(0, length), tag, events);
    text.remove_prefix(length);
  }
  parser.finish(events);
  Reply reply;
  for (const ReplyEvent& event : events) {
    switch (event.kind) {
      case ReplyEventKind::kText:
        EXPECT_FALSE(event.text.empty());
        reply.text += event.text;
        break;
      case ReplyEventKind::kThinking:
        EXPECT_FALSE(event.text.empty());
        reply.thinking += event.text;
        break;
      case ReplyEventKind::kToolCall:
        reply.calls.push_back(event.call.name + "(" + dump_json(event.call.arguments) + ")");
        break;
    }
  }
  return reply;
}

std::vector<ToolDeclaration> tools() {
  return *parse_tools(*parse_json(R"([{"name": "say", "parameters": {"type": "object", "properties":
      {"text": {"type": "string"}, "loud": {"type": "boolean"}}}}])",
                                  "tools"));
}

struct Case {
  const char* name;
  const char* reply;
  Reply expected;
};

class ReplyCases : public testing::TestWithParam<Case> {};

TEST_P(ReplyCases, AtOnceAndByteByByte) {
  for (const size_t step : {SIZE_MAX, size_t{1}, size_t{3}}) {
    EXPECT_EQ(parse(GetParam().reply, {.tools = tools()}, step), GetParam().expected)
        << "step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ReplyCases,
    testing::Values(
        Case{"Empty", "", {}}, Case{"Text", "Hello, world.", {"Hello, world.", "", {}}},
        Case{"TrailingSpaceAtTheEnd", "Hello.\n", {"Hello.\n", "", {}}},
        Case{"Thinking",
             "<|channel>thought\nhm, yes\n<channel|>\n\nHello.",
             {"Hello.", "hm, yes", {}}},
        Case{"TextBeforeThinking",
             "Well. \n<|channel>thought\nhm<channel|> ok",
             {"Well.ok", "hm", {}}},
        Case{"EmptyThought", "<|channel>thought\n<channel|>Hello.", {"Hello.", "", {}}},
        Case{"EmptyThoughtWithoutNewline", "<|channel>thought<channel|>Hello.", {"Hello.", "", {}}},
        Case{"UnnamedChannel", "<|channel>thorough work<channel|>x", {"x", "thorough work", {}}},
        Case{"ShortChannel", "<|channel>tho<channel|>x", {"x", "tho", {}}},
        Case{"UnclosedThought", "<|channel>thought\nhm ", {"", "hm", {}}},
        Case{"RepeatedChannel",
             "<|channel>thought\n<|channel>thought\nhm<channel|>x",
             {"x", "hm", {}}},
        Case{"StrayChannelClose", "<channel|>Hello <channel|> world", {"Hello world", "", {}}},
        Case{"EmptyThoughtAtTheEnd", "Hello.<|channel>thought\n<channel|>", {"Hello.", "", {}}},
        Case{"Call",
             "<|tool_call>call:f{a:1,b:<|\"|>x, {y}<|\"|>}<tool_call|><|tool_response>",
             {"", "", {R"(f({"a":1,"b":"x, {y}"}))"}}},
        Case{"TextAndCall",
             "Wait. <|tool_call>call:f{}<tool_call|>\nDone",
             {"Wait.Done", "", {"f({})"}}},
        Case{"ThoughtAndCall",
             "<|channel>thought\nuse f\n<|tool_call>call:f{}<tool_call|>",
             {"", "use f", {"f({})"}}},
        Case{"TwoCalls",
             "<|tool_call>call:f{}<tool_call|> <|tool_call>call:g{}<tool_call|><tool_call|>",
             {"", "", {"f({})", "g({})"}}},
        Case{"CallInsideCall",
             "<|tool_call>call:f{}<|tool_call>call:g{}<tool_call|>",
             {"", "", {"f({})", "g({})"}}},
        Case{"NestedValues",
             "<|tool_call>call:f{l:[1,-2.5e3,[true,false],null],o:{k:<|\"|>v<|\"|>,e:{}}}<tool_"
             "call|>",
             {"", "", {R"(f({"l":[1,-2500.0,[true,false],null],"o":{"k":"v","e":{}}}))"}}},
        Case{"JsonStyle",
             "<|tool_call>call:f{\"a\": \"x\\n\", \"b\" : 2}<tool_call|>",
             {"", "", {R"(f({"a":"x\n","b":2}))"}}},
        Case{"UnclosedCall", "<|tool_call>call:f{a:1}", {"", "", {R"(f({"a":1}))"}}},
        Case{"MissingBrace",
             "<|tool_call>call:f{a:{b:1}<tool_call|>",
             {"", "", {R"(f({"a":{"b":1}}))"}}},
        Case{"BraceTooMany", "<|tool_call>call:f{a:1}}<tool_call|>", {"", "", {R"(f({"a":1}))"}}},
        Case{"OddQuote",
             "<|tool_call>call:f{a:<|\"|>Paris}<tool_call|>",
             {"", "", {R"(f({"a":"Paris"}))"}}},
        Case{"OddQuoteInList",
             "<|tool_call>call:f{a:[<|\"|>x<|\"|>,<|\"|>y]}<tool_call|>",
             {"", "", {R"(f({"a":["x","y"]}))"}}},
        Case{"SingleQuotes",
             "<|tool_call>call:f{a:'it's here',b:'c'}<tool_call|>",
             {"", "", {R"(f({"a":"it's here","b":"c"}))"}}},
        Case{"BareWord",
             "<|tool_call>call:f{a:Paris,b:2}<tool_call|>",
             {"", "", {R"(f({"a":"Paris","b":2}))"}}},
        Case{"BareLastString",
             "<|tool_call>call:say{loud:true,text:Hi, you: all {of} you!}<tool_call|>",
             {"", "", {R"(say({"loud":true,"text":"Hi, you: all {of} you!"}))"}}},
        Case{"BareStringThenArgument",
             "<|tool_call>call:say{text:one, two,loud:false}<tool_call|>",
             {"", "", {R"(say({"text":"one, two","loud":false}))"}}},
        Case{"SpecialTextInString",
             "<|tool_call>call:f{a:<|\"|>1 < 2<|\"|>}<tool_call|>",
             {"", "", {R"(f({"a":"1 < 2"}))"}}},
        Case{"KeyWithOddLetters",
             "<|tool_call>call:ns.f-1{ä b-c:1}<tool_call|>",
             {"", "", {R"(ns.f-1({"ä b-c":1}))"}}},
        Case{"NoCallAtAll",
             "<|tool_call>what?<tool_call|>",
             {"<|tool_call>what?<tool_call|>", "", {}}},
        Case{"HopelessCall",
             "<|tool_call>call:f{<|\"|>a<|\"|>,}b",
             {"<|tool_call>call:f{<|\"|>a<|\"|>,}b", "", {}}},
        Case{"EmptyCall", "a<|tool_call> <tool_call|>b", {"ab", "", {}}},
        Case{"QuoteInText", "say <|\"|>x<|\"|>", {"say <|\"|>x<|\"|>", "", {}}},
        Case{"OtherTokens", "<pad>a<|image><eos>b<turn|>", {"ab", "", {}}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ReplyParser, SpelledOutTagsAreText) {
  const std::string text = "<|tool_call>call:f{}<tool_call|><|channel>thought\n";
  for (const size_t step : {SIZE_MAX, size_t{1}}) {
    EXPECT_EQ(parse(text, {}, step, /*spelled=*/true), (Reply{text, "", {}}));
  }
}

TEST(ReplyParser, ThinkingOffDropsTheSpan) {
  EXPECT_EQ(parse("<|channel>thought\nhm\n<channel|>Hello.", {.thinking = false}),
            (Reply{"Hello.", "", {}}));
}

TEST(ReplyParser, StartsInThinking) {
  EXPECT_EQ(parse("hm\n<channel|>Hello.", {.start_in_thinking = true}),
            (Reply{"Hello.", "hm", {}}));
}

TEST(ReplyParser, TextComesAsSoonAsItCan) {
  ReplyParser parser;
  std::vector<ReplyEvent> events;
  parser.push("Hello ", false, events);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].text, "Hello");
  parser.push("you", false, events);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].text, " you");
}

TEST(ToolCalls, QuotesInsideStringsSurvive) {
  // The mark is the token; the same characters as plain text belong to the string.
  const auto calls = parse_tool_calls("call:f{a:\xFFhe said <|\"|>hi<|\"|>\xFF}", {});
  ASSERT_TRUE(calls.has_value());
  EXPECT_EQ((*calls)[0].arguments["a"], "he said <|\"|>hi<|\"|>");
}

TEST(ToolCalls, SpelledOutQuotesAreReadAsQuotesIfNothingElseWorks) {
  const auto calls = parse_tool_calls("call:f{a:{b:<|\"|>x, y: {z}<|\"|>}}", {});
  ASSERT_TRUE(calls.has_value());
  EXPECT_EQ((*calls)[0].name, "f");
}

TEST(ToolCalls, DepthIsBounded) {
  std::string deep = "call:f{a:";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  EXPECT_FALSE(parse_tool_calls(deep, {}).has_value());
  deep = "call:f";
  for (int i = 0; i < 100'000; ++i) deep += "{a:";
  EXPECT_FALSE(parse_tool_calls(deep, {}).has_value());
}

}  // namespace
}  // namespace lapidary::chat
