// The reference model for tests in TypeScript: logits of a whole file after the last of some
// tokens.
#include <cstddef>
#include <string>
#include <vector>

#include "engine/gguf/header_parser.h"
#include "engine/gpu/host.h"
#include "engine/reference/model.h"

namespace lapidary {
namespace {

Result<std::vector<float>> last_logits(Bytes file, std::span<const uint32_t> tokens) {
  TRY(const gguf::Header header, gguf::parse_header(file));
  TRY(const reference::ReferenceModel model, reference::ReferenceModel::load(header, file));
  const std::vector<uint32_t> rows = {static_cast<uint32_t>(tokens.size() - 1)};
  return model.forward(tokens, {.logit_rows = rows});
}

}  // namespace
}  // namespace lapidary

// The result is f32 [vocab].
extern "C" __attribute__((export_name("reference_logits"))) void reference_logits(
    uint32_t call, const std::byte* file, uint32_t file_bytes, const uint32_t* tokens,
    uint32_t token_bytes) {
  const auto logits =
      lapidary::last_logits({file, file_bytes}, {tokens, token_bytes / sizeof(uint32_t)});
  if (logits) {
    lapidary::gpu::host_complete(call, 0, reinterpret_cast<const char*>(logits->data()),
                                 static_cast<uint32_t>(logits->size() * sizeof(float)));
  } else {
    const std::string& message = logits.error().message;
    lapidary::gpu::host_complete(call, static_cast<uint32_t>(logits.error().code), message.data(),
                                 static_cast<uint32_t>(message.size()));
  }
}
