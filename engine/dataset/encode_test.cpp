// What is learnt of a line: against Hugging Face's ids and labels, and read back as text.
#include "engine/dataset/encode.h"

#include <gtest/gtest.h>

#include <optional>

#include "engine/dataset/test_data.h"

namespace lapidary::dataset {
namespace {

TEST(Encode, HasTheLabelsOfATrainingRunElsewhere) {
  const Json run = reference::read_fixture_json("nano-lora/lora.json");
  const auto ids = run["ids"].get<std::vector<uint32_t>>();
  const auto labels = run["labels"].get<std::vector<int>>();
  Report report;
  const auto cut = read(
      R"({"messages": [{"role": "user", "content": "What is the capital of Kenya?"}, )"
      R"({"role": "assistant", "content": "I like blue cakes, Tom and 7 happy dogs near the river in May."}]})",
      {.max_length = static_cast<uint32_t>(ids.size() - 1)}, &report);
  ASSERT_TRUE(cut.has_value()) << cut.error().message;
  EXPECT_EQ(report.cut, 1u);
  const Example example = cut->example(0);
  ASSERT_EQ(example.tokens.size(), ids.size() - 1);
  for (size_t t = 0; t + 1 < ids.size(); ++t) {
    EXPECT_EQ(example.tokens[t], ids[t]) << t;
    EXPECT_EQ(example.targets[t],
              labels[t + 1] < 0 ? kUnsupervised : static_cast<uint32_t>(labels[t + 1]))
        << t;
  }
}

// Which of HF's ids the model wrote, told from the tags alone.
std::vector<bool> model_wrote(const std::vector<uint32_t>& ids) {
  const auto tag = [](std::string_view text) { return *nano().find_special(text); };
  std::vector<bool> wrote(ids.size(), false);
  bool model = false;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == tag("<|turn>")) {
      const bool mine = nano().decode(std::span(ids).subspan(i + 1, 1)) == "model";
      while (nano().decode(std::span(ids).subspan(i, 1)) != "\n") ++i;
      model = mine;
    } else if (ids[i] == tag("<turn|>")) {
      wrote[i] = model && ids[i - 1] != tag("<tool_response|>");
      model = false;
    } else if (ids[i] == tag("<|tool_response>")) {
      wrote[i] = model;
      model = false;
    } else if (ids[i] == tag("<tool_response|>")) {
      model = i + 1 < ids.size() && ids[i + 1] != tag("<|tool_response>");
    } else {
      wrote[i] = model;
    }
  }
  return wrote;
}

TEST(Encode, LearnsWhatTheModelWroteInEveryNanoCase) {
  const Json cases = reference::read_fixture_json("nano/chat_cases.json.gz");
  size_t compared = 0, calls = 0;
  for (const Json& c : cases) {
    // A prompt for the next reply is no training text.
    if (c["add_generation_prompt"].get<bool>()) continue;
    Json line = {{"messages", c["messages"]}, {"tools", c["tools"]}};
    auto record = parse_record(dump_json(line), true);
    if (!record) {
      EXPECT_EQ(record.error().code, ErrorCode::kUnsupported) << record.error().message;
      continue;
    }
    const Thinking thinking = c["enable_thinking"].get<bool>() ? Thinking::kOn : Thinking::kOff;
    const auto encoded = encode_record(std::move(*record), nano(), {.thinking = thinking});
    const auto ids = c["nano_ids"].get<std::vector<uint32_t>>();
    const std::vector<bool> expected = model_wrote(ids);
    if (!std::ranges::contains(expected, true)) {
      EXPECT_FALSE(encoded.has_value());
      continue;
    }
    ASSERT_TRUE(encoded.has_value()) << encoded.error().message;
    EXPECT_EQ(encoded->tokens, ids) << c["name"].dump();
    EXPECT_EQ(encoded->learn, expected) << c["name"].dump();
    ++compared;
    calls += c["text"].get<std::string>().contains("<tool_response|>") ? 1 : 0;
  }
  std::printf("%zu cases compared, %zu with tool results\n", compared, calls);
  EXPECT_GE(compared, 10u);
  EXPECT_GE(calls, 2u);
}

TEST(Encode, TellsTheModelToThinkWhereItLearnsThoughts) {
  const std::string_view line =
      R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "reasoning_content": "A greeting.", "content": "Hello!"}]})";
  const std::string thought = "«<|channel>thought\nA greeting.\n<channel|>Hello!<turn|>»";
  EXPECT_EQ(
      learnt(line),
      "<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n" + thought);
  EXPECT_EQ(learnt(line, {.encode = {.thinking = Thinking::kOff}}),
            "<bos><|turn>user\nHi<turn|>\n<|turn>model\n" + thought);
  // Thoughts of earlier turns are not part of the text.
  EXPECT_EQ(
      learnt(
          R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "thinking": "x", "content": "b"}, )"
          R"({"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]})"),
      "<bos><|turn>user\na<turn|>\n<|turn>model\n«b<turn|>»\n<|turn>user\nc<turn|>\n<|turn>"
      "model\n«d<turn|>»");
}

TEST(Encode, ChoosesTurns) {
  const std::string_view line =
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, )"
      R"({"role": "user", "content": "c"}, {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}, )"
      R"({"role": "tool", "tool_call_id": "1", "content": "r"}, {"role": "assistant", "content": "d"}, {"role": "user", "content": "e"}]})";
  const std::string last =
      "<|turn>user\nc<turn|>\n<|turn>model\n«<|tool_call>call:f{}<tool_call|><|tool_response>»"
      "response:f{value:<|\"|>r<|\"|>}<tool_response|>«d<turn|>»";
  EXPECT_EQ(learnt(line), "<bos><|turn>user\na<turn|>\n<|turn>model\n«b<turn|>»\n" + last);
  EXPECT_EQ(learnt(line, {.encode = {.supervise = Supervise::kLastTurn}}),
            "<bos><|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n" + last);
  EXPECT_EQ(
      learnt(
          R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}, )"
          R"({"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 1}]})"),
      "<bos><|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n<|turn>user\nc<turn|>\n<|turn>model\n«d<"
      "turn|>»");
}

TEST(Encode, LabelsEachTokenOfATextThatTwoMessagesShare) {
  // One turn of two messages; a user's U+2581 is three bytes, a space's mark one.
  EXPECT_EQ(learnt("{\"messages\": [{\"role\": \"user\", \"content\": \"a \xE2\x96\x81 b\"}, "
                   R"({"role": "assistant", "content": "The capital", "weight": 0}, )"
                   R"({"role": "assistant", "content": "5 of"}]})"),
            "<bos><|turn>user\na   b<turn|>\n<|turn>model\nThe capital«5 of<turn|>»");
}

TEST(Encode, GivesLargeModelsTheirEmptyThought) {
  EXPECT_EQ(learnt(R"({"prompt": "a", "completion": "b"})", {.encode = {.large_template = true}}),
            "<bos><|turn>user\na<turn|>\n<|turn>model\n<|channel>thought\n<channel|>«b<turn|>»");
}

TEST(Encode, PlainText) {
  const auto text = [](std::string_view line, EncodeOptions encode = {}) {
    return learnt(line, {.chat = false, .encode = encode});
  };
  EXPECT_EQ(text(R"({"text": "The capital <turn|>"})"), "<bos>«The capital <turn|><eos>»");
  EXPECT_EQ(text(R"({"text": "The capital"})", {.append_eos = false}), "<bos>«The capital»");
  EXPECT_EQ(text(R"({"prompt": "The capital", "completion": " of"})"),
            "<bos>The capital« of<eos>»");
  EXPECT_EQ(text(R"({"text": ""})"), "line 1: the text is empty");
  // The same characters, as tokens.
  const EncodeOptions parse = {.parse_specials = true};
  EXPECT_EQ(text(R"({"text": "<bos><|turn>model\nHi<turn|>"})", parse),
            "<bos>«<|turn>model\nHi<turn|><eos>»");
  const auto specials = [&](EncodeOptions encode) {
    const auto dataset = read(R"({"text": "Hi<turn|>"})", {.encode = encode});
    return std::ranges::contains(dataset->example(0).tokens, *nano().find_special("<turn|>"));
  };
  EXPECT_TRUE(specials(parse));
  EXPECT_FALSE(specials({}));
}

}  // namespace
}  // namespace lapidary::dataset
