// A loaded text model and what one asks of it: chat, generate, tokenize, render, logits.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/chat/message.h"
#include "engine/chat/render.h"
#include "engine/generate/adapters.h"
#include "engine/generate/load_options.h"
#include "engine/generate/media.h"
#include "engine/generate/session.h"
#include "engine/gguf/header.h"
#include "engine/grammar/reply_format.h"
#include "engine/grammar/token_bytes.h"
#include "engine/model/memory_plan.h"
#include "engine/training/finetune.h"

namespace lapidary::generate {

// phase: "header", "selftest", "upload", "compile". Bytes for header and upload, kernels for
// compile.
using Progress = std::function<void(std::string_view phase, uint64_t loaded, uint64_t total)>;
using Emit = std::function<void(const Json& event)>;
using Cancelled = std::function<bool()>;

// Reads the header of a GGUF file from a byte source of the host, in a few reads.
Task<Result<gguf::Header>> read_header(uint32_t source, const Progress& progress);
// What a header says, for people: metadata and tensors (kInvalidFormat never: the header is
// parsed); and of a text model the GPU memory that it takes under load options.
Json describe(const gguf::Header& header);
Result<Json> describe(const gguf::Header& header, const Json& options);
Json describe(const model::MemoryNeeds& needs, const model::MemoryPlan& plan, uint64_t budget);

class TextModel {
 public:
  // options_json: {contextLength, kvType, batchSize, sessions, params, system, name, digest,
  // variant, cuts, tune, perLayerEmbeddings, gpuMemory, encoders, projector, drafter,
  // drafterOptional, draftTokens}. `source` and that of the projector must stay open: a tower is
  // read when it is first needed, rows of the per-layer embedding and layers that are streamed when
  // they are.
  static Task<Result<std::shared_ptr<TextModel>>> load(uint32_t source, Json options_json,
                                                       Progress progress, Cancelled cancelled);

  Json info() const;
  const tokenizer::Tokenizer& tokenizer() const { return tokenizer_; }

  // request: {messages, tools, think, continueFinalMessage, addGenerationPrompt}; kInvalidArgument
  // when unusable, kUnsupported for media that the model does not take.
  Result<std::vector<chat::Piece>> render(const Json& request,
                                          chat::Conversation* conversation = nullptr) const;

  // request: as render's, with every medium in media() and held there, options, and toolChoice
  // ("auto", "required" or {name}). Emits events; the result is the final report.
  Task<Result<Json>> chat(Json request, Emit emit, Cancelled cancelled);
  // request: {prompt or tokens, special: "plain" | "parse", options}. Emits text as the model
  // writes it.
  Task<Result<Json>> generate(Json request, Emit emit, Cancelled cancelled);
  // request: {prompts: [as for chat or generate, without options]}, one for a session at most. Runs
  // them into the KV cache; the result is [{promptTokens, cachedTokens}].
  Task<Result<Json>> prefill(Json request, Cancelled cancelled);
  Task<Result<std::vector<float>>> logits(std::vector<uint32_t> tokens, bool all,
                                          SoftSpans soft = {}) {
    return session_->logits(std::move(tokens), all, std::move(soft));
  }
  // request: {inputs: [{prompt or tokens, special}], and EmbeddingOptions}. Emits {promptTokens:
  // [of each]}; the result is f32 [inputs, dimensions].
  Task<Result<std::vector<float>>> embed(Json request, Emit emit, Cancelled cancelled);
  // Session::save, read_saved and restore.
  Result<SavedSession> save_session(std::string model, uint32_t rewind) {
    return session_->save(std::move(model), rewind);
  }
  Task<Result<std::vector<std::byte>>> read_saved() { return session_->read_saved(); }
  Task<Result<uint32_t>> restore_session(uint32_t source, std::string header, std::string model,
                                         Cancelled cancelled) {
    return session_->restore(source, std::move(header), std::move(model), std::move(cancelled));
  }
  Status truncate(uint32_t length) { return session_->truncate(length); }
  Session& session() { return *session_; }
  // For training::Finetune, which must not outlive the model.
  training::Base training_base();
  // LoRA adapters: load and leave them, switch them on and off.
  Adapters& adapters() { return *adapters_; }
  Media& media() { return *media_; }

 private:
  // Token ids, and the rows of those that are soft.
  struct Prompt {
    std::vector<uint32_t> tokens;
    SoftSpans soft;
  };

  TextModel(model::Config config, tokenizer::Tokenizer tokenizer)
      : config_(std::move(config)), tokenizer_(std::move(tokenizer)), cache_(device_) {}
  // format: what the reply must be, if it constrains anything. request: {recoverable, resume}, as
  // chat and generate have them. Recoverable replies emit {"type": "begun", seed} and {"type":
  // "kept", id} of each token, which `resume`: {seed, tokens} takes, in another engine, to go on
  // after them; their events then come again.
  Task<Result<Json>> run(Prompt prompt, GenerateOptions options, const grammar::ReplyFormat& format,
                         const Json& request, const Emit& emit, Listener& listener,
                         Cancelled cancelled);
  Status check_media(const chat::Conversation& conversation) const;
  // kInvalidArgument: a medium that is not in media().
  Result<Prompt> prompt_of(std::span<const chat::Piece> pieces) const;
  // request: {prompt or tokens, special}
  Result<std::vector<uint32_t>> raw_prompt(const Json& request) const;
  Result<GenerateOptions> options_of(const Json& request) const;

  model::Config config_;
  tokenizer::Tokenizer tokenizer_;
  gpu::Device device_;
  kernels::KernelCache cache_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Adapters> adapters_;
  std::unique_ptr<Media> media_;
  std::unique_ptr<grammar::TokenBytes> token_bytes_;  // made for the first reply in a format
  LoadOptions load_options_;
  model::MemoryNeeds needs_;
  model::MemoryPlan plan_;
  kernels::Variant variant_;
  std::string architecture_;
  std::string title_;
  uint64_t parameters_ = 0;
  bool large_template_ = false;
};

}  // namespace lapidary::generate
