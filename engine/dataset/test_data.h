// What the tests of this room share: nano's tokenizer, reading from a string, labels as text.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "engine/dataset/reader.h"
#include "engine/reference/fixture.h"
#include "engine/tokenizer/test_vocabulary.h"

namespace lapidary::dataset {

inline const tokenizer::Tokenizer& nano() {
  static const auto vocabulary =
      tokenizer::nano_vocabulary(reference::read_fixture_json("nano/tokenizer.json.gz"));
  static const auto tokenizer = *tokenizer::Tokenizer::create(vocabulary.source());
  return tokenizer;
}

// `step`: bytes pushed at a time.
inline Result<Dataset> read(std::string_view text, const ReaderOptions& options = {},
                            Report* report = nullptr, size_t step = SIZE_MAX) {
  DatasetReader reader(nano(), options);
  Status status;
  for (size_t at = 0; status && at < text.size(); at += std::min(step, text.size() - at)) {
    status = reader.push(std::as_bytes(std::span(text.substr(at, step))));
  }
  auto dataset =
      status ? std::move(reader).finish() : Result<Dataset>(std::unexpected(status.error()));
  if (report != nullptr) *report = reader.report();
  return dataset;
}

// The example as text, what it teaches between « and ».
inline std::string marked(const Example& example) {
  std::string out;
  bool learn = false;
  std::vector<uint32_t> run;
  const auto flush = [&] {
    out.append(nano().decode(run, /*show_control=*/true));
    run.clear();
  };
  for (size_t t = 0; t <= example.tokens.size(); ++t) {
    const bool learns = t > 0 && example.targets[t - 1] != kUnsupervised;
    if (learns != learn) {
      flush();
      out.append(learns ? "«" : "»");
      learn = learns;
    }
    run.push_back(t < example.tokens.size() ? example.tokens[t] : example.targets[t - 1]);
  }
  flush();
  return out + (learn ? "»" : "");
}

// The only example of `text`, or the error.
inline std::string learnt(std::string_view text, const ReaderOptions& options = {}) {
  const auto dataset = read(text, options);
  if (!dataset) return dataset.error().message;
  return dataset->size() == 1 ? marked(dataset->example(0)) : cat(dataset->size(), " examples");
}

}  // namespace lapidary::dataset
