// Any bytes as fine-tuning data: no crash, the same whatever pieces they arrive in, every label the
// token that follows, every example in one batch of an epoch. The first two bytes choose options.
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "engine/dataset/batch_plan.h"
#include "engine/dataset/reader.h"
#include "engine/dataset/split.h"
#include "engine/tokenizer/test_vocabulary.h"

namespace lapidary::dataset {
namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "dataset_fuzz: %s\n", what);
  std::abort();
}

const tokenizer::Tokenizer& words() {
  static const auto vocabulary = tokenizer::small_vocabulary();
  static const auto tokenizer = *tokenizer::Tokenizer::create(vocabulary.source());
  return tokenizer;
}

ReaderOptions options_of(uint8_t bits) {
  ReaderOptions options{.max_length = 8u + (bits & 15u), .max_line_bytes = 4096};
  options.long_examples = static_cast<LongExamples>((bits >> 4) % 3);
  options.bad_lines = BadLines::kSkip;
  options.chat = (bits & 64) == 0;
  options.encode.parse_specials = (bits & 128) != 0;
  options.encode.large_template = (bits & 128) != 0;
  options.encode.supervise = (bits & 32) != 0 ? Supervise::kLastTurn : Supervise::kAllTurns;
  return options;
}

Result<Dataset> read(std::string_view text, const ReaderOptions& options, size_t step,
                     Report& report) {
  DatasetReader reader(words(), options);
  for (size_t at = 0; at < text.size(); at += step) {
    TRY_VOID(reader.push(std::as_bytes(std::span(text.substr(at, step)))));
  }
  auto dataset = std::move(reader).finish();
  report = reader.report();
  return dataset;
}

void check_example(const Example& example, uint32_t max_length) {
  const size_t length = example.tokens.size();
  require(length > 0 && length <= max_length && example.targets.size() == length, "length");
  require(example.targets.back() != kUnsupervised, "the last position teaches nothing");
  for (size_t t = 0; t < length; ++t) {
    require(example.tokens[t] < words().size(), "token");
    require(example.targets[t] == kUnsupervised || example.targets[t] < words().size(), "target");
    require(t + 1 == length || example.targets[t] == kUnsupervised ||
                example.targets[t] == example.tokens[t + 1],
            "a target is not the next token");
  }
}

void check_plan(const Dataset& dataset, const BatchOptions& options) {
  const auto parts = split(dataset, {.fraction = 0.25}, 9);
  std::vector<uint32_t> examples;
  if (parts) {
    require(parts->train.size() + parts->eval.size() == dataset.size(), "split");
    examples = parts->train;
  } else {
    for (uint32_t i = 0; i < dataset.size(); ++i) examples.push_back(i);
  }
  uint64_t positions = 0;
  for (const uint32_t i : examples) positions += dataset.length(i);
  auto plan = BatchPlan::create(dataset, examples, options, {.seed = 3});
  require(plan.has_value(), "plan");
  uint32_t sequences = 0;
  while (plan->state().epoch == 0) {
    const Batch batch = plan->next();
    require(batch.row_length <= options.row_length, "row length");
    require(batch.tokens.size() == size_t{batch.rows} * batch.row_length, "batch size");
    for (const uint32_t id : batch.sequence_ids) positions -= id != kNoSequence ? 1 : 0;
    sequences += batch.sequences;
  }
  require(sequences == examples.size() && positions == 0, "an epoch is not every example once");
}

}  // namespace
}  // namespace lapidary::dataset

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lapidary::dataset;
  if (size < 2) return 0;
  const ReaderOptions options = options_of(data[0]);
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  Report report, again;
  const auto dataset = read(text, options, text.size() + 1, report);
  const auto pieces = read(text, options, 1u + data[1] % 31u, again);
  require(dataset.has_value() == pieces.has_value(), "pieces matter");
  if (!dataset) {
    require(dataset.error().message == pieces.error().message, "pieces matter for the error");
    return 0;
  }
  require(report.lines == again.lines && report.bad_lines == again.bad_lines, "reports differ");
  require(dataset->size() == pieces->size(), "pieces matter for the size");
  for (size_t i = 0; i < dataset->size(); ++i) {
    const Example example = dataset->example(i);
    check_example(example, options.max_length);
    require(example.targets == pieces->example(i).targets, "pieces matter for an example");
  }
  check_plan(*dataset, {.rows = 1u + data[1] % 3u,
                        .row_length = options.max_length,
                        .pack = (data[1] & 32) != 0,
                        .shuffle = (data[1] & 64) != 0});
  return 0;
}
