// Writes known answers for the benchmark's gate: logits that engine/reference (plain loops in f32)
// computes from a model's file for a short prompt, at sampled rows of the vocabulary.
//
//   reference_logits MODEL.gguf OUT.json DIGEST [ID ...]
//
// DIGEST names the file in the answers: bench/known-answers.mjs computes it and calls this.
// The file is mapped and decoded row by row: memory stays small whatever its size. Without ids the
// prompt is <bos> and three tokens that lie apart.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/gguf/header_parser.h"
#include "engine/reference/model.h"
#include "engine/reference/ops.h"

namespace lapidary::bench {
namespace {

constexpr uint32_t kRows = 64;
// Of them, the likeliest after the prompt.
constexpr uint32_t kBest = 8;

Result<Bytes> map_file(const char* path) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status{};
  if (file < 0 || fstat(file, &status) != 0 || status.st_size <= 0) {
    if (file >= 0) close(file);
    return fail(ErrorCode::kNotFound, cat("cannot read ", path));
  }
  const auto size = static_cast<size_t>(status.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (data == MAP_FAILED) return fail(ErrorCode::kIo, cat("cannot map ", path));
  return Bytes(static_cast<const std::byte*>(data), size);
}

// Rows spread over the vocabulary, and the best; those that are suppressed have no logit.
std::vector<uint32_t> sample_rows(std::span<const float> logits) {
  std::set<uint32_t> rows;
  for (const reference::Candidate& best : reference::top_k(logits, kBest)) rows.insert(best.id);
  const auto vocab = static_cast<uint32_t>(logits.size());
  for (uint32_t i = 0; i < vocab && rows.size() < std::min(kRows, vocab); ++i) {
    // Steps of the golden ratio lie evenly and hit no pattern of the blocks.
    const auto row = static_cast<uint32_t>(std::fmod((i + 1) * 0.6180339887498949, 1.0) * vocab);
    if (std::isfinite(logits[row])) rows.insert(row);
  }
  return {rows.begin(), rows.end()};
}

Status write(const char* path, const Json& json) {
  std::FILE* out = std::fopen(path, "w");
  const std::string text = dump_json(json) + "\n";
  const bool written = out && std::fwrite(text.data(), 1, text.size(), out) == text.size();
  if (out && std::fclose(out) == 0 && written) return {};
  return fail(ErrorCode::kIo, cat("cannot write ", path));
}

Status run(const char* model_path, const char* out_path, const char* digest,
           std::vector<uint32_t> ids) {
  TRY(const Bytes file, map_file(model_path));
  TRY(const gguf::Header header, gguf::parse_header(file));
  TRY(const auto model, reference::ReferenceModel::load(header, file, reference::Decoding::kByRow));
  const uint32_t vocab = model.config().vocab;
  // Ordinary tokens in every vocabulary of the family.
  if (ids.empty()) ids = {2, vocab / 3, vocab / 2, vocab / 5 * 4};
  TRY(const std::vector<float> logits, model.forward(ids));
  const auto row_of = [&](size_t position) {
    return std::span(logits).subspan(position * vocab, vocab);
  };
  const std::vector<uint32_t> rows = sample_rows(row_of(ids.size() - 1));
  Json samples = Json::array();
  for (size_t position = 0; position < ids.size(); ++position) {
    Json values = Json::array();
    for (const uint32_t row : rows) {
      values.push_back(std::round(double{row_of(position)[row]} * 1e5) / 1e5);
    }
    samples.push_back({{"position", position}, {"logits", std::move(values)}});
  }
  TRY(const std::string_view name, header.get_string("general.name", "unnamed"));
  return write(out_path, {{"model", name},
                          {"digest", digest},
                          {"source", "engine/reference: plain loops in f32, sums in f64"},
                          {"ids", ids},
                          {"rows", rows},
                          {"samples", std::move(samples)}});
}

}  // namespace
}  // namespace lapidary::bench

int main(int count, char** arguments) {
  if (count < 4) {
    std::fputs("usage: reference_logits MODEL.gguf OUT.json DIGEST [ID ...]\n", stderr);
    return 2;
  }
  std::vector<uint32_t> ids;
  for (int i = 4; i < count; ++i) {
    ids.push_back(static_cast<uint32_t>(std::strtoul(arguments[i], nullptr, 10)));
  }
  const auto status =
      lapidary::bench::run(arguments[1], arguments[2], arguments[3], std::move(ids));
  if (status) return 0;
  std::fprintf(stderr, "error: %s\n", status.error().message.c_str());
  return 1;
}
