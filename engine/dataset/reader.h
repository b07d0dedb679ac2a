// Fine-tuning data from JSON Lines, pushed in as bytes arrive, to a Dataset:
//
//   DatasetReader reader(tokenizer, options);
//   while (…) TRY_VOID(reader.push(chunk));
//   TRY(Dataset dataset, std::move(reader).finish());
//
// The shapes are record.h's, recognised line by line; what is learnt of them says encode.h.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/dataset/dataset.h"
#include "engine/dataset/encode.h"
#include "engine/dataset/line_splitter.h"

namespace lapidary::dataset {

enum class LongExamples : uint8_t {
  kCut,    // keep the beginning
  kSplit,  // several examples; each but the first begins with <bos> and goes on where the last
           // ended
  kDrop,
};
enum class BadLines : uint8_t { kFail, kSkip };

inline constexpr size_t kMaxLineBytes = 16 << 20;
inline constexpr size_t kMaxProblems = 100;  // kept with their messages; all are counted
inline constexpr uint32_t kMinMaxLength = 8;

struct ReaderOptions {
  uint32_t max_length = 2048;  // positions of an example, at least kMinMaxLength
  LongExamples long_examples = LongExamples::kCut;
  BadLines bad_lines = BadLines::kFail;
  size_t max_line_bytes = 4 << 20;  // at most kMaxLineBytes
  bool chat = true;                 // parse_record's
  EncodeOptions encode;
};

struct Problem {
  uint64_t line = 0;
  ErrorCode code = ErrorCode::kInvalidFormat;
  std::string message;
};

struct Report {
  uint64_t lines = 0;                        // with something on them
  std::array<uint64_t, kShapes> shapes{};    // good lines of each Shape
  uint64_t bad_lines = 0;                    // skipped
  uint64_t cut = 0, split = 0, dropped = 0;  // over-long lines; dropped: nothing to learn was left
  std::vector<Problem> problems;             // the first bad lines
};

class DatasetReader {
 public:
  // The tokenizer must outlive the reader. Options out of their range are reported by push().
  DatasetReader(const tokenizer::Tokenizer& tokenizer, const ReaderOptions& options);

  // Any number of bytes. An error is final, and given again by further calls. It names the line:
  // what parse_record and encode_record refuse and lines that are too long (kUnsupported), unless
  // they are skipped; what Dataset::add refuses; gzip (kInvalidFormat), which the host inflates.
  Status push(Bytes bytes);
  // kInvalidFormat if no line gave an example.
  Result<Dataset> finish() &&;

  const Report& report() const { return report_; }
  const Dataset& dataset() const { return dataset_; }  // so far

 private:
  Status begin();  // what lies in start_
  Status split(std::string_view text);
  Status on_line(uint64_t number, std::optional<std::string_view> line);
  Status bad_line(uint64_t number, Error error);
  Status add(const LabelledTokens& sequence, uint64_t number);
  Result<bool> add_parts(const LabelledTokens& sequence, size_t length, uint64_t number);

  const tokenizer::Tokenizer* tokenizer_;
  ReaderOptions options_;
  LineSplitter splitter_;
  Dataset dataset_;
  Report report_;
  std::string start_;  // of the file, while it may still be a byte order mark or gzip's mark
  bool started_ = false;
  Status failure_;
};

}  // namespace lapidary::dataset
