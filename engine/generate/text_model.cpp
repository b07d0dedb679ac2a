#include "engine/generate/text_model.h"

#include <algorithm>
#include <cmath>

#include "engine/base/bytes.h"
#include "engine/base/text.h"
#include "engine/chat/tags.h"
#include "engine/generate/listeners.h"
#include "engine/gguf/header_parser.h"
#include "engine/kernels/rope.h"
#include "engine/kernels/selftest.h"
#include "engine/model/tensor_table.h"

namespace lapidary::generate {
namespace {

// From this many parameters on, a model of unknown name speaks the large template (gemma4.md §6.1).
constexpr uint64_t kLargeParameters = 12'000'000'000;

Result<tokenizer::Tokenizer> make_tokenizer(const gguf::Header& header) {
  // Ollama's own files call the tokenizer "llama"; the architecture decides (gemma4.md §2.2).
  TRY(const gguf::ArrayView tokens, header.get_array("tokenizer.ggml.tokens"));
  TRY(const gguf::ArrayView types, header.get_array("tokenizer.ggml.token_type"));
  TRY(const gguf::ArrayView merges, header.get_array("tokenizer.ggml.merges"));
  for (const gguf::ArrayView* array : {&tokens, &merges}) {
    if (array->element_type() != gguf::ValueType::kString) {
      return fail(ErrorCode::kInvalidFormat, "the tokenizer's tokens and merges must be strings");
    }
  }
  if (types.element_type() != gguf::ValueType::kInt32 &&
      types.element_type() != gguf::ValueType::kUint32) {
    return fail(ErrorCode::kInvalidFormat, "tokenizer.ggml.token_type must be 32-bit integers");
  }
  TRY(const uint32_t bos, header.get_u32("tokenizer.ggml.bos_token_id", 2));
  std::vector<uint32_t> eos;
  for (const std::string_view key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eos_token_ids"}) {
    if (header.find(key) == nullptr) continue;
    TRY(const std::vector<uint32_t> ids, header.get_u32_list(key, 64));
    eos.insert(eos.end(), ids.begin(), ids.end());
  }
  return tokenizer::Tokenizer::create({.tokens = {tokens.data(), tokens.size()},
                                       .token_types = types.data(),
                                       .merges = {merges.data(), merges.size()},
                                       .bos = bos,
                                       .eos = eos});
}

bool contains_ignoring_case(std::string_view text, std::string_view part) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::ranges::search(text, part, {}, lower, lower).begin() != text.end();
}

bool speaks_large_template(std::string_view name, uint64_t parameters) {
  for (const std::string_view small : {"e2b", "e4b"}) {
    if (contains_ignoring_case(name, small)) return false;
  }
  for (const std::string_view large : {"12b", "26b", "31b"}) {
    if (contains_ignoring_case(name, large)) return true;
  }
  return parameters >= kLargeParameters;
}

// Token ids from JSON; whole numbers below 2^32 (the session checks them against the vocabulary).
Result<std::vector<uint32_t>> parse_ids(const Json& json) {
  std::vector<uint32_t> ids;
  for (const Json& id : json) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > UINT32_MAX) {
      return fail(ErrorCode::kInvalidArgument, "tokens must be a list of token ids");
    }
    ids.push_back(id.get<uint32_t>());
  }
  return ids;
}

// "auto", "required", or {name} of the one tool that must be called.
Status parse_tool_choice(const Json& choice, const std::vector<chat::ToolDeclaration>& tools,
                         grammar::ReplyFormat& out) {
  if (choice.is_null() || choice == "auto") return {};
  const Json* name = json_member(choice, "name");
  if (choice != "required" && (name == nullptr || !name->is_string()))
    return fail(ErrorCode::kInvalidArgument, "toolChoice must be auto, required or {name}");
  for (const chat::ToolDeclaration& tool : tools)
    if (name == nullptr || *name == tool.name) out.must_call.push_back(tool);
  if (out.must_call.empty()) {
    return fail(ErrorCode::kInvalidArgument,
                name == nullptr ? "toolChoice asks for a call, but there are no tools"
                                : cat("toolChoice names no tool: '",
                                      printable(name->get_ref<const std::string&>()), "'"));
  }
  if (name != nullptr) out.many_calls = false;
  return {};
}

// A drafter that nobody asked for, beside a model that works without.
void warn_of_drafter(const Error& error) {
  const std::string warning = cat("the drafter beside the model is not used: ", error.message);
  gpu::host_log(2, warning.data(), static_cast<uint32_t>(warning.size()));
}

bool flag(const Json& json, std::string_view key, bool absent) {
  const Json* value = json_member(json, key);
  return value != nullptr && value->is_boolean() ? value->get<bool>() : absent;
}

}  // namespace

Task<Result<gguf::Header>> read_header(uint32_t source, const Progress& progress) {
  const auto size = static_cast<uint64_t>(gpu::host_source_size(source));
  gguf::HeaderParser parser(size);
  while (!parser.done()) {
    CO_TRY(const std::span<std::byte> room, parser.prepare(parser.wanted()));
    const uint64_t at = parser.received();
    CO_TRY_VOID(co_await gpu::HostCall([&](uint32_t ticket) {
      gpu::host_source_read(source, static_cast<double>(at), room.data(),
                            static_cast<uint32_t>(room.size()), ticket);
    }));
    CO_TRY_VOID(parser.commit(room.size()));
    if (progress)
      progress("header", parser.received(),
               std::max(parser.received(), parser.received() + parser.wanted()));
  }
  co_return std::move(parser).finish();
}

Task<Result<std::shared_ptr<TextModel>>> TextModel::load(uint32_t source, Json options_json,
                                                         Progress progress, Cancelled cancelled) {
  CO_TRY(gguf::Header header, co_await read_header(source, progress));
  CO_TRY(model::Config config, model::Config::from_gguf(header));
  CO_TRY_VOID(model::check_tensors(config, header));
  CO_TRY(LoadOptions options, parse_load_options(options_json, config.vocab));
  CO_TRY(tokenizer::Tokenizer tokenizer, make_tokenizer(header));
  if (tokenizer.size() > config.vocab) {
    co_return fail(ErrorCode::kInvalidFormat,
                   cat("the tokenizer has ", tokenizer.size(), " tokens, the embedding only ",
                       config.vocab, " rows"));
  }
  uint64_t towers = model::tower_bytes(header);
  auto media = std::make_unique<Media>(config.hidden, options.encoders_as_llama_cpp);
  CO_TRY_VOID(media->find_towers(header, source, /*projector=*/false));
  if (options.projector != 0) {
    CO_TRY(const gguf::Header projector, co_await read_header(options.projector, nullptr));
    CO_TRY_VOID(media->find_towers(projector, options.projector, /*projector=*/true));
    towers += model::tower_bytes(projector);
  }
  std::optional<gguf::Header> drafter_header;
  model::Config drafter_config;
  if (options.drafter != 0) {
    const auto read = [&]() -> Task<Status> {
      CO_TRY(drafter_header, co_await read_header(options.drafter, nullptr));
      CO_TRY(drafter_config, model::check_drafter(*drafter_header, config));
      co_return model::check_drafter_vocabulary(*drafter_header, header);
    };
    Status status = co_await read();
    if (!status) {
      if (!options.drafter_optional) co_return std::unexpected(std::move(status).error());
      drafter_header.reset();
      warn_of_drafter(status.error());
    }
  }
  options.context = usable_context(options.context, config);

  std::shared_ptr<TextModel> self(new TextModel(std::move(config), std::move(tokenizer)));
  for (const gguf::TensorInfo& tensor : header.tensors()) self->parameters_ += tensor.elements();
  self->architecture_ = header.get_string("general.architecture", "").value_or("");
  self->title_ = header.get_string("general.name", "").value_or("");
  self->large_template_ =
      speaks_large_template(options.name.empty() ? self->title_ : options.name, self->parameters_);
  self->load_options_ = options;

  progress("selftest", 0, 1);
  kernels::VariantWish wish = options.variant;
  wish.rare_codecs = std::ranges::any_of(header.tensors(), [](const gguf::TensorInfo& tensor) {
    return kernels::codec_for(tensor.type).transform(kernels::is_rare).value_or(false);
  });
  CO_TRY(self->variant_, co_await kernels::choose_variant(self->device_, wish));
  media->use(self->device_, self->variant_);
  self->media_ = std::move(media);
  progress("selftest", 1, 1);
  model::DecoderOptions decoder_options = decoder_options_of(options);
  decoder_options.variant = self->variant_;
  CO_TRY(self->needs_,
         model::measure_memory(self->device_.info(), header, self->config_, decoder_options));
  self->needs_.towers = towers;
  if (drafter_header) {
    for (const gguf::TensorInfo& tensor : drafter_header->tensors())
      self->needs_.drafter += tensor.bytes;
  }
  self->plan_ = model::plan_memory(self->needs_, options.per_layer, options.gpu_memory);
  if (self->plan_.fit == model::Fit::kDoesNotFit) {
    co_return std::unexpected(model::does_not_fit(self->needs_, self->plan_, options.gpu_memory));
  }
  using MadeDecoder = Result<std::unique_ptr<model::Decoder>>;
  const auto make_decoder = [&](model::WeightPlaces places) -> Task<MadeDecoder> {
    CO_TRY(model::Weights weights,
           co_await model::load_weights(
               self->device_, self->cache_, header, self->config_, source, places, options.context,
               [&](uint64_t loaded, uint64_t total) { progress("upload", loaded, total); },
               cancelled));
    co_return co_await model::Decoder::create(
        self->device_, self->cache_, self->config_, std::move(weights), decoder_options,
        [&](uint32_t done, uint32_t total) { progress("compile", done, total); });
  };
  model::WeightPlaces& places = self->plan_.places;
  MadeDecoder decoder = co_await make_decoder(places);
  if (!decoder && !options.per_layer && self->config_.per_layer_dim > 0 &&
      places.per_layer == model::TablePlace::kGpu && self->device_.ran_out_of_memory()) {
    const std::string warning =
        cat("the per-layer embedding stays in the model's source: ", decoder.error().message);
    gpu::host_log(2, warning.data(), static_cast<uint32_t>(warning.size()));
    // All that was made is freed by now. Errors that follow from the refused allocation are taken
    // from the device here, so that they are not the next attempt's; a lost device fails that, too.
    static_cast<void>(co_await self->device_.sync());
    places.per_layer = model::TablePlace::kSource;
    decoder = co_await make_decoder(places);
  }
  if (!decoder) co_return std::unexpected(std::move(decoder).error());
  std::unique_ptr<model::Drafter> drafter;
  if (drafter_header) {
    Result<std::unique_ptr<model::Drafter>> made = co_await model::Drafter::create(
        self->device_, self->cache_, *drafter_header, std::move(drafter_config), options.drafter,
        **decoder, cancelled);
    if (made) {
      drafter = std::move(*made);
    } else if (options.drafter_optional && made.error().code == ErrorCode::kOutOfMemory) {
      warn_of_drafter(made.error());
      self->cache_.forget_added();
      static_cast<void>(co_await self->device_.sync());
    } else {
      co_return std::unexpected(std::move(made).error());
    }
  }
  self->session_ = std::make_unique<Session>(self->device_, std::move(*decoder), self->tokenizer_,
                                             self->config_.suppress_tokens, self->config_.vocab);
  if (drafter) self->session_->use_drafter(std::move(drafter), options.draft_tokens);
  self->adapters_ =
      std::make_unique<Adapters>(self->device_, self->config_, *self->session_, options.digest);
  co_return self;
}

training::Base TextModel::training_base() {
  return {.device = &device_,
          .config = &config_,
          .weights = &session_->decoder().weights(),
          .tokenizer = &tokenizer_,
          .name = load_options_.name.empty() ? title_ : load_options_.name,
          .digest = load_options_.digest,
          .context = load_options_.context,
          .large_template = large_template_,
          .variant = variant_};
}

Json TextModel::info() const {
  const model::Decoder& decoder = session_->decoder();
  Json cuts = Json::object();
  for (const auto& [key, cut] : decoder.cuts()) {
    Json& numbers = cuts[key] = cut.numbers;
    if (!cut.is_open()) continue;
    numbers.push_back(cut.tried);
    numbers.push_back(cut.needed_ms);
  }
  Json variant = {{"subgroups", variant_.subgroups}, {"dot", kernels::dot_name(variant_.dot)}};
  if (variant_.prefill) variant["prefill"] = kernels::dot_name(*variant_.prefill);
  if (variant_.matrix) variant["matrix"] = true;
  Json info = {{"architecture", architecture_},
               {"family", config_.family},
               {"title", title_},
               {"name", load_options_.name},
               {"parameters", parameters_},
               {"layers", config_.layers.size()},
               {"embedding", config_.hidden},
               {"vocab", config_.vocab},
               {"contextLength", decoder.context()},
               {"modelContextLength", config_.context_length},
               {"sessions", decoder.sequences()},
               {"kvType", kernels::kv_type_name(load_options_.kv_type)},
               {"modalities", Json::array({"text"})},
               {"template", large_template_ ? "large" : "small"},
               {"gpuBytes",
                {{"weights", decoder.weights().bytes.total()},
                 {"kv", decoder.kv_bytes()},
                 {"scratch", decoder.scratch_bytes()}}},
               {"memory", describe(needs_, plan_, load_options_.gpu_memory)},
               {"variant", std::move(variant)},
               {"kernels", cache_.size()},
               {"cuts", std::move(cuts)}};
  if (media_->can_see()) info["modalities"].push_back("image");
  if (media_->can_hear()) info["modalities"].push_back("audio");
  if (const model::Drafter* drafter = session_->drafter())
    info["drafter"] = {{"layers", drafter->layers()}, {"gpuBytes", drafter->bytes()}};
  if (config_.per_layer_dim > 0)
    info["perLayerEmbeddings"] = decoder.rows_in_source() ? "source" : "gpu";
  return info;
}

Result<std::vector<chat::Piece>> TextModel::render(const Json& request,
                                                   chat::Conversation* out) const {
  const Json* messages = json_member(request, "messages");
  if (messages == nullptr) return fail(ErrorCode::kInvalidArgument, "a chat needs 'messages'");
  const Json* tools = json_member(request, "tools");
  TRY(chat::Conversation conversation,
      chat::parse_messages(*messages, tools == nullptr ? Json() : *tools));
  const auto is_system = [](const chat::Message& m) {
    return m.role == chat::Role::kSystem || m.role == chat::Role::kDeveloper;
  };
  if (!load_options_.system.empty() && std::ranges::none_of(conversation.messages, is_system)) {
    chat::Message system{.role = chat::Role::kSystem};
    system.content.push_back({.text = load_options_.system});
    conversation.messages.insert(conversation.messages.begin(), std::move(system));
  }
  TRY_VOID(check_media(conversation));
  TRY(std::vector<chat::Piece> pieces,
      chat::render(conversation,
                   {.thinking = flag(request, "think", false),
                    .add_generation_prompt = flag(request, "addGenerationPrompt", true),
                    .large_template = large_template_,
                    .continue_final_message = flag(request, "continueFinalMessage", false)}));
  if (out != nullptr) *out = std::move(conversation);
  return pieces;
}

Status TextModel::check_media(const chat::Conversation& conversation) const {
  for (const chat::Message& message : conversation.messages) {
    for (const chat::ContentPart& part : message.content) {
      if (part.kind == chat::PartKind::kImage) TRY_VOID(media_->can_see());
      if (part.kind == chat::PartKind::kAudio) TRY_VOID(media_->can_hear());
      if (part.kind == chat::PartKind::kVideo)
        return fail(ErrorCode::kUnsupported, "video is not supported: give its pictures");
    }
  }
  return {};
}

Result<TextModel::Prompt> TextModel::prompt_of(std::span<const chat::Piece> pieces) const {
  struct Tags {
    std::optional<uint32_t> place, open, close;
  };
  const auto tags = [&](std::string_view place, std::string_view open, std::string_view close) {
    return Tags{tokenizer_.find_special(place), tokenizer_.find_special(open),
                tokenizer_.find_special(close)};
  };
  const Tags image = tags(chat::kImage, chat::kImageOpen, chat::kImageClose);
  const Tags audio = tags(chat::kAudio, chat::kAudioOpen, chat::kAudioClose);
  const auto not_given = [] {
    return fail(ErrorCode::kInvalidArgument, "a medium of the conversation was not given");
  };
  Prompt prompt;
  auto piece = pieces.begin();
  // Text never becomes the place of a medium: each is a tag of the template.
  for (const uint32_t id : tokenizer_.encode_pieces_of(pieces)) {
    if (id != image.place && id != audio.place) {
      prompt.tokens.push_back(id);
      continue;
    }
    const Tags& tag = id == image.place ? image : audio;
    if (!tag.open || !tag.close) {
      return fail(ErrorCode::kUnsupported, "this model's vocabulary has no tokens around media");
    }
    while (piece != pieces.end() && piece->medium.empty()) ++piece;
    const Media::Medium* medium = piece == pieces.end() ? nullptr : media_->find(piece->medium);
    if (medium == nullptr) return not_given();
    const auto window = (piece++)->window;
    if (window && *window >= medium->pieces.size()) return not_given();
    prompt.tokens.push_back(*tag.open);
    for (size_t w = window.value_or(0); w < medium->pieces.size(); ++w) {
      const auto& [ids, rows] = medium->pieces[w];
      prompt.soft.push_back({.position = static_cast<uint32_t>(prompt.tokens.size()),
                             .rows = static_cast<uint32_t>(ids.size()),
                             .values = rows,
                             .kind = medium->kind});
      prompt.tokens.insert(prompt.tokens.end(), ids.begin(), ids.end());
      if (window) break;
    }
    prompt.tokens.push_back(*tag.close);
  }
  return prompt;
}

Result<GenerateOptions> TextModel::options_of(const Json& request) const {
  const Json* options = json_member(request, "options");
  return parse_options(options == nullptr || options->is_null() ? Json::object() : *options,
                       load_options_.options, config_.vocab);
}

Task<Result<Json>> TextModel::run(Prompt prompt, GenerateOptions options,
                                  const grammar::ReplyFormat& format, const Json& request,
                                  const Emit& emit, Listener& listener, Cancelled cancelled) {
  uint64_t seed = options.sampling.seed.value_or(gpu::host_random());
  std::vector<uint32_t> written;
  if (const Json* resume = json_member(request, "resume")) {
    const Json* old_seed = json_member(*resume, "seed");
    const Json* tokens = json_member(*resume, "tokens");
    if (old_seed == nullptr || !old_seed->is_number_unsigned() || tokens == nullptr)
      co_return fail(ErrorCode::kInvalidArgument, "a reply resumes with its seed and its tokens");
    seed = old_seed->get<uint64_t>();
    CO_TRY(written, parse_ids(*tokens));
  }
  std::optional<Constraint> constraint;
  if (format.constrains()) {
    CO_TRY(grammar::Automaton automaton, grammar::compile(format));
    if (token_bytes_ == nullptr) token_bytes_ = std::make_unique<grammar::TokenBytes>(tokenizer_);
    constraint.emplace(std::make_shared<const grammar::Automaton>(std::move(automaton)), tokenizer_,
                       *token_bytes_);
  }
  KeepingListener keeping(listener, emit);
  const bool recoverable = flag(request, "recoverable", false);
  if (recoverable) emit({{"type", "begun"}, {"seed", seed}});
  const model::ExpertCache* const experts = session_->decoder().weights().experts.get();
  const uint64_t hits = experts != nullptr ? experts->hits() : 0;
  const uint64_t misses = experts != nullptr ? experts->misses() : 0;
  CO_TRY(const RunResult result,
         co_await session_->run(std::move(prompt.tokens), options, seed,
                                recoverable ? static_cast<Listener&>(keeping) : listener, cancelled,
                                constraint ? &*constraint : nullptr, std::move(written),
                                std::move(prompt.soft)));
  Json report = {{"reason", finish_reason_name(result.reason)},
                 {"usage",
                  {{"promptTokens", result.prompt_tokens},
                   {"cachedTokens", result.cached_tokens},
                   {"completionTokens", result.tokens.size()}}},
                 {"timings",
                  {{"prefillMs", result.prefill_ms},
                   {"decodeMs", result.decode_ms},
                   {"firstTokenMs", result.prefill_ms}}},
                 {"seed", seed},
                 {"tokens", result.tokens}};
  if (session_->drafter() != nullptr)
    report["draft"] = {{"drafted", result.drafted}, {"accepted", result.accepted}};
  if (experts != nullptr) {
    report["experts"] = {{"hits", experts->hits() - hits}, {"misses", experts->misses() - misses}};
  }
  co_return report;
}

Task<Result<Json>> TextModel::chat(Json request, Emit emit, Cancelled cancelled) {
  chat::Conversation conversation;
  CO_TRY(const std::vector<chat::Piece> pieces, render(request, &conversation));
  CO_TRY(const GenerateOptions options, options_of(request));
  grammar::ReplyFormat format{.format = options.format,
                              .may_call = !conversation.tools.empty(),
                              .many_calls = true,
                              .may_think = flag(request, "think", false),
                              .in_thought = chat::ends_in_thinking(pieces)};
  if (const Json* choice = json_member(request, "toolChoice"); choice != nullptr)
    CO_TRY_VOID(parse_tool_choice(*choice, conversation.tools, format));
  if (format.constrains() && flag(request, "continueFinalMessage", false)) {
    co_return fail(ErrorCode::kUnsupported,
                   "an answer that is continued cannot be held to a format or made a tool call");
  }
  ChatListener listener(tokenizer_, options.stop, emit,
                        {.thinking = flag(request, "think", false),
                         .start_in_thinking = chat::ends_in_thinking(pieces),
                         .tools = std::move(conversation.tools)});
  CO_TRY(Prompt prompt, prompt_of(pieces));
  CO_TRY(Json report, co_await run(std::move(prompt), options, format, request, emit, listener,
                                   std::move(cancelled)));
  listener.finish();
  if (listener.stopped_by().empty()) {
    if (listener.tool_calls() > 0 && report["reason"] == "stop") report["reason"] = "tool_calls";
  } else {
    report["stop"] = listener.stopped_by();
  }
  co_return report;
}

Result<std::vector<uint32_t>> TextModel::raw_prompt(const Json& request) const {
  const Json* tokens = json_member(request, "tokens");
  if (tokens != nullptr && tokens->is_array()) return parse_ids(*tokens);
  const Json* text = json_member(request, "prompt");
  if (text == nullptr || !text->is_string())
    return fail(ErrorCode::kInvalidArgument, "a raw request needs a 'prompt' text or 'tokens'");
  const Json* special = json_member(request, "special");
  const bool parse = special != nullptr && *special == "parse";
  return tokenizer_.encode(
      text->get_ref<const std::string&>(),
      {.add_bos = true,
       .specials = parse ? tokenizer::SpecialTokens::kParse : tokenizer::SpecialTokens::kPlain});
}

Task<Result<Json>> TextModel::prefill(Json request, Cancelled cancelled) {
  const Json* list = json_member(request, "prompts");
  if (list == nullptr || !list->is_array())
    co_return fail(ErrorCode::kInvalidArgument, "a prefill needs a list of 'prompts'");
  std::vector<std::vector<uint32_t>> prompts;
  std::vector<SoftSpans> soft(list->size());
  for (const Json& prompt : *list) {
    if (json_member(prompt, "messages") != nullptr) {
      CO_TRY(const std::vector<chat::Piece> pieces, render(prompt));
      CO_TRY(Prompt whole, prompt_of(pieces));
      soft[prompts.size()] = std::move(whole.soft);
      prompts.push_back(std::move(whole.tokens));
    } else {
      CO_TRY(std::vector<uint32_t> raw, raw_prompt(prompt));
      prompts.push_back(std::move(raw));
    }
  }
  CO_TRY(const std::vector<Prefilled> done,
         co_await session_->prefill(std::move(prompts), std::move(cancelled), std::move(soft)));
  Json out = Json::array();
  for (const Prefilled& one : done) {
    out.push_back({{"promptTokens", one.prompt_tokens}, {"cachedTokens", one.cached_tokens}});
  }
  co_return out;
}

Task<Result<std::vector<float>>> TextModel::embed(Json request, Emit emit, Cancelled cancelled) {
  CO_TRY(const EmbeddingOptions options, parse_embedding_options(request, config_.hidden));
  const Json* list = json_member(request, "inputs");
  if (list == nullptr || !list->is_array() || list->size() > kMaxEmbeddingInputs) {
    co_return fail(ErrorCode::kInvalidArgument,
                   cat("an embedding needs a list of at most ", kMaxEmbeddingInputs, " 'inputs'"));
  }
  std::vector<std::vector<uint32_t>> texts;
  Json counts = Json::array();
  for (const Json& input : *list) {
    CO_TRY(std::vector<uint32_t> tokens, raw_prompt(input));
    counts.push_back(options.truncate
                         ? std::min<size_t>(tokens.size(), session_->decoder().context())
                         : tokens.size());
    texts.push_back(std::move(tokens));
  }
  CO_TRY(const std::vector<std::vector<float>> embeddings,
         co_await session_->embed(std::move(texts), options, std::move(cancelled)));
  emit({{"promptTokens", std::move(counts)}});
  std::vector<float> out;
  for (const std::vector<float>& one : embeddings) out.insert(out.end(), one.begin(), one.end());
  co_return out;
}

Task<Result<Json>> TextModel::generate(Json request, Emit emit, Cancelled cancelled) {
  CO_TRY(const GenerateOptions options, options_of(request));
  CO_TRY(std::vector<uint32_t> prompt, raw_prompt(request));
  TextListener listener(tokenizer_, options.stop, emit);
  CO_TRY(Json report, co_await run({std::move(prompt), {}}, options, {.format = options.format},
                                   request, emit, listener, std::move(cancelled)));
  listener.finish();
  if (!listener.stopped_by().empty()) report["stop"] = listener.stopped_by();
  co_return report;
}

}  // namespace lapidary::generate
