// Which token may come next in a reply that must have a format.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/grammar/matcher.h"
#include "engine/grammar/token_bytes.h"
#include "engine/tokenizer/tokenizer.h"

namespace lapidary::generate {

class Constraint {
 public:
  // tokenizer and bytes must outlive the constraint.
  Constraint(std::shared_ptr<const grammar::Automaton> automaton,
             const tokenizer::Tokenizer& tokenizer, const grammar::TokenBytes& bytes)
      : matcher_(std::move(automaton)), tokenizer_(tokenizer), bytes_(bytes) {}

  // Tokens that end a reply are allowed where what there is is whole.
  bool allows(uint32_t id) {
    if (tokenizer_.is_end_of_generation(id)) return matcher_.complete();
    return !bytes_[id].empty() && matcher_.allows(bytes_[id]);
  }
  // Goes on with an allowed token.
  void accept(uint32_t id) {
    if (!tokenizer_.is_end_of_generation(id)) matcher_.accept(bytes_[id]);
  }
  // Nothing but the end may follow.
  bool finished() const { return matcher_.finished(); }

 private:
  grammar::Matcher matcher_;
  const tokenizer::Tokenizer& tokenizer_;
  const grammar::TokenBytes& bytes_;
};

}  // namespace lapidary::generate
