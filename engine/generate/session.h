// A session: the KV cache, the sequences of tokens it holds, and the decode loop. A prompt goes on
// from the sequence that begins like it; only what the cache does not already hold is run.
//
// Several runs may go on at once, each in a sequence of its own: one alone decodes with tokens
// ahead of the host (session.cpp), several in steps of one token each (session_steps.cpp). They
// join and leave between steps. No thread of its own drives them: one of the waiting callers does.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/generate/constraint.h"
#include "engine/generate/draft_policy.h"
#include "engine/generate/embedding.h"
#include "engine/generate/sampler.h"
#include "engine/generate/scheduler.h"
#include "engine/generate/snapshot.h"
#include "engine/model/decoder.h"
#include "engine/model/drafter.h"
#include "engine/tokenizer/tokenizer.h"

namespace lapidary::generate {

struct ChosenToken {
  uint32_t id = 0;
  // With GenerateOptions::logprobs: its natural log probability at temperature 1, after penalties
  // and biases, and the likeliest tokens' (logit = log probability).
  float logprob = 0;
  std::vector<Candidate> top;
};

// The soft tokens of a prompt (model::SoftRows), in order: each id from model::kSoftToken on has
// its row in one of them.
using SoftSpans = std::vector<model::SoftRows>;

// What happens during a run. Called between submissions.
class Listener {
 public:
  virtual ~Listener() = default;
  // Tokens of the prompt done, of `total`; `cached` of them were in the cache before.
  virtual void on_prefill(uint32_t processed, uint32_t total, uint32_t cached) = 0;
  // A token of the reply, never one that ends it. false: stop here (a stop string was met).
  virtual bool on_token(const ChosenToken& token) = 0;
};

enum class FinishReason : uint8_t { kStop, kStopString, kLength, kContext, kCancelled };
std::string_view finish_reason_name(FinishReason reason);

// How much of a prompt was in the cache.
struct Prefilled {
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;
};

struct RunResult {
  FinishReason reason = FinishReason::kStop;
  std::vector<uint32_t> tokens;  // of the reply; the one that ended it included, where one did
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;
  uint32_t drafted = 0;   // tokens that a drafter guessed
  uint32_t accepted = 0;  // that came true
  double prefill_ms = 0;  // from the start to the first token
  double decode_ms = 0;   // from the first token to the last
};

// What save() has begun.
struct SavedSession {
  std::string header;
  uint64_t bytes = 0;  // of the payload
  uint32_t tokens = 0;
};

class Session {
 public:
  // tokenizer and suppress_tokens must outlive the session.
  Session(gpu::Device& device, std::unique_ptr<model::Decoder> decoder,
          const tokenizer::Tokenizer& tokenizer, const std::vector<uint32_t>& suppress_tokens,
          uint32_t vocab)
      : device_(device),
        decoder_(std::move(decoder)),
        tokenizer_(tokenizer),
        suppress_tokens_(suppress_tokens),
        vocab_(vocab),
        sequences_(decoder_->sequences()),
        scheduler_(decoder_->sequences()) {}

  // Answers `prompt`. `written`: the beginning of the reply, made by an earlier run with the same
  // prompt, options, seed and constraint; the listener hears of it again. constraint, if there is
  // one: the tokens that it allows alone are drawn, and the reply ends (kStop) where it must.
  // cancelled() is polled between submissions; a cancelled run ends well, with what it has.
  // As many runs as there are sequences go on at once; more wait in the order of their coming. Each
  // gives what it would give alone, but for the rounding of sums that batches make in another
  // order. An error of the device ends them all. kContextOverflow: the prompt leaves no room for a
  // token; kInvalidArgument: empty, an id outside the vocabulary, or something written that the
  // constraint does not allow; kBusy: one of the others below is going on. Those are kBusy while a
  // run goes on or waits.
  Task<Result<RunResult>> run(std::vector<uint32_t> prompt, const GenerateOptions& options,
                              uint64_t seed, Listener& listener, std::function<bool()> cancelled,
                              Constraint* constraint = nullptr, std::vector<uint32_t> written = {},
                              SoftSpans soft = {});

  // Runs prompts into the cache, in batches that hold tokens of several, each into a sequence of
  // its own. cancelled() is polled between submissions; what was run until then stays.
  // kInvalidArgument: more prompts than sequences, and as run().
  Task<Result<std::vector<Prefilled>>> prefill(std::vector<std::vector<uint32_t>> prompts,
                                               std::function<bool()> cancelled,
                                               std::vector<SoftSpans> soft = {});

  // Logits after each token (all), or after the last: f32 [rows, vocab], in one piece. For all, the
  // cache is run anew from position 0 in batches through every layer.
  Task<Result<std::vector<float>>> logits(std::vector<uint32_t> tokens, bool all,
                                          SoftSpans soft = {});

  // Embeddings of texts, f32 [dimensions] each, in batches that hold tokens of several. Their K and
  // V take the place of what some sequences hold, of half of them at most where none is empty (but
  // of one at least). cancelled() is polled between submissions (kCancelled). kContextOverflow:
  // longer than the context; kInvalidArgument: as run().
  Task<Result<std::vector<std::vector<float>>>> embed(std::vector<std::vector<uint32_t>> texts,
                                                      EmbeddingOptions options,
                                                      std::function<bool()> cancelled);

  // Begins a snapshot (snapshot.h) of the sequence used last; `model` names the file of the
  // weights. Sliding layers keep their window and `rewind` positions before it, if they are still
  // there: so many of the last tokens can be taken back. kInvalidArgument: nothing is cached.
  Result<SavedSession> save(std::string model, uint32_t rewind);
  // The next bytes of its payload; none: that was all. kBusy: a run has changed what is saved.
  Task<Result<std::vector<std::byte>>> read_saved();
  // Puts a snapshot in the place of a sequence of which it holds everything, or of the one unused
  // for longest; `source` has its payload. The result is how many tokens. Errors of
  // parse_snapshot_header and of the source, kInvalidArgument for ids outside the vocabulary,
  // kCancelled.
  Task<Result<uint32_t>> restore(uint32_t source, std::string header, std::string model,
                                 std::function<bool()> cancelled);

  // Decoder::set_adapters, between runs (kBusy). What the cache holds serves prompts under these
  // very adapters and scales only: `key` names them.
  Task<Status> set_adapters(std::span<const model::ActiveAdapter> active, std::string key);

  // From now on `drafter` guesses tokens of replies that are alone: `length` at a time, or, with 0,
  // as many as pay (draft_policy.h). Replies stay what they are. Not guessed: replies with
  // penalties or a format, under adapters, and where per-layer embeddings stay in their source.
  void use_drafter(std::unique_ptr<model::Drafter> drafter, uint32_t length);
  model::Drafter* drafter() const { return drafter_.get(); }

  // Forgets what each sequence holds past `length` tokens.
  Status truncate(uint32_t length);
  const model::Decoder& decoder() const { return *decoder_; }

 private:
  struct Run;
  struct Adjustments;
  struct Sequence {
    std::vector<uint32_t> cached;  // tokens whose K and V are in the cache, by position
    std::string adapters;          // that made them
    uint32_t high_water = 0;       // one past the last position ever written since it was empty
    uint64_t used = 0;             // when it was last chosen
    uint32_t floor = 0;            // sliding layers hold nothing before it

    void note_written(uint32_t end) { high_water = std::max(high_water, end); }
  };
  // kBusy while a run goes on or waits, or something else does.
  Status check_idle() const;
  Status check_prompt(const std::vector<uint32_t>& prompt, const SoftSpans& soft = {}) const;
  Status check_room(const std::vector<uint32_t>& prompt) const;
  // Leading tokens of `prompt`, less than all, whose K and V `sequence` holds.
  uint32_t common_prefix(const Sequence& sequence, const std::vector<uint32_t>& prompt,
                         const SoftSpans& soft) const;
  // Makes the sequence that is best for `prompt`, none of `taken`, the current one.
  void choose_sequence(const std::vector<uint32_t>& prompt, const SoftSpans& soft,
                       std::span<const uint32_t> taken = {});
  Sequence& current() { return sequences_[current_]; }
  // Keeps the longest usable prefix of `prompt` in the current sequence and returns its length,
  // less than prompt.size().
  uint32_t reuse_prefix(const std::vector<uint32_t>& prompt, const SoftSpans& soft);
  Status check_soft(const std::vector<uint32_t>& prompt, const SoftSpans& soft) const;
  // Leading tokens of `cached`, at most `length`, that end in no image which a prompt with `soft`
  // does not go on with (Decoder::sees_both_ways).
  uint32_t whole_images(const std::vector<uint32_t>& cached, uint32_t length,
                        const SoftSpans& soft) const;
  // The same where it is not known which prompt comes.
  uint32_t whole_images(const std::vector<uint32_t>& cached, uint32_t length) const;
  // Tokens of a prompt from `at` on that a batch with room for `most` takes: no part of an image,
  // and more than `most` where an image begins there that has more.
  uint32_t piece(const SoftSpans& soft, uint32_t at, uint32_t most) const;
  // Room for the longest image.
  Task<Status> reserve(const SoftSpans& soft);
  // What the cache holds is no longer known.
  void forget_all() { sequences_.assign(sequences_.size(), {}); }
  Task<Status> prefill_all(const std::vector<std::vector<uint32_t>>& prompts,
                           const std::vector<SoftSpans>& soft, std::vector<Prefilled>& results,
                           const std::function<bool()>& cancelled);
  struct Saving {
    uint32_t sequence = 0;
    uint64_t used = 0;
    Snapshot snapshot;
    bool has_tokens = false;  // they have been read
    size_t half = 0;          // K of the first layer, its V, K of the next, …
    uint32_t position = 0;    // in it
  };
  SnapshotBinding snapshot_binding(std::string model, std::string adapters) const;
  // The first position that sliding layers still hold.
  uint32_t oldest_position(const Sequence& sequence) const;
  Task<Status> restore_rows(uint32_t source, Snapshot snapshot,
                            const std::function<bool()>& cancelled);
  std::vector<uint32_t> spare_sequences() const;
  Task<Status> read_rows(uint32_t row, uint32_t count, Pool& pool) const;
  Task<Status> embed_all(const std::vector<std::vector<uint32_t>>& texts,
                         const EmbeddingOptions& options, std::vector<std::vector<float>>& results,
                         const std::function<bool()>& cancelled);
  // A read that fails when the run is cancelled ends the run.
  static Status given_up(Run& run, Status status);
  // As Decoder::provide, where the run is not given up.
  Task<Status> provide(Run& run, std::span<const uint32_t> tokens, bool last);
  // Runs what of `given` the cache does not hold. readback: called for the submission of the last
  // batch, which does not come where the run is cancelled or another can join.
  Task<Status> run_prompt(Run& run, const std::function<model::Readback()>& readback);
  Task<Status> decode(Run& run);
  bool may_draft(const Run& run) const;
  uint32_t draft_length(const Run& run, uint32_t position) const;
  Task<Status> draft(Run& run, uint32_t length, uint32_t& position);
  // Takes turns of all runs until `own` is done.
  Task<void> drive(const Run& own);
  void admit_runs();
  // Room for the images of those that take part.
  Task<Status> make_room();
  void drop_cancelled();
  void leave(Run& run);
  void leave_ended();
  void fail_all(const Error& error);
  // The turn of one: until it has ended, or another can join.
  Task<Status> solo(Run& run);
  // Runs a piece of the prompts that have more than their last token left, and tells which those
  // were; tell_read() tells their listeners, once it has run.
  Task<Result<std::vector<Run*>>> read_prompts();
  void tell_read(const std::vector<Run*>& reading);
  // The turn of several: a token of each whose prompt has run, a piece of the others' prompts.
  Task<Status> step();
  Task<Status> step_prompts(const std::vector<Run*>& reading, uint32_t room);
  Task<Status> step_rows(const std::vector<Run*>& writing);
  Task<Status> steps_ahead(const std::vector<Run*>& runs);
  bool may_run_ahead(const Run& run) const;
  Result<model::StepRow> step_row(Run& run, uint32_t position);
  void take_token(Run& run, const ChosenToken& token);
  Task<Result<ChosenToken>> choose(Run& run, std::span<const std::byte> candidates);
  // Tokens of the prompt and the reply that the cache does not hold.
  uint32_t pending(const Run& run) const;
  // The same for a reply that a constraint restricts.
  Task<Status> decode_constrained(Run& run);
  Task<Result<uint32_t>> draw_allowed(const Run& run, std::span<const std::byte> candidates,
                                      float* logit);
  Task<Result<ChosenToken>> choose_allowed(const Run& run, std::span<const std::byte> candidates);
  // Notes which tokens of the reply are in the cache: those below `position`, which have run. Those
  // that ran past the reply's end do not count.
  void keep(const Run& run, uint32_t position);
  bool accept(Run& run, const ChosenToken& token);
  bool accept_allowed(Run& run, const ChosenToken& token);
  Adjustments adjustments(const Run& run) const;
  Result<uint32_t> write_adjustments(const Run& run);
  kernels::SampleParams sampling(const Run& run) const;
  void write_draws(Run& run, uint32_t position);
  Task<Result<ChosenToken>> draw_from_all_logits(const Run& run);
  Task<Status> read_logits_of(const Run& run, std::span<float> out) const;

  gpu::Device& device_;
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<model::Drafter> drafter_;  // of the decoder; or none
  DraftPolicy draft_policy_;
  model::Drafter::Hidden hidden_;  // that gave the last token of the run alone
  const tokenizer::Tokenizer& tokenizer_;
  const std::vector<uint32_t>& suppress_tokens_;
  uint32_t vocab_;
  std::vector<Sequence> sequences_;
  uint32_t current_ = 0;
  Saving saving_;
  uint64_t clock_ = 0;    // of Sequence::used
  std::string adapters_;  // in use
  Scheduler<Run> scheduler_;
  bool driven_ = false;  // by one of the runs
  bool busy_ = false;    // with something else
};

}  // namespace lapidary::generate
