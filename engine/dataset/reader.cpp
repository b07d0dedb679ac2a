#include "engine/dataset/reader.h"

#include <algorithm>

#include "engine/base/text.h"

namespace lapidary::dataset {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kGzipMark = "\x1F\x8B";

Status check_options(const ReaderOptions& options) {
  if (options.max_length < kMinMaxLength) {
    return fail(ErrorCode::kInvalidArgument, cat("a maximal length of ", options.max_length,
                                                 " tokens; the least is ", kMinMaxLength));
  }
  if (options.max_line_bytes == 0 || options.max_line_bytes > kMaxLineBytes) {
    return fail(ErrorCode::kInvalidArgument, cat("a maximal line of ", options.max_line_bytes,
                                                 " bytes; the most is ", kMaxLineBytes));
  }
  return {};
}

LabelledTokens slice(const LabelledTokens& from, size_t begin, size_t end) {
  const auto range = [&](const auto& all) {
    return std::pair(all.begin() + static_cast<ptrdiff_t>(begin),
                     all.begin() + static_cast<ptrdiff_t>(end));
  };
  const auto [tokens, tokens_end] = range(from.tokens);
  const auto [learn, learn_end] = range(from.learn);
  return {{tokens, tokens_end}, {learn, learn_end}};
}

}  // namespace

DatasetReader::DatasetReader(const tokenizer::Tokenizer& tokenizer, const ReaderOptions& options)
    : tokenizer_(&tokenizer),
      options_(options),
      splitter_(options.max_line_bytes),
      failure_(check_options(options)) {}

Status DatasetReader::push(Bytes bytes) {
  TRY_VOID(failure_);
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!started_) {
    const size_t missing = kByteOrderMark.size() - start_.size();
    start_.append(text.substr(0, missing));
    if (text.size() < missing) return {};
    text.remove_prefix(missing);
    failure_ = begin();
  }
  if (failure_) failure_ = split(text);
  return failure_;
}

Status DatasetReader::begin() {
  started_ = true;
  if (start_.starts_with(kGzipMark)) {
    return fail(ErrorCode::kInvalidFormat, "the data is compressed with gzip; inflate it first");
  }
  return start_ == kByteOrderMark ? Status() : split(start_);
}

Status DatasetReader::split(std::string_view text) {
  return splitter_.push(text, [this](uint64_t number, std::optional<std::string_view> line) {
    return on_line(number, line);
  });
}

Result<Dataset> DatasetReader::finish() && {
  if (failure_ && !started_) failure_ = begin();
  TRY_VOID(failure_);
  TRY_VOID(splitter_.finish([this](uint64_t number, std::optional<std::string_view> line) {
    return on_line(number, line);
  }));
  if (dataset_.size() > 0) return std::move(dataset_);
  const std::string why =
      report_.lines == 0 ? "it is empty"
      : report_.bad_lines > 0
          ? cat(report_.bad_lines, " bad lines, the first: ", report_.problems[0].message)
          : cat("all ", report_.dropped, " are longer than ", options_.max_length, " tokens");
  return fail(ErrorCode::kInvalidFormat, cat("the data holds no example: ", why));
}

Status DatasetReader::on_line(uint64_t number, std::optional<std::string_view> line) {
  if (line && line->find_first_not_of(" \t\r") == std::string_view::npos) return {};
  ++report_.lines;
  if (!line) {
    return bad_line(
        number, {ErrorCode::kUnsupported, cat("longer than ", options_.max_line_bytes, " bytes")});
  }
  Result<Record> record = parse_record(*line, options_.chat);
  if (!record) return bad_line(number, std::move(record).error());
  const Shape shape = record->shape;
  const Result<LabelledTokens> sequence =
      encode_record(std::move(*record), *tokenizer_, options_.encode);
  if (!sequence) return bad_line(number, sequence.error());
  ++report_.shapes[static_cast<size_t>(shape)];
  return add(*sequence, number);
}

Status DatasetReader::bad_line(uint64_t number, Error error) {
  error.message = cat("line ", number, ": ", error.message);
  if (options_.bad_lines == BadLines::kFail) return std::unexpected(std::move(error));
  ++report_.bad_lines;
  if (report_.problems.size() < kMaxProblems) {
    report_.problems.push_back({number, error.code, std::move(error.message)});
  }
  return {};
}

Status DatasetReader::add(const LabelledTokens& sequence, uint64_t number) {
  const auto learnt = std::ranges::find_last(sequence.learn, true).begin();
  const auto length = static_cast<size_t>(learnt - sequence.learn.begin());  // in positions
  if (length <= options_.max_length) {
    TRY(const bool added, dataset_.add(sequence, number));
    if (!added) ++report_.dropped;  // nothing before the first token predicts it
    return {};
  }
  bool any = false;
  if (options_.long_examples == LongExamples::kCut) {
    TRY(any, dataset_.add(slice(sequence, 0, size_t{options_.max_length} + 1), number));
    if (any) ++report_.cut;
  } else if (options_.long_examples == LongExamples::kSplit) {
    TRY(any, add_parts(sequence, length, number));
    if (any) ++report_.split;
  }
  if (!any) ++report_.dropped;
  return {};
}

// Each part but the first has <bos> at its first position and then the token that the part before
// has just learnt, so that every label is learnt once.
Result<bool> DatasetReader::add_parts(const LabelledTokens& sequence, size_t length,
                                      uint64_t number) {
  bool any = false;
  for (size_t begin = 0; begin < length;) {
    const size_t end = std::min(begin + options_.max_length - (begin > 0 ? 1 : 0), length);
    LabelledTokens part = slice(sequence, begin, end + 1);
    if (begin > 0) {
      part.learn.front() = false;
      part.tokens.insert(part.tokens.begin(), tokenizer_->bos());
      part.learn.insert(part.learn.begin(), false);
    }
    TRY(const bool added, dataset_.add(part, number));
    any |= added;
    begin = end;
  }
  return any;
}

}  // namespace lapidary::dataset
