// Rendering against prompts that the canonical template gave under Jinja.
#include "engine/chat/render.h"

#include <gtest/gtest.h>

#include "engine/base/text.h"
#include "engine/chat/prompt_writer.h"
#include "engine/reference/fixture.h"

namespace lapidary::chat {
namespace {

using reference::read_fixture_json;

Json json(std::string_view text) {
  auto value = parse_json(text, "test");
  EXPECT_TRUE(value.has_value()) << text;
  return value ? *std::move(value) : Json();
}

std::string render_text(const Json& messages, const Json& tools, const RenderOptions& options) {
  const auto conversation = parse_messages(messages, tools);
  if (!conversation) return "parse: " + conversation.error().message;
  const auto pieces = render(*conversation, options);
  if (!pieces) return "render: " + pieces.error().message;
  return prompt_text(*pieces);
}

std::string render_text(std::string_view messages, const RenderOptions& options = {}) {
  return render_text(json(messages), Json(), options);
}

void check_case(const Json& c, const Json& small, const Json& large) {
  RenderOptions options{.thinking = c["enable_thinking"].get<bool>(),
                        .add_generation_prompt = c["add_generation_prompt"].get<bool>(),
                        .strict_template = true};
  EXPECT_EQ(render_text(c["messages"], c["tools"], options), small.get<std::string>())
      << c["messages"].dump();
  options.large_template = true;
  EXPECT_EQ(render_text(c["messages"], c["tools"], options), large.get<std::string>())
      << c["messages"].dump();
}

TEST(Render, MatchesNanoCases) {
  const Json cases = read_fixture_json("nano/chat_cases.json.gz");
  ASSERT_EQ(cases.size(), 64u);
  for (const Json& c : cases)
    check_case(c, c["text"], c.contains("text_31b") ? c["text_31b"] : c["text"]);
}

TEST(Render, MatchesGemmaVectors) {
  const Json vectors = read_fixture_json("gemma4/chat_vectors.json.gz")["vectors"];
  ASSERT_EQ(vectors.size(), 80u);
  for (const Json& c : vectors)
    check_case(c, c["small"], c.contains("large") ? c["large"] : c["small"]);
}

// What a turn teaches: the words of the assistant's messages with `learn`, between marks.
std::string marked(const Json& messages, const RenderOptions& options = {}) {
  auto conversation = parse_messages(messages);
  if (!conversation) return "parse: " + conversation.error().message;
  for (Message& message : conversation->messages) message.learn = true;
  const auto pieces = render(*conversation, options);
  if (!pieces) return "render: " + pieces.error().message;
  std::string text;
  bool learn = false;
  for (const Piece& piece : *pieces) {
    if (piece.learn != learn) text.append(piece.learn ? "«" : "»");
    learn = piece.learn;
    text.append(piece.text);
  }
  return text + (learn ? "»" : "");
}

TEST(Render, MarksWhatTheModelWrites) {
  const RenderOptions options{.add_generation_prompt = false};
  EXPECT_EQ(
      marked(json(R"([{"role": "system", "content": "S"}, {"role": "user", "content": "a"},
    {"role": "assistant", "content": " One. "}, {"role": "user", "content": "b"},
    {"role": "assistant", "thinking": "Hm.", "content": "Two."}])"),
             options),
      "<bos><|turn>system\nS<turn|>\n<|turn>user\na<turn|>\n<|turn>model\n«One.<turn|>»\n"
      "<|turn>user\nb<turn|>\n<|turn>model\n«<|channel>thought\nHm.\n<channel|>Two.<turn|>»\n");
  // Calls end with the first <|tool_response>; results are not the model's.
  EXPECT_EQ(marked(json(R"([{"role": "user", "content": "a"},
    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"k": 1}}},
      {"id": "2", "function": {"name": "g"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "r"}, {"role": "tool", "tool_call_id": "2", "content": "s"},
    {"role": "assistant", "content": "Done."}])"),
                   options),
            "<bos><|turn>user\na<turn|>\n<|turn>model\n«<|tool_call>call:f{k:1}<tool_call|>"
            "<|tool_call>call:g{}<tool_call|><|tool_response>»response:f{value:<|\"|>r<|\"|>}"
            "<tool_response|><|tool_response>response:g{value:<|\"|>s<|\"|>}<tool_response|>"
            "«Done.<turn|>»\n");
  EXPECT_EQ(marked(json(R"([{"role": "user", "content": "a"},
    {"role": "assistant", "tool_calls": [{"name": "f"}]}])"),
                   options),
            "<bos><|turn>user\na<turn|>\n<|turn>model\n«<|tool_call>call:f{}<tool_call|><|tool_"
            "response>»");
  // The end that the template puts after results that nobody answered teaches nothing.
  EXPECT_EQ(
      marked(json(R"([{"role": "user", "content": "a"},
    {"role": "assistant", "tool_calls": [{"name": "f"}]}, {"role": "tool", "content": "r"},
    {"role": "user", "content": "b"}])"),
             options),
      "<bos><|turn>user\na<turn|>\n<|turn>model\n«<|tool_call>call:f{}<tool_call|><|tool_response>»"
      "response:unknown{value:<|\"|>r<|\"|>}<tool_response|><turn|>\n<|turn>user\nb<turn|>\n");
}

TEST(Render, GivesTheLastTurnAnEmptyThoughtForTraining) {
  const Json messages =
      json(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "One."},
    {"role": "user", "content": "b"}, {"role": "assistant", "content": "Two."}])");
  RenderOptions options{
      .add_generation_prompt = false, .large_template = true, .empty_thought_in_last_turn = true};
  EXPECT_EQ(marked(messages, options),
            "<bos><|turn>user\na<turn|>\n<|turn>model\n«One.<turn|>»\n<|turn>user\nb<turn|>\n"
            "<|turn>model\n<|channel>thought\n<channel|>«Two.<turn|>»\n");
  options.large_template = false;
  EXPECT_EQ(marked(messages, options).find("thought"), std::string::npos);
}

// Nothing that a user, a tool or a schema says is in a special piece.
TEST(Render, ForeignTextIsPlain) {
  const Json messages = json(R"([
    {"role": "system", "content": "FOREIGN"},
    {"role": "user", "content": [{"type": "text", "text": "FOREIGN<turn|>"}, {"type": "image"}]},
    {"role": "assistant", "reasoning": "FOREIGN", "content": "FOREIGN", "tool_calls":
      [{"id": "1", "function": {"name": "FOREIGN", "arguments": {"FOREIGN": ["FOREIGN", {"FOREIGN": 1}]}}}]},
    {"role": "tool", "tool_call_id": "1", "content": {"FOREIGN": "FOREIGN"}},
    {"role": "tool", "name": "FOREIGN", "content": "FOREIGN<|tool_call>"}])");
  const Json tools =
      json(R"([{"name": "FOREIGN", "description": "FOREIGN", "parameters": {"type": "FOREIGN",
    "required": ["FOREIGN"], "properties": {"FOREIGN": {"type": "array", "description": "FOREIGN", "items":
      {"FOREIGN": "FOREIGN", "type": "FOREIGN"}}, "X": {"type": "string", "enum": ["FOREIGN"]}}}}])");
  const auto conversation = parse_messages(messages, tools);
  ASSERT_TRUE(conversation.has_value()) << conversation.error().message;
  const auto pieces = render(*conversation);
  ASSERT_TRUE(pieces.has_value());
  size_t plain = 0, images = 0;
  for (const Piece& piece : *pieces) {
    if (piece.special) {
      EXPECT_EQ(piece.text.find("FOREIGN"), std::string::npos) << piece.text;
      images += piece.text.find("<|image|>") != std::string::npos;
    } else {
      plain += piece.text.find("FOREIGN") != std::string::npos;
    }
  }
  EXPECT_GE(plain, 15u);
  EXPECT_EQ(images, 1u);
  for (size_t i = 1; i < pieces->size(); ++i)
    EXPECT_NE((*pieces)[i].special, (*pieces)[i - 1].special);
}

TEST(Render, ContinuesTheFinalMessage) {
  const RenderOptions options{.large_template = true, .continue_final_message = true};
  EXPECT_EQ(
      render_text(
          R"([{"role": "user", "content": "Count."}, {"role": "model", "content": "One, two,"}])",
          options),
      "<bos><|turn>user\nCount.<turn|>\n<|turn>model\nOne, two,");
  EXPECT_EQ(render_text(R"([{"role": "user", "content": "Count."}])", options),
            "render: continue_final_message: the last message must be an assistant's, without tool "
            "calls");
}

TEST(Render, OpensATurnAfterResultsWithText) {
  const std::string_view messages = R"([{"role": "user", "content": "go"},
    {"role": "assistant", "content": "Look.", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c", "content": "r"}])";
  EXPECT_TRUE(render_text(messages).ends_with("Look.<turn|>\n<|turn>model\n"));
  EXPECT_TRUE(render_text(messages, {.strict_template = true}).ends_with("Look.<turn|>\n"));
}

TEST(Render, TakesCallsUnderTypeScriptsName) {
  const auto text = [](std::string_view key) {
    return render_text(cat(R"([{"role": "user", "content": "go"}, {"role": "assistant", ")", key,
                           R"(": [{"name": "f", "arguments": {"a": 1}}]},
                           {"role": "tool", "name": "f", "content": "r"}])"));
  };
  EXPECT_EQ(text("toolCalls"), text("tool_calls"));
  EXPECT_NE(text("toolCalls").find("<|tool_call>call:f{a:1}"), std::string::npos);
}

TEST(Render, TellsWhenThePromptEndsInAThought) {
  const auto ends = [](bool thinking) {
    const auto conversation = parse_messages(json(R"([{"role": "user", "content": "go"},
      {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]},
      {"role": "tool", "tool_call_id": "c", "content": "r"}])"));
    return ends_in_thinking(*render(*conversation, {.thinking = thinking}));
  };
  EXPECT_TRUE(ends(true));
  EXPECT_FALSE(ends(false));
}

TEST(Render, KeepsEarlierReasoningOfCallsWhenAsked) {
  const std::string_view messages = R"([{"role": "user", "content": "a"},
    {"role": "assistant", "thinking": "why", "tool_calls": [{"id": "c", "function": {"name": "f"}}]},
    {"role": "tool", "tool_call_id": "c", "content": "r"},
    {"role": "user", "content": "b"}])";
  EXPECT_EQ(render_text(messages).find("why"), std::string::npos);
  EXPECT_NE(
      render_text(messages, {.preserve_thinking = true}).find("<|channel>thought\nwhy\n<channel|>"),
      std::string::npos);
}

TEST(Render, TrimsUnicodeSpace) {
  EXPECT_EQ(render_text("[{\"role\": \"user\", \"content\": \"\xC2\xA0\xE3\x80\x80 "
                        "\xE4\xB8\x96\xE2\x80\x83\\n\"}]",
                        {.add_generation_prompt = false}),
            "<bos><|turn>user\n\xE4\xB8\x96<turn|>\n");
}

TEST(Render, OllamaImagesPrecedeTheText) {
  EXPECT_EQ(render_text(R"([{"role": "user", "content": "What?", "images": ["", ""]}])",
                        {.add_generation_prompt = false}),
            "<bos><|turn>user\n<|image|><|image|>What?<turn|>\n");
}

TEST(Render, UnionsRenderAsLists) {
  const std::string text = render_text(
      json(R"([{"role": "user", "content": "x"}])"),
      json(R"([{"name": "f", "description": "d", "parameters": {"type": "object", "properties":
        {"a": {"type": ["string", "null"]}, "o": {"type": "object", "k": {"type": "integer"}}, "bad": true}}}])"),
      {});
  EXPECT_NE(
      text.find(
          "properties:{a:{type:[<|\"|>STRING<|\"|>,<|\"|>NULL<|\"|>]},bad:{type:<|\"|><|\"|>},"
          "o:{properties:{k:{type:<|\"|>INTEGER<|\"|>}},type:<|\"|>OBJECT<|\"|>}}"),
      std::string::npos)
      << text;
}

TEST(Render, NumbersPrintAsPythonDoes) {
  EXPECT_EQ(format_float(1.5), "1.5");
  EXPECT_EQ(format_float(2), "2.0");
  EXPECT_EQ(format_float(-0.0), "-0.0");
  EXPECT_EQ(format_float(0.0001), "0.0001");
  EXPECT_EQ(format_float(0.00001), "1e-05");
  EXPECT_EQ(format_float(1e15), "1000000000000000.0");
  EXPECT_EQ(format_float(1e16), "1e+16");
  EXPECT_EQ(format_float(0.1 + 0.2), "0.30000000000000004");
  EXPECT_EQ(format_float(1.7976931348623157e308), "1.7976931348623157e+308");
}

TEST(Render, RefusesAnOrphanedToolResult) {
  EXPECT_EQ(render_text(R"([{"role": "user", "content": "a"}, {"role": "tool", "content": "r"}])"),
            "render: message 1: a tool result must follow an assistant's message with tool_calls");
}

TEST(ParseMessages, NamesWhatIsWrong) {
  const auto message = [](std::string_view text) {
    const auto conversation = parse_messages(json(text));
    if (conversation) return std::string("accepted");
    EXPECT_EQ(conversation.error().code, ErrorCode::kInvalidArgument);
    return conversation.error().message;
  };
  EXPECT_EQ(message("{}"), "messages: not a list");
  EXPECT_EQ(message("[]"), "messages: the list is empty");
  EXPECT_EQ(message("[1]"), "message 0: not an object");
  EXPECT_EQ(message(R"([{"role": "user", "content": "x"}, {"content": "x"}])"),
            "message 1: no role");
  EXPECT_EQ(message(R"([{"role": "wizard"}])"),
            "message 0: role 'wizard' is none of system, developer, user, assistant, tool");
  EXPECT_EQ(message(R"([{"role": "user", "content": 5}])"),
            "message 0: content is neither a string nor a list of parts");
  EXPECT_EQ(message(R"([{"role": "user", "content": [{"type": "smell"}]}])"),
            "message 0: content part 0 has type 'smell'; text, image, audio and video are known");
  EXPECT_EQ(message(R"([{"role": "user", "content": [{"type": "text"}]}])"),
            "message 0: content part 0 has no text");
  EXPECT_EQ(
      message(R"([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}])"),
      "message 0: tool call 0 has no function name");
  EXPECT_EQ(message(R"([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}])"),
            "message 0: tool call 0: arguments are not a JSON object");
  EXPECT_EQ(message(R"([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": 3}]}])"),
            "message 0: tool call 0: arguments are neither an object nor a string of one");
  EXPECT_EQ(message(R"([{"role": "user", "tool_calls": [{"name": "f"}]}])"),
            "message 0: only an assistant calls tools");
  EXPECT_EQ(
      message(
          R"([{"role": "assistant", "content": null, "tool_calls": [{"name": "f", "arguments": ""}]}])"),
      "accepted");
  const auto tools = parse_tools(json(R"([{"function": {"name": "f", "parameters": []}}])"));
  ASSERT_FALSE(tools.has_value());
  EXPECT_EQ(tools.error().message, "tool 0: parameters is not an object");
}

}  // namespace
}  // namespace lapidary::chat
