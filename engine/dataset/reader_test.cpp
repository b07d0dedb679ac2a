#include "engine/dataset/reader.h"

#include <gtest/gtest.h>

#include "engine/dataset/test_data.h"

namespace lapidary::dataset {
namespace {

const std::string kHi = "<bos><|turn>user\nHi<turn|>\n<|turn>model\n«Hello!<turn|>»";
const std::string kLine =
    R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]})";

TEST(Reader, KnowsTheShapes) {
  EXPECT_EQ(learnt(kLine), kHi);
  EXPECT_EQ(learnt(R"({"prompt": "Hi", "completion": "Hello!"})"), kHi);
  EXPECT_EQ(
      learnt(
          R"({"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello!"}]})"),
      kHi);
  EXPECT_EQ(learnt(R"({"instruction": "Hi", "input": "", "output": "Hello!"})"), kHi);
  EXPECT_EQ(
      learnt(
          R"({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]})"),
      kHi);
  EXPECT_EQ(
      learnt(
          R"({"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]})"),
      kHi);
  EXPECT_EQ(learnt(R"({"text": "Hi"})"), "<bos>«Hi<eos>»");
  // Of a prompt's own replies nothing is learnt; inputs stand below instructions; system texts
  // lead.
  EXPECT_EQ(
      learnt(
          R"({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "Hi"}], )"
          R"("completion": [{"role": "assistant", "content": "Hello!"}]})"),
      "<bos><|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n<|turn>user\nHi<turn|>\n<|turn>"
      "model\n«Hello!<turn|>»");
  EXPECT_EQ(
      learnt(R"({"system": "S", "instruction": "Sum.", "input": "a", "output": "b"})"),
      "<bos><|turn>system\nS<turn|>\n<|turn>user\nSum.\n\na<turn|>\n<|turn>model\n«b<turn|>»");
  EXPECT_EQ(
      learnt(
          R"({"system": "S", "tools": "[{\"name\": \"f\", \"description\": \"d\"}]", "conversations": [{"from": "human", "value": "a"}, )"
          R"({"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"}, )"
          R"({"from": "observation", "value": "r"}, {"from": "gpt", "value": "b"}]})"),
      "<bos><|turn>system\nS<|tool>declaration:f{description:<|\"|>d<|\"|>}<tool|><turn|>\n"
      "<|turn>user\na<turn|>\n<|turn>model\n«<|tool_call>call:f{x:1}<tool_call|><|tool_response>»"
      "response:unknown{value:<|\"|>r<|\"|>}<tool_response|>«b<turn|>»");
}

TEST(Reader, NamesTheLineAndTheFault) {
  const auto fault = [](std::string_view line, ErrorCode code) {
    const auto dataset = read(cat(kLine, "\n\n", line, "\n", kLine));
    EXPECT_FALSE(dataset.has_value()) << line;
    if (dataset) return std::string("accepted");
    EXPECT_EQ(error_code_name(dataset.error().code), error_code_name(code)) << line;
    return dataset.error().message;
  };
  using enum ErrorCode;
  EXPECT_EQ(fault("{", kInvalidFormat), "line 3: the line: not valid JSON");
  EXPECT_EQ(fault(std::string(70, '['), kInvalidFormat),
            "line 3: the line: JSON nested deeper than 64");
  EXPECT_EQ(fault("\"\xFF\"", kInvalidFormat), "line 3: the line: not valid JSON");
  EXPECT_EQ(fault("[1]", kInvalidFormat),
            "line 3: a list; each line holds one object (JSON Lines)");
  EXPECT_EQ(fault("3", kInvalidFormat), "line 3: not a JSON object");
  EXPECT_EQ(
      fault("{\"x\": 1}", kInvalidFormat),
      "line 3: no shape that is known: messages; prompt and completion; instruction and output; "
      "conversations; text");
  EXPECT_EQ(fault(R"({"messages": [{"role": "cat"}]})", kInvalidArgument),
            "line 3: message 0: role 'cat' is none of system, developer, user, assistant, tool");
  EXPECT_EQ(fault(R"({"messages": [{"role": "user", "content": "x"}]})", kInvalidArgument),
            "line 3: no assistant's message to learn from");
  EXPECT_EQ(
      fault(R"({"messages": [{"role": "user", "content": [{"type": "image"}]}]})", kUnsupported),
      "line 3: message 0: images, audio and video cannot be learnt from");
  EXPECT_EQ(
      fault(
          R"({"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}, {"role": "assistant", "content": "x"}]})",
          kInvalidArgument),
      "line 3: message 1: a tool result must follow an assistant's message with tool_calls");
  EXPECT_EQ(fault(R"({"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]})",
                  kInvalidFormat),
            "line 3: message 0: its weight is not 0 or 1");
  EXPECT_EQ(fault(R"({"prompt": "x"})", kInvalidFormat), "line 3: 'completion' is missing");
  EXPECT_EQ(fault(R"({"instruction": "x", "output": 5})", kInvalidFormat),
            "line 3: 'output' is not a string");
  EXPECT_EQ(fault(R"({"conversations": [{"from": "dog", "value": ""}]})", kInvalidFormat),
            "line 3: conversations 0: 'dog' is none of human, gpt, system, tool");
  EXPECT_EQ(fault(R"({"conversations": [{"from": "gpt"}]})", kInvalidFormat),
            "line 3: conversations 0: no strings 'from' and 'value'");
  EXPECT_EQ(fault(R"({"conversations": {}})", kInvalidFormat),
            "line 3: 'conversations' is not a list");
  EXPECT_EQ(fault(R"({"text": "x", "messages": [], "tools": "{"})", kInvalidFormat),
            "line 3: tools: not valid JSON");
}

TEST(Reader, TakesBytesInAnyPieces) {
  const std::string text = cat("\xEF\xBB\xBF", kLine, "\r\n \r\n", R"({"text": "日本 🚀"})", "\n\n",
                               "bad\n", kLine);  // no newline at the end
  for (size_t step = 1; step < text.size() + 1; step = step * 3 / 2 + 1) {
    Report report;
    const auto dataset = read(text, {.bad_lines = BadLines::kSkip}, &report, step);
    ASSERT_TRUE(dataset.has_value()) << dataset.error().message;
    ASSERT_EQ(dataset->size(), 3u) << step;
    EXPECT_EQ(marked(dataset->example(0)), kHi);
    EXPECT_EQ(marked(dataset->example(1)), "<bos>«日本 🚀<eos>»");
    EXPECT_EQ(marked(dataset->example(2)), kHi);
    EXPECT_EQ(dataset->line(0), 1u);
    EXPECT_EQ(dataset->line(1), 3u);
    EXPECT_EQ(dataset->line(2), 6u);
    EXPECT_EQ(report.lines, 4u);
    EXPECT_EQ(report.bad_lines, 1u);
    ASSERT_EQ(report.problems.size(), 1u);
    EXPECT_EQ(report.problems[0].line, 5u);
    EXPECT_EQ(report.problems[0].message, "line 5: the line: not valid JSON");
    EXPECT_EQ(report.shapes[static_cast<size_t>(Shape::kMessages)], 2u);
    EXPECT_EQ(report.shapes[static_cast<size_t>(Shape::kText)], 1u);
  }
}

TEST(Reader, BoundsALine) {
  const std::string text =
      cat(kLine, "\n", "{\"text\": \"", std::string(5000, 'a'), "\"}\n", kLine, "\n");
  for (const size_t step : {size_t{1}, size_t{777}, SIZE_MAX}) {
    ReaderOptions options{.max_line_bytes = 1000};
    const auto refused = read(text, options, nullptr, step);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
    EXPECT_EQ(refused.error().message, "line 2: longer than 1000 bytes");
    options.bad_lines = BadLines::kSkip;
    const auto dataset = read(text, options, nullptr, step);
    ASSERT_TRUE(dataset.has_value());
    EXPECT_EQ(dataset->size(), 2u);
    EXPECT_EQ(dataset->line(1), 3u);
  }
}

TEST(Reader, KeepsTheFirstProblemsAndCountsAll) {
  std::string text = kLine + "\n";
  for (int i = 0; i < 150; ++i) text.append("bad\n");
  Report report;
  ASSERT_TRUE(read(text, {.bad_lines = BadLines::kSkip}, &report).has_value());
  EXPECT_EQ(report.bad_lines, 150u);
  EXPECT_EQ(report.problems.size(), kMaxProblems);
}

TEST(Reader, RefusesWhatIsNoData) {
  const auto message = [](std::string_view text, const ReaderOptions& options = {}) {
    const auto dataset = read(text, options);
    return dataset ? "accepted" : dataset.error().message;
  };
  EXPECT_EQ(message(""), "the data holds no example: it is empty");
  EXPECT_EQ(message("\n \n"), "the data holds no example: it is empty");
  EXPECT_EQ(message("x", {.bad_lines = BadLines::kSkip}),
            "the data holds no example: 1 bad lines, the first: line 1: the line: not valid JSON");
  EXPECT_EQ(message(kLine, {.max_length = 8}),
            "the data holds no example: all 1 are longer than 8 tokens");
  EXPECT_EQ(message("\x1F\x8B\x08 and so on"),
            "the data is compressed with gzip; inflate it first");
  EXPECT_EQ(message("\x1F\x8B"), "the data is compressed with gzip; inflate it first");
  EXPECT_EQ(message(kLine, {.max_length = 7}), "a maximal length of 7 tokens; the least is 8");
  EXPECT_EQ(message(kLine, {.max_line_bytes = kMaxLineBytes + 1}),
            "a maximal line of 16777217 bytes; the most is 16777216");
}

TEST(Reader, AFailureIsFinal) {
  DatasetReader reader(nano(), {});
  const auto push = [&](std::string_view text) {
    return reader.push(std::as_bytes(std::span(text)));
  };
  EXPECT_TRUE(push(kLine + "\n").has_value());
  ASSERT_FALSE(push("bad\n").has_value());
  EXPECT_EQ(push(kLine + "\n").error().message, "line 2: the line: not valid JSON");
  EXPECT_EQ(std::move(reader).finish().error().message, "line 2: the line: not valid JSON");
}

// A long text in parts: no label is lost or learnt twice.
TEST(Reader, LongExamples) {
  std::string words;
  for (int i = 0; i < 12; ++i) words.append(" The capital of");
  const std::string line = cat(R"({"text": ")", words, R"("})");
  const auto whole = read(line);
  ASSERT_TRUE(whole.has_value());
  const Example all = whole->example(0);
  ASSERT_GT(all.tokens.size(), 24u);
  const ReaderOptions options{.max_length = 10};

  Report report;
  const auto cut = read(line, options, &report);
  ASSERT_TRUE(cut.has_value());
  ASSERT_EQ(cut->size(), 1u);
  EXPECT_EQ(report.cut, 1u);
  const std::vector<uint32_t> ten(all.tokens.begin(), all.tokens.begin() + 10);
  EXPECT_EQ(cut->example(0).tokens, ten);
  EXPECT_EQ(cut->example(0).targets.back(), all.tokens[10]);

  ReaderOptions splitting = options;
  splitting.long_examples = LongExamples::kSplit;
  const auto parts = read(line, splitting, &report);
  ASSERT_TRUE(parts.has_value());
  EXPECT_EQ(report.split, 1u);
  std::vector<uint32_t> targets;
  for (size_t i = 0; i < parts->size(); ++i) {
    const Example part = parts->example(i);
    EXPECT_LE(part.tokens.size(), 10u);
    EXPECT_EQ(part.tokens[0], nano().bos());
    EXPECT_EQ(part.targets[0] == kUnsupervised, i > 0);
    EXPECT_EQ(parts->line(i), 1u);
    for (const uint32_t target : part.targets) {
      if (target != kUnsupervised) targets.push_back(target);
    }
  }
  EXPECT_EQ(targets, all.targets);
  EXPECT_EQ(parts->supervised(), all.targets.size());

  ReaderOptions dropping = options;
  dropping.long_examples = LongExamples::kDrop;
  const auto kept = read(line + "\n" + R"({"text": "of"})", dropping, &report);
  ASSERT_TRUE(kept.has_value());
  EXPECT_EQ(kept->size(), 1u);
  EXPECT_EQ(report.dropped, 1u);

  // Just long enough.
  const auto fits = read(line, {.max_length = static_cast<uint32_t>(all.tokens.size())}, &report);
  EXPECT_EQ(fits->example(0).tokens, all.tokens);
  EXPECT_EQ(report.cut + report.dropped + report.split, 0u);
}

TEST(Dataset, IsBounded) {
  Dataset dataset(1000);
  EXPECT_FALSE(*dataset.add({{2, 5}, {true, false}}, 1));  // nothing predicts the first token
  EXPECT_FALSE(*dataset.add({}, 1));
  EXPECT_EQ(dataset.add({{2, 5}, {true}}, 1).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(dataset.add({{2, 1u << 31}, {true, true}}, 1).error().code,
            ErrorCode::kInvalidArgument);
  const size_t half = 500;
  LabelledTokens large{std::vector<uint32_t>(half + 1, 3), std::vector<bool>(half + 1, false)};
  large.learn.back() = true;
  EXPECT_TRUE(*dataset.add(large, 1));
  EXPECT_TRUE(*dataset.add(large, 2));
  EXPECT_EQ(dataset.add({{2, 5}, {false, true}}, 3).error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(dataset.size(), 2u);
  EXPECT_EQ(dataset.positions(), 1000u);
  EXPECT_EQ(dataset.supervised(), 2u);
}

}  // namespace
}  // namespace lapidary::dataset
