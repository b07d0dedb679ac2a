// Any bytes as an adapter of each kind: no crash, and what is accepted comes back the same from
// every kind of file that we write. The input is a file of the kind that its first byte chooses;
// for PEFT it is the config up to a zero byte, then the safetensors file.
#include <cstdio>
#include <cstdlib>

#include "engine/adapter/gguf_lora.h"
#include "engine/adapter/peft.h"
#include "engine/adapter/rullama.h"
#include "engine/adapter/safetensors.h"

namespace lapidary::adapter {
namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "adapter_fuzz: %s\n", what);
  std::abort();
}

void check_safetensors(Bytes bytes) {
  const auto file = parse_safetensors(bytes);
  if (!file) return;
  size_t total = 0;
  for (const SafetensorsEntry& tensor : file->tensors) {
    total += tensor.data.size();
    if (const auto values = to_floats(tensor)) {
      require(tensor.data.size() % values->size() == 0 || values->empty(), "values");
    }
  }
  require(total <= bytes.size(), "tensors larger than the file");
}

void check_adapter(const Result<LoraAdapter>& adapter) {
  if (!adapter) return;
  require(check(*adapter).has_value(), "an unsound adapter was accepted");
  for (const PeftNames names : {PeftNames::kText, PeftNames::kMultimodal}) {
    const auto files = write_peft(*adapter, names);
    require(files.has_value(), "writing PEFT");
    const auto again = read_peft(files->model, files->config);
    require(again.has_value(), "reading PEFT back");
    require(again->modules == adapter->modules, "PEFT differs");
  }
  const auto gguf = write_gguf_lora(*adapter);
  if (!gguf) return;  // alphas so far apart that a folded B overflows
  const auto again = read_gguf_lora(*gguf);
  if (again) require(again->modules.size() == adapter->modules.size(), "GGUF differs");
}

}  // namespace
}  // namespace lapidary::adapter

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lapidary;
  using namespace lapidary::adapter;
  if (size == 0) return 0;
  const Bytes bytes = std::as_bytes(std::span(data, size)).subspan(1);
  switch (data[0]) {
    case 's':
      check_safetensors(bytes);
      break;
    case 'g':
      check_adapter(read_gguf_lora(bytes));
      break;
    case 'r':
      check_adapter(read_rullama(bytes));
      break;
    default: {
      const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      const size_t end = text.find('\0');
      if (end == std::string_view::npos) break;
      check_adapter(read_peft(bytes.subspan(end + 1), text.substr(0, end)));
    }
  }
  return 0;
}
