#include "engine/adapter/safetensors.h"

#include <algorithm>

#include "engine/base/json.h"
#include "engine/base/text.h"

namespace lapidary::adapter {
namespace {

struct DtypeInfo {
  std::string_view name;
  uint32_t bits;
};
constexpr DtypeInfo kDtypes[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
};

std::unexpected<Error> invalid(const std::string& message) {
  return fail(ErrorCode::kInvalidFormat, cat("safetensors: ", message));
}

struct Entry {
  SafetensorsEntry tensor;
  std::vector<uint64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Takes the header's JSON event by event. A tree would look up every key among all others while it
// grows, and would drop a name that comes twice; here the time is linear and names are compared
// afterwards.
class HeaderHandler {
 public:
  std::vector<Entry> entries;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::string fault;
  ErrorCode code = ErrorCode::kInvalidFormat;

  // The events of nlohmann's SAX interface; false ends the parse.
  bool null() { return refuse("a null"); }
  bool boolean(bool) { return refuse("a boolean"); }
  bool number_integer(int64_t) { return refuse("a negative number"); }
  bool number_float(double, const std::string&) { return refuse("a number that is not whole"); }
  bool binary(Json::binary_t&) { return refuse("binary data"); }

  bool number_unsigned(uint64_t value) {
    if (place_ == Place::kShape) {
      std::vector<uint64_t>& shape = entries.back().tensor.shape;
      if (shape.size() == kMaxSafetensorsDims) {
        return stop(cat(where(), " has over ", kMaxSafetensorsDims, " dimensions"),
                    ErrorCode::kUnsupported);
      }
      shape.push_back(value);
      return true;
    }
    if (place_ == Place::kOffsets && entries.back().offsets.size() < 2) {
      entries.back().offsets.push_back(value);
      return true;
    }
    return refuse("a number");
  }

  bool string(std::string& value) {
    if (place_ == Place::kMetadata) {
      metadata.emplace_back(std::move(key_), std::move(value));
      return true;
    }
    if (place_ == Place::kTensor && key_ == "dtype") {
      entries.back().tensor.dtype = std::move(value);
      return true;
    }
    return refuse("a string");
  }

  bool start_object(size_t) {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
      return true;
    }
    if (place_ != Place::kTop) return refuse("an object");
    if (key_ == "__metadata__") {
      if (seen_metadata_) return stop("'__metadata__' is there twice");
      seen_metadata_ = true;
      place_ = Place::kMetadata;
      return true;
    }
    if (entries.size() == kMaxSafetensorsTensors) {
      return stop(cat("over ", kMaxSafetensorsTensors, " tensors"), ErrorCode::kUnsupported);
    }
    if (key_.empty() || key_.size() > kMaxSafetensorsNameBytes) {
      return stop(
          cat("a tensor's name has ", key_.size(), " bytes, not 1 to ", kMaxSafetensorsNameBytes));
    }
    entries.emplace_back().tensor.name = std::move(key_);
    place_ = Place::kTensor;
    return true;
  }

  bool key(std::string& name) {
    key_ = std::move(name);
    if (place_ != Place::kTensor) return true;
    Entry& entry = entries.back();
    bool* seen = key_ == "dtype"          ? &entry.has_dtype
                 : key_ == "shape"        ? &entry.has_shape
                 : key_ == "data_offsets" ? &entry.has_offsets
                                          : nullptr;
    if (!seen) return stop(cat(where(), " has an unknown member '", printable(key_), "'"));
    if (*seen) return stop(cat(where(), " has '", key_, "' twice"));
    *seen = true;
    return true;
  }

  bool end_object() {
    if (place_ == Place::kTensor) {
      const Entry& entry = entries.back();
      const std::string_view missing = !entry.has_dtype     ? "dtype"
                                       : !entry.has_shape   ? "shape"
                                       : !entry.has_offsets ? "data_offsets"
                                                            : "";
      if (!missing.empty()) return stop(cat(where(), " has no '", missing, "'"));
    }
    place_ = place_ == Place::kTop ? Place::kEnd : Place::kTop;
    return true;
  }

  bool start_array(size_t) {
    if (place_ == Place::kTensor && key_ == "shape") {
      place_ = Place::kShape;
      return true;
    }
    if (place_ == Place::kTensor && key_ == "data_offsets") {
      place_ = Place::kOffsets;
      return true;
    }
    return refuse("an array");
  }

  bool end_array() {
    if (place_ == Place::kOffsets && entries.back().offsets.size() != 2) {
      return stop(cat(where(), ": 'data_offsets' is not two numbers"));
    }
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) {
    return stop("the header is not valid JSON");
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool stop(std::string message, ErrorCode error = ErrorCode::kInvalidFormat) {
    fault = std::move(message);
    code = error;
    return false;
  }
  bool refuse(std::string_view what) { return stop(cat(where(), ": ", what, " out of place")); }

  std::string where() const {
    switch (place_) {
      case Place::kStart:
      case Place::kEnd:
        return "the header";
      case Place::kTop:
        return cat("'", printable(key_), "'");
      case Place::kMetadata:
        return "'__metadata__'";
      default:
        return cat("tensor '", printable(entries.back().tensor.name, 128), "'");
    }
  }

  Place place_ = Place::kStart;
  std::string key_;
  bool seen_metadata_ = false;
};

// A name that occurs twice, or "".
std::string_view duplicate(std::vector<std::string_view> names) {
  std::ranges::sort(names);
  const auto twice = std::ranges::adjacent_find(names);
  return twice == names.end() ? std::string_view() : *twice;
}

// Bytes of a tensor; kInvalidFormat if they overflow or end within a byte.
Result<uint64_t> tensor_size(const SafetensorsEntry& tensor, std::string_view where) {
  const auto* info = std::ranges::find(kDtypes, tensor.dtype, &DtypeInfo::name);
  if (info == std::end(kDtypes)) {
    return fail(ErrorCode::kUnsupported, cat("safetensors: ", where, " is of unknown dtype '",
                                             printable(tensor.dtype), "'"));
  }
  // Zero makes the product zero whatever the other dimensions are, so it is looked for first: the
  // order of dimensions must not decide whether they overflow.
  if (std::ranges::contains(tensor.shape, 0u)) return 0;
  uint64_t bits = info->bits;
  for (const uint64_t dim : tensor.shape) {
    const auto product = checked_mul(bits, dim);
    if (!product) return invalid(cat(where, " has a shape whose size overflows"));
    bits = *product;
  }
  if (bits % 8 != 0) return invalid(cat(where, " does not fill whole bytes"));
  return bits / 8;
}

}  // namespace

const std::string* Safetensors::find_metadata(std::string_view key) const {
  for (const auto& [name, value] : metadata) {
    if (name == key) return &value;
  }
  return nullptr;
}

Result<Safetensors> parse_safetensors(Bytes file) {
  constexpr size_t kLengthBytes = 8;
  if (file.size() < kLengthBytes) {
    return fail(ErrorCode::kTruncated,
                cat("safetensors: the file has ", file.size(), " bytes, fewer than its length"));
  }
  const auto length = load<uint64_t>(file, 0);
  if (length > kMaxSafetensorsHeaderBytes) {
    return fail(ErrorCode::kUnsupported,
                cat("safetensors: a header of ", length, " bytes; at most ",
                    kMaxSafetensorsHeaderBytes, " are read"));
  }
  if (length > file.size() - kLengthBytes) {
    return fail(ErrorCode::kTruncated, cat("safetensors: the header has ", length,
                                           " bytes, but the file ends after ", file.size()));
  }
  const Bytes header = file.subspan(kLengthBytes, static_cast<size_t>(length));
  const Bytes data = file.subspan(kLengthBytes + static_cast<size_t>(length));
  const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  if (!text.starts_with('{')) return invalid("the header does not begin with '{'");

  HeaderHandler handler;
  if (!Json::sax_parse(text, &handler)) {
    return fail(handler.code, cat("safetensors: ", handler.fault));
  }
  std::vector<std::string_view> names;
  for (const auto& [name, value] : handler.metadata) names.push_back(name);
  if (const std::string_view twice = duplicate(std::move(names)); !twice.empty()) {
    return invalid(cat("'__metadata__' has '", printable(twice), "' twice"));
  }
  names.clear();
  for (const Entry& entry : handler.entries) names.push_back(entry.tensor.name);
  if (const std::string_view twice = duplicate(std::move(names)); !twice.empty()) {
    return invalid(cat("tensor '", printable(twice, 128), "' is there twice"));
  }

  // In the order of their bytes each tensor begins where the one before ends: the format allows no
  // holes, and overlaps show as well.
  std::ranges::sort(handler.entries, {}, &Entry::offsets);
  uint64_t end = 0;
  Safetensors out;
  out.metadata = std::move(handler.metadata);
  out.tensors.reserve(handler.entries.size());
  for (Entry& entry : handler.entries) {
    const std::string where = cat("tensor '", printable(entry.tensor.name, 128), "'");
    TRY(const uint64_t bytes, tensor_size(entry.tensor, where));
    if (entry.offsets[1] < entry.offsets[0] || entry.offsets[1] - entry.offsets[0] != bytes) {
      return invalid(cat(where, " has ", bytes, " bytes by its shape, but offsets ",
                         entry.offsets[0], " to ", entry.offsets[1]));
    }
    if (entry.offsets[0] < end) return invalid(cat(where, " overlaps another"));
    if (entry.offsets[0] > end) return invalid(cat("unnamed bytes lie before ", where));
    end = entry.offsets[1];
    if (end > data.size()) {
      return fail(ErrorCode::kTruncated, cat("safetensors: ", where, " ends at ", end,
                                             ", but there are ", data.size(), " bytes of data"));
    }
    entry.tensor.data =
        data.subspan(static_cast<size_t>(entry.offsets[0]), static_cast<size_t>(bytes));
    out.tensors.push_back(std::move(entry.tensor));
  }
  if (end != data.size()) return invalid("unnamed bytes lie behind the last tensor");
  return out;
}

Result<std::vector<float>> to_floats(const SafetensorsEntry& tensor) {
  std::vector<float> out;
  if (tensor.dtype == "F32") {
    out.resize(tensor.data.size() / sizeof(float));
    if (!out.empty()) std::memcpy(out.data(), tensor.data.data(), tensor.data.size());
    return out;
  }
  if (tensor.dtype != "F16" && tensor.dtype != "BF16") {
    return fail(ErrorCode::kUnsupported,
                cat("tensor '", printable(tensor.name, 128), "' is of dtype ", tensor.dtype,
                    ", expected F32, F16 or BF16"));
  }
  out.resize(tensor.data.size() / sizeof(uint16_t));
  for (size_t i = 0; i < out.size(); ++i) {
    const auto bits = load<uint16_t>(tensor.data, i * sizeof(uint16_t));
    out[i] = tensor.dtype == "F16" ? half_to_float(bits) : bf16_to_float(bits);
  }
  return out;
}

Result<std::vector<std::byte>> write_safetensors(
    std::span<const SafetensorsOutput> tensors,
    std::span<const std::pair<std::string, std::string>> metadata) {
  std::vector<std::string_view> names;
  for (const SafetensorsOutput& tensor : tensors) names.push_back(tensor.name);
  if (const std::string_view twice = duplicate(std::move(names)); !twice.empty()) {
    return fail(ErrorCode::kInvalidArgument, cat("tensor '", printable(twice), "' is there twice"));
  }
  // Written piece by piece: an object with thousands of keys grows in quadratic time.
  const auto quoted = [](std::string_view text) { return dump_json(Json(std::string(text))); };
  std::string header = "{";
  const auto begin_member = [&](std::string_view name) {
    if (header.size() > 1) header += ",";
    header += cat(quoted(name), ":");
  };
  if (!metadata.empty()) {
    Json object = Json::object();
    for (const auto& [key, value] : metadata) object[key] = value;
    begin_member("__metadata__");
    header += dump_json(object);
  }
  uint64_t offset = 0;
  for (const SafetensorsOutput& tensor : tensors) {
    uint64_t elements = 1;
    for (const uint64_t dim : tensor.shape) elements = checked_mul(elements, dim).value_or(0);
    if (elements != tensor.values.size()) {
      return fail(ErrorCode::kInvalidArgument,
                  cat("tensor '", printable(tensor.name), "' has ", tensor.values.size(),
                      " values, not ", elements));
    }
    const uint64_t end = offset + tensor.values.size_bytes();
    begin_member(tensor.name);
    header +=
        dump_json(Json{{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}});
    offset = end;
  }
  header += "}";
  header.resize(static_cast<size_t>(round_up(header.size(), 8)), ' ');  // aligns the data

  std::vector<std::byte> out;
  out.reserve(static_cast<size_t>(8 + header.size() + offset));
  const auto put = [&](Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); };
  const uint64_t length = header.size();
  put(std::as_bytes(std::span(&length, 1)));
  put(std::as_bytes(std::span(header)));
  for (const SafetensorsOutput& tensor : tensors) put(std::as_bytes(tensor.values));
  return out;
}

}  // namespace lapidary::adapter
