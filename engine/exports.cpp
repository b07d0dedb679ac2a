// What lapidary.wasm exports: memory and calls, names and headers, models, replies, sessions,
// adapters, merges.
#include "engine/exports.h"

#include <cstdlib>
#include <memory>
#include <set>
#include <vector>

#include "engine/adapter/gguf_lora.h"
#include "engine/adapter/peft.h"
#include "engine/base/bytes.h"
#include "engine/generate/merge.h"
#include "engine/gpu/source.h"
#include "engine/ollama/manifest.h"
#include "engine/ollama/model_name.h"

namespace lapidary {

using generate::TextModel;

namespace {

std::string& result() {
  static std::string bytes;
  return bytes;
}

// They are never closed: the host gives each an engine of its own.
Table<generate::Merge>& merges() {
  static Table<generate::Merge> table("this merge");
  return table;
}

// Calls that were asked to stop.
std::set<uint32_t>& cancelled_calls() {
  static std::set<uint32_t> calls;
  return calls;
}

}  // namespace

Table<TextModel>& models() {
  static Table<TextModel> table("this model");
  return table;
}

uint32_t answer(std::string bytes) {
  result() = std::move(bytes);
  return 0;
}
uint32_t answer(const Error& error) {
  result() = error.message;
  return static_cast<uint32_t>(error.code);
}

void complete(uint32_t call, const Result<std::string>& outcome) {
  cancelled_calls().erase(call);
  const std::string& text = outcome ? *outcome : outcome.error().message;
  const ErrorCode code = outcome ? ErrorCode::kOk : outcome.error().code;
  gpu::host_complete(call, static_cast<uint32_t>(code), text.data(),
                     static_cast<uint32_t>(text.size()));
}

generate::Cancelled cancel_check(uint32_t call) {
  return [call] { return cancelled_calls().contains(call); };
}
generate::Emit emitter(uint32_t call) {
  return [call](const Json& event) {
    const std::string text = dump_json(event);
    gpu::host_emit(call, text.data(), static_cast<uint32_t>(text.size()));
  };
}

std::string text_member(const Json& json, std::string_view key) {
  const Json* value = json_member(json, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

namespace {

generate::Progress progress_emitter(uint32_t call) {
  return [emit = emitter(call)](std::string_view phase, uint64_t loaded, uint64_t total) {
    emit({{"phase", phase}, {"loaded", loaded}, {"total", total}});
  };
}

std::vector<uint32_t> ids_of(const void* data, uint32_t bytes) {
  std::vector<uint32_t> ids(bytes / sizeof(uint32_t));
  if (!ids.empty()) std::memcpy(ids.data(), data, ids.size() * sizeof(uint32_t));
  return ids;
}

// What chat and generate share: find the model, parse the request, run, serialise.
void start_reply(uint32_t call, uint32_t model, std::string_view request, bool chat) {
  start(call, [=, text = std::string(request)]() -> Task<Result<std::string>> {
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    CO_TRY(Json json, parse_json(text, "request"));
    CO_TRY(const Json report,
           chat ? co_await target->chat(std::move(json), emitter(call), cancel_check(call))
                : co_await target->generate(std::move(json), emitter(call), cancel_check(call)));
    co_return dump_json(report);
  });
}

}  // namespace
}  // namespace lapidary

using namespace lapidary;  // NOLINT(google-build-using-namespace): this file is the boundary

LAPIDARY_EXPORT(lap_alloc) void* lap_alloc(uint32_t size) {
  return std::malloc(size == 0 ? 1 : size);
}
LAPIDARY_EXPORT(lap_free) void lap_free(void* pointer) { std::free(pointer); }
LAPIDARY_EXPORT(lap_result_data) const char* lap_result_data() { return result().data(); }
LAPIDARY_EXPORT(lap_result_size) uint32_t lap_result_size() {
  return static_cast<uint32_t>(result().size());
}

LAPIDARY_EXPORT(lap_resume)
void lap_resume(uint32_t ticket, uint32_t code, const char* text, uint32_t length) {
  gpu::HostCallBase::resume(ticket, static_cast<ErrorCode>(code), std::string(text, length));
}

LAPIDARY_EXPORT(lap_cancel) void lap_cancel(uint32_t call) { cancelled_calls().insert(call); }

LAPIDARY_EXPORT(lap_error_codes) uint32_t lap_error_codes() {
  Json codes = Json::object();
#define X(name, number, text) codes[text] = number;
  LAPIDARY_ERROR_CODES(X)
#undef X
  return answer(dump_json(codes));
}

LAPIDARY_EXPORT(lap_ollama_name) uint32_t lap_ollama_name(const char* text, uint32_t length) {
  const auto name = ollama::parse_model_name({text, length});
  return name ? answer(dump_json(ollama::to_json(*name))) : answer(name.error());
}

LAPIDARY_EXPORT(lap_ollama_manifest)
uint32_t lap_ollama_manifest(const char* text, uint32_t length) {
  const auto manifest = ollama::parse_manifest({text, length});
  return manifest ? answer(dump_json(ollama::to_json(*manifest))) : answer(manifest.error());
}

LAPIDARY_EXPORT(lap_ollama_config) uint32_t lap_ollama_config(const char* text, uint32_t length) {
  const auto config = ollama::parse_config({text, length});
  return config ? answer(dump_json(ollama::to_json(*config))) : answer(config.error());
}

LAPIDARY_EXPORT(lap_inspect)
void lap_inspect(uint32_t call, uint32_t source, const char* options, uint32_t length) {
  start(call, [=, text = std::string(options, length)]() -> Task<Result<std::string>> {
    CO_TRY(const Json json, parse_json(text, "load options"));
    CO_TRY(const gguf::Header header, co_await generate::read_header(source, nullptr));
    CO_TRY(const Json described, generate::describe(header, json));
    co_return dump_json(described);
  });
}

LAPIDARY_EXPORT(lap_model_load)
void lap_model_load(uint32_t call, uint32_t source, const char* options, uint32_t length) {
  start(call, [=, text = std::string(options, length)]() -> Task<Result<std::string>> {
    CO_TRY(Json json, parse_json(text, "load options"));
    CO_TRY(std::shared_ptr<TextModel> model,
           co_await TextModel::load(source, std::move(json), progress_emitter(call),
                                    cancel_check(call)));
    Json info = model->info();
    info["model"] = models().add(std::move(model));
    co_return dump_json(info);
  });
}

LAPIDARY_EXPORT(lap_model_close) void lap_model_close(uint32_t model) {
  // A call that still runs keeps its own reference.
  models().close(model);
}

LAPIDARY_EXPORT(lap_model_info) uint32_t lap_model_info(uint32_t model) {
  const auto target = models().find(model);
  return target ? answer(dump_json((*target)->info())) : answer(target.error());
}

// flags: bit 0 adds <bos>; bits 1-2: 0 plain, 1 user-defined specials, 2 all specials.
LAPIDARY_EXPORT(lap_tokenize)
uint32_t lap_tokenize(uint32_t model, const char* text, uint32_t length, uint32_t flags) {
  const auto target = models().find(model);
  if (!target) return answer(target.error());
  const uint32_t mode = (flags >> 1) & 3;
  const auto specials = mode == 2   ? tokenizer::SpecialTokens::kParse
                        : mode == 1 ? tokenizer::SpecialTokens::kUserDefined
                                    : tokenizer::SpecialTokens::kPlain;
  return answer(bytes_of((*target)->tokenizer().encode(
      {text, length}, {.add_bos = (flags & 1) != 0, .specials = specials})));
}

// flags: bit 0 shows control tokens.
LAPIDARY_EXPORT(lap_detokenize)
uint32_t lap_detokenize(uint32_t model, const void* ids, uint32_t bytes, uint32_t flags) {
  const auto target = models().find(model);
  if (!target) return answer(target.error());
  return answer((*target)->tokenizer().decode(ids_of(ids, bytes), (flags & 1) != 0));
}

LAPIDARY_EXPORT(lap_render)
uint32_t lap_render(uint32_t model, const char* request, uint32_t length) {
  const auto target = models().find(model);
  if (!target) return answer(target.error());
  const auto json = parse_json({request, length}, "request");
  if (!json) return answer(json.error());
  const auto pieces = (*target)->render(*json);
  if (!pieces) return answer(pieces.error());
  return answer(dump_json({{"text", chat::prompt_text(*pieces)},
                           {"tokens", (*target)->tokenizer().encode_pieces_of(*pieces)}}));
}

LAPIDARY_EXPORT(lap_chat)
void lap_chat(uint32_t call, uint32_t model, const char* request, uint32_t length) {
  start_reply(call, model, {request, length}, true);
}

LAPIDARY_EXPORT(lap_generate)
void lap_generate(uint32_t call, uint32_t model, const char* request, uint32_t length) {
  start_reply(call, model, {request, length}, false);
}

LAPIDARY_EXPORT(lap_prefill)
void lap_prefill(uint32_t call, uint32_t model, const char* request, uint32_t length) {
  start(call, [=, text = std::string(request, length)]() -> Task<Result<std::string>> {
    CO_TRY(Json json, parse_json(text, "request"));
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    CO_TRY(const Json done, co_await target->prefill(std::move(json), cancel_check(call)));
    co_return dump_json(done);
  });
}

// Completes with f32 [inputs, dimensions], after an event {promptTokens}. request: as in
// generate::TextModel::embed.
LAPIDARY_EXPORT(lap_embed)
void lap_embed(uint32_t call, uint32_t model, const char* request, uint32_t length) {
  start(call, [=, text = std::string(request, length)]() -> Task<Result<std::string>> {
    CO_TRY(Json json, parse_json(text, "request"));
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    CO_TRY(const std::vector<float> embeddings,
           co_await target->embed(std::move(json), emitter(call), cancel_check(call)));
    co_return bytes_of(embeddings);
  });
}

// Completes with f32 [rows, vocab]. flags: bit 0 for every position, else the last only.
LAPIDARY_EXPORT(lap_logits)
void lap_logits(uint32_t call, uint32_t model, const void* ids, uint32_t bytes, uint32_t flags) {
  start(call, [=, tokens = ids_of(ids, bytes)]() mutable -> Task<Result<std::string>> {
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    CO_TRY(const std::vector<float> logits,
           co_await target->logits(std::move(tokens), (flags & 1) != 0));
    co_return bytes_of(logits);
  });
}

// Completes with the adapter's description. options: {name, scale, config}; config: the text of a
// PEFT adapter's adapter_config.json.
LAPIDARY_EXPORT(lap_adapter_load)
void lap_adapter_load(uint32_t call, uint32_t model, uint32_t source, const char* options,
                      uint32_t length) {
  start(call, [=, text = std::string(options, length)]() -> Task<Result<std::string>> {
    CO_TRY(const Json json, parse_json(text, "adapter options"));
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    CO_TRY(const Json loaded, co_await target->adapters().load(source, json, cancel_check(call)));
    co_return dump_json(loaded);
  });
}

// request: [{id, scale}], the adapters that are on from now on. Completes with nothing.
LAPIDARY_EXPORT(lap_adapters_set)
void lap_adapters_set(uint32_t call, uint32_t model, const char* request, uint32_t length) {
  start(call, [=, text = std::string(request, length)]() -> Task<Result<std::string>> {
    CO_TRY(const Json json, parse_json(text, "adapters"));
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    CO_TRY_VOID(co_await target->adapters().set(json));
    co_return std::string();
  });
}

LAPIDARY_EXPORT(lap_adapter_remove)
void lap_adapter_remove(uint32_t call, uint32_t model, uint32_t id) {
  start(call, [=]() -> Task<Result<std::string>> {
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    CO_TRY_VOID(co_await target->adapters().remove(id));
    co_return std::string();
  });
}

LAPIDARY_EXPORT(lap_adapters) uint32_t lap_adapters(uint32_t model) {
  const auto target = models().find(model);
  return target ? answer(dump_json((*target)->adapters().describe())) : answer(target.error());
}

// The answer: {header, bytes}. options: {model, rewind}; generate::Session::save.
LAPIDARY_EXPORT(lap_session_save)
uint32_t lap_session_save(uint32_t model, const char* options, uint32_t length) {
  const auto target = models().find(model);
  if (!target) return answer(target.error());
  const auto json = parse_json({options, length}, "options");
  if (!json) return answer(json.error());
  const auto rewind = generate::snapshot_rewind(*json);
  if (!rewind) return answer(rewind.error());
  const auto saved = (*target)->save_session(text_member(*json, "model"), *rewind);
  if (!saved) return answer(saved.error());
  return answer(
      dump_json({{"header", saved->header}, {"bytes", saved->bytes}, {"tokens", saved->tokens}}));
}

// Completes with the next bytes of the snapshot that lap_session_save began; none: that was all.
LAPIDARY_EXPORT(lap_session_read) void lap_session_read(uint32_t call, uint32_t model) {
  start(call, [=]() -> Task<Result<std::string>> {
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    CO_TRY(const std::vector<std::byte> piece, co_await target->read_saved());
    co_return bytes_of(piece);
  });
}

// Completes with {tokens}. source: the snapshot's payload; options: {header, model}.
LAPIDARY_EXPORT(lap_session_restore)
void lap_session_restore(uint32_t call, uint32_t model, uint32_t source, const char* options,
                         uint32_t length) {
  start(call, [=, text = std::string(options, length)]() -> Task<Result<std::string>> {
    CO_TRY(const Json json, parse_json(text, "options"));
    CO_TRY(const std::shared_ptr<TextModel> target, models().find(model));
    CO_TRY(const uint32_t tokens,
           co_await target->restore_session(source, text_member(json, "header"),
                                            text_member(json, "model"), cancel_check(call)));
    co_return dump_json({{"tokens", tokens}});
  });
}

LAPIDARY_EXPORT(lap_truncate) uint32_t lap_truncate(uint32_t model, uint32_t length) {
  const auto target = models().find(model);
  if (!target) return answer(target.error());
  const Status status = (*target)->truncate(length);
  return status ? answer(std::string()) : answer(status.error());
}

// Completes with {merge, bytes, matrices}. options: as in generate::Merge::open.
LAPIDARY_EXPORT(lap_merge_open)
void lap_merge_open(uint32_t call, uint32_t source, const char* options, uint32_t length) {
  start(call, [=, text = std::string(options, length)]() -> Task<Result<std::string>> {
    CO_TRY(Json json, parse_json(text, "merge options"));
    CO_TRY(std::shared_ptr<generate::Merge> merge,
           co_await generate::Merge::open(source, std::move(json), cancel_check(call)));
    Json plan = merge->describe();
    plan["merge"] = merges().add(std::move(merge));
    co_return dump_json(plan);
  });
}

// Completes with the next bytes of the merged file; none: that was all.
LAPIDARY_EXPORT(lap_merge_read) void lap_merge_read(uint32_t call, uint32_t merge) {
  start(call, [=]() -> Task<Result<std::string>> {
    CO_TRY(const std::shared_ptr<generate::Merge> target, merges().find(merge));
    CO_TRY(const std::vector<std::byte> piece, co_await target->read(cancel_check(call)));
    co_return bytes_of(piece);
  });
}

LAPIDARY_EXPORT(lap_merge_report) uint32_t lap_merge_report(uint32_t merge) {
  const auto target = merges().find(merge);
  return target ? answer(dump_json((*target)->report())) : answer(target.error());
}

// Completes with an adapter's file in another format. options: {to: "gguf" or "peft", config}; for
// "peft", the event {config} before is the text of adapter_config.json.
LAPIDARY_EXPORT(lap_adapter_convert)
void lap_adapter_convert(uint32_t call, uint32_t source, const char* options, uint32_t length) {
  start(call, [=, text = std::string(options, length)]() -> Task<Result<std::string>> {
    CO_TRY(const Json json, parse_json(text, "adapter options"));
    const Json* to = json_member(json, "to");
    if (to == nullptr || (*to != "gguf" && *to != "peft"))
      co_return fail(ErrorCode::kInvalidArgument, "an adapter is converted to gguf or to peft");
    CO_TRY(const adapter::LoraAdapter read,
           co_await generate::read_adapter_source(source, json, cancel_check(call)));
    if (*to == "gguf") {
      CO_TRY(const std::vector<std::byte> file, adapter::write_gguf_lora(read));
      co_return bytes_of(file);
    }
    CO_TRY(const adapter::PeftFiles files, adapter::write_peft(read));
    emitter(call)({{"config", files.config}});
    co_return bytes_of(files.model);
  });
}
