// Walks the decoder's programs dispatch by dispatch and hands out what lies between them
// (tests/model/hidden.test.ts knows what it should be).
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/generate/text_model.h"
#include "engine/model/decoder.h"
#include "engine/model/tensor_table.h"
#include "engine/model/weights.h"
#include "tests/kernels/probe.h"

namespace lapidary::model {

// The decoder's friend.
struct DecoderProbe {
  gpu::Device& device;
  Decoder& decoder;
  uint32_t call;
  std::vector<float> values;  // of all tensors taken, one after another

  void emit(const Json& event) const {
    const std::string text = dump_json(event);
    gpu::host_emit(call, text.data(), static_cast<uint32_t>(text.size()));
  }

  // The first `count` floats of a buffer, under a name.
  Task<Status> take(std::string name, const gpu::Buffer& buffer, size_t count) {
    const size_t at = values.size();
    values.resize(at + count);
    CO_TRY_VOID(
        co_await device.read(buffer, 0, std::as_writable_bytes(std::span(values).subspan(at))));
    emit({{"name", name}, {"at", at}, {"count", count}});
    co_return Status{};
  }

  // Runs steps `from` up to `to` of a program. Reading a buffer afterwards waits for them.
  void run(const Program& program, size_t from, size_t to, uint32_t n) const {
    gpu::CommandList list;
    list.begin_pass();
    for (size_t i = from; i < to; ++i) program.record_step(i, list, decoder.cache_, n);
    list.end_pass();
    device.submit(list);
  }

  // The batch program through every layer, then the norm before the head.
  Task<Status> batch(std::span<const uint32_t> tokens) {
    const auto n = static_cast<uint32_t>(tokens.size());
    const Config& config = decoder.config_;
    const Decoder::Scratch& s = decoder.batch_;
    const size_t row = size_t{n} * config.hidden;
    const Prompt prompt{.tokens = tokens};
    decoder.write_batch({&prompt, 1});
    run(decoder.batch_inputs_, 0, decoder.batch_inputs_.size(), n);
    CO_TRY_VOID(co_await take("ple", s.ple,
                              row / config.hidden * config.per_layer_dim * config.layers.size()));
    uint32_t current = 0;
    for (size_t l = 0; l < config.layers.size(); ++l) {
      const Program& program = decoder.batch_layers_programs_[l];
      const LayerConfig& layer = config.layers[l];
      const std::string name = cat(l, ".");
      if (program.size() != 11) {
        co_return fail(ErrorCode::kInternal,
                       cat("the batch program of layer ", l, " has ", program.size(),
                           " dispatches: DecoderProbe knows 11"));
      }
      const size_t qkv = size_t{n} * decoder.attention_spec(l).qkv_rows();
      run(program, 0, 1, n);
      if (l > 0) current ^= 1;
      CO_TRY_VOID(co_await take(name + "x", s.x[current], row));
      CO_TRY_VOID(co_await take(name + "attention_input", s.h, row));
      run(program, 1, 2, n);
      CO_TRY_VOID(co_await take(name + "qkv", s.qkv, qkv));
      run(program, 2, 3, n);
      CO_TRY_VOID(co_await take(name + "qkv_turned", s.qkv, qkv));
      const size_t cached = size_t{n} * layer.kv_width();
      CO_TRY_VOID(co_await take(name + "k_cache", decoder.k_cache(l), cached));
      CO_TRY_VOID(co_await take(name + "v_cache", decoder.v_cache(l), cached));
      run(program, 3, 5, n);
      CO_TRY_VOID(co_await take(name + "attention_output", s.delta, row));
      run(program, 5, 6, n);
      current ^= 1;
      CO_TRY_VOID(co_await take(name + "x_attention", s.x[current], row));
      CO_TRY_VOID(co_await take(name + "ffn_input", s.h, row));
      run(program, 6, 8, n);
      CO_TRY_VOID(co_await take(name + "ffn_output", s.delta, row));
      run(program, 8, 9, n);
      current ^= 1;
      CO_TRY_VOID(co_await take(name + "x_ffn", s.x[current], row));
      run(program, 9, 10, n);
      CO_TRY_VOID(co_await take(name + "ple_gated", s.ple_gate, size_t{n} * config.per_layer_dim));
      run(program, 10, 11, n);
      CO_TRY_VOID(co_await take(name + "ple_output", s.delta, row));
    }
    run(decoder.all_norm_, 0, decoder.all_norm_.size(), n);
    current ^= 1;
    CO_TRY_VOID(co_await take(cat(config.layers.size(), ".x"), s.x[current], row));
    CO_TRY_VOID(co_await take("head_input", s.h, row));
    co_return Status{};
  }

  // The decode program for `token` at `position`, whose predecessors the batch left in the cache.
  Task<Status> decode(uint32_t token, uint32_t position) {
    const Config& config = decoder.config_;
    const Decoder::Scratch& s = decoder.one_;
    const size_t row = config.hidden;
    decoder.set_token(token, position);
    run(decoder.decode_inputs_, 0, decoder.decode_inputs_.size(), position);
    CO_TRY_VOID(co_await take("decode.ple", s.ple, config.per_layer_dim * config.layers.size()));
    for (size_t l = 0; l < config.layers.size(); ++l) {
      const Program& program = decoder.decode_layers_[l];
      const std::string name = cat("decode.", l, ".");
      if (program.size() != 7) {
        co_return fail(ErrorCode::kInternal,
                       cat("the decode program of layer ", l, " has ", program.size(),
                           " dispatches: DecoderProbe knows 7"));
      }
      // Which half holds the stream after each update: it starts as decode_entry_ says.
      uint32_t current = decoder.decode_entry_[l];
      run(program, 0, 1, position);
      if (l > 0) current ^= 1;
      CO_TRY_VOID(co_await take(name + "x", s.x[current], row));
      CO_TRY_VOID(co_await take(name + "qkv", s.qkv, decoder.attention_spec(l).qkv_rows()));
      run(program, 1, 3, position);
      CO_TRY_VOID(co_await take(name + "attention_output", s.delta, row));
      run(program, 3, 4, position);
      current ^= 1;
      CO_TRY_VOID(co_await take(name + "x_attention", s.x[current], row));
      run(program, 4, 5, position);
      CO_TRY_VOID(co_await take(name + "ffn_output", s.delta, row));
      run(program, 5, 6, position);
      current ^= 1;
      CO_TRY_VOID(co_await take(name + "x_ffn", s.x[current], row));
      CO_TRY_VOID(co_await take(name + "ple_gated", s.ple_gate, config.per_layer_dim));
      run(program, 6, 7, position);
      CO_TRY_VOID(co_await take(name + "ple_output", s.delta, row));
    }
    run(decoder.decode_head_, 0, decoder.decode_head_.size(), position);
    CO_TRY_VOID(co_await take(cat("decode.", config.layers.size(), ".x"),
                              s.x[decoder.head_entry_ ^ 1], row));
    CO_TRY_VOID(co_await take("decode.logits", decoder.logits_, config.vocab));
    co_return Status{};
  }

  // Dispatches of each part of the decode program, then a real step between two events: the host
  // counts what it submits.
  Task<Status> count(uint32_t token, uint32_t position) {
    Json layers = Json::array();
    for (const Program& layer : decoder.decode_layers_) layers.push_back(layer.size());
    decoder.set_token(token, position);
    emit({{"step", "before"}});
    CO_TRY_VOID(co_await decoder.decode(position, {}));
    emit({{"step", "after"},
          {"layers", layers},
          {"inputs", decoder.decode_inputs_.size()},
          {"head", decoder.decode_head_.size()}});
    co_return co_await device.sync();
  }

  static Task<Result<std::vector<float>>> walk(uint32_t call, uint32_t source,
                                               std::vector<uint32_t> tokens) {
    gpu::Device device;
    kernels::KernelCache cache(device);
    CO_TRY(const gguf::Header header, co_await generate::read_header(source, nullptr));
    CO_TRY(const Config config, Config::from_gguf(header));
    CO_TRY_VOID(check_tensors(config, header));
    CO_TRY(Weights weights,
           co_await load_weights(
               device, cache, header, config, source, WeightPlaces{}, config.context_length,
               [](uint64_t, uint64_t) {}, [] { return false; }));
    // As a model is loaded: the driver's cache has these kernels from the other tests, or for them.
    const DecoderOptions options{.context = config.context_length,
                                 .kv_type = kernels::KvType::kF32,
                                 .variant = {.subgroups = device.has(gpu::kFeatureSubgroups),
                                             .light = device.info().is_software != 0}};
    CO_TRY(const std::unique_ptr<Decoder> decoder,
           co_await Decoder::create(device, cache, config, std::move(weights), options, nullptr));
    CO_TRY_VOID(co_await decoder->prepare_all_positions());
    DecoderProbe probe{device, *decoder, call, {}};
    const auto last = static_cast<uint32_t>(tokens.size() - 1);
    // The batch leaves K and V in the cache for the decode.
    CO_TRY_VOID(co_await probe.batch(tokens));
    CO_TRY_VOID(co_await probe.decode(tokens[last], last));
    CO_TRY_VOID(co_await probe.count(tokens[last], last));
    co_return std::move(probe.values);
  }

  static Task<void> answer(uint32_t call, uint32_t source, std::vector<uint32_t> tokens) {
    complete_call(call, co_await walk(call, source, std::move(tokens)));
  }
};

}  // namespace lapidary::model

// Emits {name, at, count} of each tensor, and what `count` says; the result is their floats.
extern "C" __attribute__((export_name("decoder_probe"))) void decoder_probe(uint32_t call,
                                                                            uint32_t source,
                                                                            const uint32_t* tokens,
                                                                            uint32_t bytes) {
  lapidary::spawn(lapidary::model::DecoderProbe::answer(
      call, source, {tokens, tokens + bytes / sizeof(uint32_t)}));
}
