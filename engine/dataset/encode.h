// A record to token ids with labels: through the chat template, or as plain text.
#pragma once

#include "engine/base/error.h"
#include "engine/dataset/dataset.h"
#include "engine/dataset/record.h"
#include "engine/tokenizer/tokenizer.h"

namespace lapidary::dataset {

enum class Supervise : uint8_t {
  kAllTurns,  // every assistant's message
  kLastTurn,  // those after the last message of the user or system
};
enum class Thinking : uint8_t {
  kAuto,  // where a reply that is learnt has reasoning, the model is told to think
  kOff,
  kOn,
};

struct EncodeOptions {
  Supervise supervise = Supervise::kAllTurns;
  Thinking thinking = Thinking::kAuto;
  // chat::RenderOptions::large_template: the last reply without thinking begins, unlearnt, with the
  // empty thought that its prompt would have.
  bool large_template = false;
  // Plain text: control tokens written in it count as such (text that went through a template).
  bool parse_specials = false;
  // Plain text ends with <eos>, which is learnt.
  bool append_eos = true;
};

// Of a reply are learnt its thinking, calls and text and the tag that ends each; as in the
// template, reasoning before the last user's message is left out. Of plain text all but <bos> (and
// the prompt, which is tokenised apart from its completion). kInvalidArgument: nothing to learn, or
// what chat::render refuses.
Result<LabelledTokens> encode_record(Record record, const tokenizer::Tokenizer& tokenizer,
                                     const EncodeOptions& options);

}  // namespace lapidary::dataset
