#include "engine/gguf/header_parser.h"

#include <algorithm>
#include <limits>

#include "engine/base/text.h"

namespace lapidary::gguf {
namespace {

constexpr uint64_t kFirstRead = 1 << 20;  // holds the whole header of a small model
constexpr uint64_t kLargestRead =
    4 << 20;  // a 20 MB header takes seven reads, at most 4 MB of them in vain
constexpr uint64_t kSmallestKeyValue =
    8 + 1 + 4 + 1;  // length, key of one byte, type, value of one byte
constexpr uint64_t kSmallestTensor = 8 + 1 + 4 + 4 + 8;  // length, name, no dims, type, offset
constexpr uint64_t kPreambleBytes = 24;

std::unexpected<Error> malformed(std::string message) {
  return fail(ErrorCode::kInvalidFormat, std::move(message));
}

}  // namespace

size_t HeaderParser::wanted() const {
  if (done() || !failure_) return 0;
  const uint64_t have = received();
  const uint64_t minimum = needed_ > have ? needed_ - have : 0;
  const uint64_t generous = std::clamp(have, kFirstRead, kLargestRead);
  return static_cast<size_t>(std::min(std::max(minimum, generous), file_size_ - have));
}

Result<std::span<std::byte>> HeaderParser::prepare(size_t size) {
  const uint64_t have = received();
  if (size > file_size_ - have) {
    return fail(ErrorCode::kInvalidArgument, cat("a read of ", size, " bytes at ", have,
                                                 " goes past the end of a file of ", file_size_));
  }
  // Many small reads must not each move the buffer, so small buffers grow by half again.
  const uint64_t spare = std::min(have / 2, kFirstRead);
  const uint64_t capacity = have + std::max<uint64_t>(size, spare);
  if (capacity > std::numeric_limits<size_t>::max() / 2 ||
      !bytes_.reserve(static_cast<size_t>(capacity))) {
    return fail(ErrorCode::kOutOfMemory,
                cat("no memory for the ", have + size, " bytes of the model file's header"));
  }
  return bytes_.room().first(size);
}

Status HeaderParser::commit(size_t size) {
  if (!failure_) return failure_;
  if (size > bytes_.room().size() || size > file_size_ - received()) {
    return fail(ErrorCode::kInvalidArgument, "more bytes committed than were prepared");
  }
  bytes_.set_size(bytes_.size() + size);
  // The second condition lets a file too short for its preamble report so without any byte
  // received.
  while (!done() && (received() >= needed_ || needed_ > file_size_)) {
    const auto progress = step();
    if (!progress) {
      failure_ = std::unexpected(progress.error());
      return failure_;
    }
    if (!*progress) break;
  }
  return {};
}

Status HeaderParser::feed(Bytes bytes) {
  TRY(const std::span<std::byte> room, prepare(bytes.size()));
  if (!bytes.empty()) std::memcpy(room.data(), bytes.data(), bytes.size());
  return commit(bytes.size());
}

Result<bool> HeaderParser::step() {
  switch (stage_) {
    case Stage::kPreamble:
      return parse_preamble();
    case Stage::kKeyValues:
      if (key_values_.size() < n_key_values_) return parse_key_value();
      TRY_VOID(end_key_values());
      stage_ = Stage::kTensors;
      return true;
    case Stage::kStrings:
      return parse_strings();
    case Stage::kTensors:
      if (tensors_.size() < n_tensors_) return parse_tensor();
      TRY_VOID(end_tensors());
      stage_ = Stage::kDone;
      return true;
    case Stage::kDone:
      break;
  }
  return false;
}

std::string HeaderParser::where() const {
  switch (stage_) {
    case Stage::kPreamble:
      return "the first 24 bytes";
    case Stage::kKeyValues:
      return cat("metadata entry ", key_values_.size() + 1, " of ", n_key_values_);
    case Stage::kStrings:
      return cat("the strings of metadata key '", printable(text(strings_.key)), "'");
    default:
      return cat("tensor entry ", tensors_.size() + 1, " of ", n_tensors_);
  }
}

Result<bool> HeaderParser::available(uint64_t end) {
  if (end > file_size_) {
    return fail(ErrorCode::kTruncated,
                cat("the file ends inside its header, in ", where(), ": that needs ", end,
                    " bytes, the file has ", file_size_, "; fetch it again"));
  }
  if (end > kMaxHeaderBytes) {
    return fail(ErrorCode::kUnsupported,
                cat("the header is larger than ", kMaxHeaderBytes, " bytes, in ", where()));
  }
  if (end <= received()) return true;
  needed_ = end;
  return false;
}

#define NEED(end)                             \
  do {                                        \
    TRY(const bool is_there, available(end)); \
    if (!is_there) return false;              \
  } while (false)

Result<bool> HeaderParser::parse_preamble() {
  if (file_size_ == 0) return fail(ErrorCode::kTruncated, "the model file is empty");
  NEED(4);
  if (text({0, 4}) != "GGUF") {
    return malformed(cat("not a GGUF file: it starts with '", printable(text({0, 4})), "'"));
  }
  NEED(8);
  version_ = at<uint32_t>(4);
  if (version_ != 0 && (version_ & 0xFFFF) == 0) {
    return fail(ErrorCode::kUnsupported,
                "a big-endian GGUF file; convert it to little-endian (gguf_convert_endian)");
  }
  if (version_ == 1) {
    return fail(ErrorCode::kUnsupported, "GGUF version 1 is obsolete; get a newer file");
  }
  if (version_ != 2 && version_ != 3) {
    return fail(ErrorCode::kUnsupported,
                cat("GGUF version ", version_, " is not known; 2 and 3 are"));
  }
  NEED(kPreambleBytes);
  n_tensors_ = at<uint64_t>(8);
  n_key_values_ = at<uint64_t>(16);
  const uint64_t rest = file_size_ - kPreambleBytes;
  if (n_tensors_ > kMaxTensors || n_tensors_ > rest / kSmallestTensor) {
    return malformed(cat("the header claims ", n_tensors_, " tensors; a file of ", file_size_,
                         " bytes holds at most ", std::min(kMaxTensors, rest / kSmallestTensor)));
  }
  if (n_key_values_ > kMaxKeyValues || n_key_values_ > rest / kSmallestKeyValue) {
    return malformed(cat("the header claims ", n_key_values_, " metadata entries; a file of ",
                         file_size_, " bytes holds at most ",
                         std::min(kMaxKeyValues, rest / kSmallestKeyValue)));
  }
  position_ = kPreambleBytes;
  stage_ = Stage::kKeyValues;
  return true;
}

Result<bool> HeaderParser::parse_string(uint64_t& offset, uint64_t max_size, std::string_view what,
                                        Range& string) {
  NEED(offset + 8);
  const auto size = at<uint64_t>(offset);
  if (size > max_size) {
    return malformed(
        cat(what, " in ", where(), " claims ", size, " bytes; at most ", max_size, " are allowed"));
  }
  NEED(offset + 8 + size);
  string = {static_cast<size_t>(offset + 8), static_cast<size_t>(size)};
  offset += 8 + size;
  return true;
}

#define NEED_STRING(offset, max_size, what, string)                                 \
  do {                                                                              \
    TRY(const bool is_there, parse_string((offset), (max_size), (what), (string))); \
    if (!is_there) return false;                                                    \
  } while (false)

Result<bool> HeaderParser::parse_key_value() {
  uint64_t offset = position_;
  KeyValueRef ref;
  NEED_STRING(offset, kMaxKeyBytes, "the key", ref.key);
  if (ref.key.size == 0) return malformed(cat("the key of ", where(), " is empty"));
  NEED(offset + 4);
  const auto type = at<uint32_t>(offset);
  if (type >= kValueTypes) {
    return malformed(
        cat("metadata key '", printable(text(ref.key)), "' has the unknown value type ", type));
  }
  ref.type = static_cast<ValueType>(type);
  offset += 4;
  if (ref.type == ValueType::kArray) return parse_array(offset, ref);
  if (ref.type == ValueType::kString) {
    NEED_STRING(offset, kMaxStringBytes, "the string", ref.value);
  } else {
    const size_t size = value_type_bytes(ref.type);
    NEED(offset + size);
    ref.value = {static_cast<size_t>(offset), size};
    offset += size;
  }
  key_values_.push_back(ref);
  position_ = offset;
  return true;
}

Result<bool> HeaderParser::parse_array(uint64_t offset, KeyValueRef& ref) {
  NEED(offset + 12);
  const auto type = at<uint32_t>(offset);
  const auto count = at<uint64_t>(offset + 4);
  offset += 12;
  if (type == static_cast<uint32_t>(ValueType::kArray)) {
    return fail(ErrorCode::kUnsupported, cat("metadata key '", printable(text(ref.key)),
                                             "' is an array of arrays, which no model needs"));
  }
  if (type >= kValueTypes) {
    return malformed(cat("metadata key '", printable(text(ref.key)),
                         "' is an array of the unknown element type ", type));
  }
  if (count > kMaxArrayElements) {
    return malformed(cat("metadata key '", printable(text(ref.key)), "' claims an array of ", count,
                         " elements; at most ", kMaxArrayElements, " are allowed"));
  }
  ref.element_type = static_cast<ValueType>(type);
  ref.count = static_cast<size_t>(count);
  if (ref.element_type == ValueType::kString) {
    ref.value.offset = static_cast<size_t>(offset);
    strings_ = ref;
    strings_left_ = count;
    position_ = offset;
    stage_ = Stage::kStrings;
    return true;
  }
  const uint64_t size = count * value_type_bytes(ref.element_type);
  NEED(offset + size);
  ref.value = {static_cast<size_t>(offset), static_cast<size_t>(size)};
  key_values_.push_back(ref);
  position_ = offset + size;
  return true;
}

// As many strings as are there. Each takes at least its length field, so an array's count bounds
// from below what the file must hold: a false count is refused at once, and the next read can be
// large.
Result<bool> HeaderParser::parse_strings() {
  while (strings_left_ > 0) {
    const uint64_t others = 8 * (strings_left_ - 1);
    uint64_t end = position_ + 8;
    TRY(bool all_there, available(end + others));
    if (!all_there && end > received()) return false;
    const auto size = at<uint64_t>(position_);
    if (size > kMaxStringBytes) {
      return malformed(cat("a string in ", where(), " claims ", size, " bytes; at most ",
                           kMaxStringBytes, " are allowed"));
    }
    end += size;
    TRY(all_there, available(end + others));
    if (!all_there && end > received()) return false;
    position_ = end;
    --strings_left_;
  }
  strings_.value.size = static_cast<size_t>(position_) - strings_.value.offset;
  key_values_.push_back(strings_);
  stage_ = Stage::kKeyValues;
  return true;
}

Value HeaderParser::value(const KeyValueRef& ref) const {
  return Value(ref.type, bytes_.view().subspan(ref.value.offset, ref.value.size), ref.element_type,
               ref.count);
}

const HeaderParser::KeyValueRef* HeaderParser::find(std::string_view key) const {
  const auto it = std::ranges::lower_bound(key_value_order_, key, {},
                                           [&](uint32_t i) { return text(key_values_[i].key); });
  if (it == key_value_order_.end() || text(key_values_[*it].key) != key) return nullptr;
  return &key_values_[*it];
}

Status HeaderParser::end_key_values() {
  const auto key = [&](uint32_t i) { return text(key_values_[i].key); };
  key_value_order_.resize(key_values_.size());
  for (uint32_t i = 0; i < key_value_order_.size(); ++i) key_value_order_[i] = i;
  std::ranges::sort(key_value_order_, {}, key);
  const auto twice = std::ranges::adjacent_find(key_value_order_, {}, key);
  if (twice != key_value_order_.end()) {
    return malformed(cat("metadata key '", printable(key(*twice)), "' occurs twice"));
  }
  if (const KeyValueRef* ref = find("general.alignment")) {
    if (ref->type != ValueType::kUint32) {
      return malformed(
          cat("general.alignment is of type ", value_type_name(ref->type), ", not u32"));
    }
    alignment_ = static_cast<uint32_t>(*value(*ref).as_uint());
    if (!std::has_single_bit(alignment_)) {
      return malformed(cat("general.alignment is ", alignment_, ", not a power of two"));
    }
  }
  if (const KeyValueRef* ref = find("split.count")) {
    const auto count = value(*ref).as_uint();
    if (!count || *count > 1) {
      const KeyValueRef* number = find("split.no");
      const auto part = number ? value(*number).as_uint() : std::nullopt;
      return fail(ErrorCode::kUnsupported,
                  cat("the file is ", part ? cat("part ", *part + 1) : "one part",
                      " of a model split in ", count ? cat(*count) : "several",
                      " parts; merge them into one file first (llama-gguf-split --merge)"));
    }
  }
  return {};
}

Result<bool> HeaderParser::parse_tensor() {
  uint64_t offset = position_;
  TensorRef ref;
  NEED_STRING(offset, kMaxTensorNameBytes, "the name", ref.name);
  if (ref.name.size == 0) return malformed(cat("the name of ", where(), " is empty"));
  NEED(offset + 4);
  const std::string_view name = text(ref.name);
  TensorInfo& info = ref.info;
  info.n_dims = at<uint32_t>(offset);
  if (info.n_dims > info.dims.size()) {
    return malformed(cat("tensor '", printable(name), "' claims ", info.n_dims,
                         " dimensions; at most ", info.dims.size(), " are allowed"));
  }
  offset += 4;
  NEED(offset + 8 * info.n_dims + 12);
  for (uint32_t d = 0; d < info.dims.size(); ++d) {
    info.dims[d] = d < info.n_dims ? at<uint64_t>(offset + 8 * d) : 1;
  }
  offset += 8 * info.n_dims;
  const auto type = at<uint32_t>(offset);
  if (!tensor_type_info(type)) {
    return fail(ErrorCode::kUnsupported,
                cat("tensor '", printable(name), "' has the unknown type ", type));
  }
  info.type = static_cast<TensorType>(type);
  info.offset = at<uint64_t>(offset + 4);
  TRY_VOID(check_tensor(info, name));
  tensors_.push_back(ref);
  position_ = offset + 12;
  return true;
}

// Everything about a tensor that can be said before the start of the data section is known.
Status HeaderParser::check_tensor(TensorInfo& info, std::string_view name) {
  const auto bad = [&](const auto&... parts) {
    return malformed(cat("tensor '", printable(name), "' ", parts...));
  };
  uint64_t elements = 1;
  for (const uint64_t dim : info.dims) {
    if (dim == 0) return bad("has a dimension of 0");
    if (dim > uint64_t{std::numeric_limits<int64_t>::max()}) {
      return bad("has a dimension of ", dim, ", a negative number");
    }
    const auto product = checked_mul(elements, dim);
    if (!product || *product > uint64_t{std::numeric_limits<int64_t>::max()}) {
      return bad("has more elements than 63 bits can count");
    }
    elements = *product;
  }
  const TensorTypeInfo& type = tensor_type_info(info.type);
  if (info.dims[0] % type.block_elements != 0) {
    return bad("has rows of ", info.dims[0], " elements, which are not a whole number of ",
               type.name, " blocks of ", type.block_elements);
  }
  const auto bytes = tensor_bytes(info.type, elements);
  if (!bytes) return bad("is too large: ", bytes.error().message);
  info.bytes = *bytes;
  if (info.offset % alignment_ != 0) {
    return bad("begins at offset ", info.offset, ", which is not a multiple of the alignment ",
               alignment_);
  }
  const auto end = checked_add(info.offset, info.bytes);
  if (!end) {
    return bad("of ", info.bytes, " bytes at offset ", info.offset, " overflows 64 bits");
  }
  if (info.offset >= file_size_) {
    return bad("begins at offset ", info.offset, ", past the end of a file of ", file_size_,
               " bytes");
  }
  return {};
}

Status HeaderParser::end_tensors() {
  const auto name = [&](uint32_t i) { return text(tensors_[i].name); };
  tensor_order_.resize(tensors_.size());
  for (uint32_t i = 0; i < tensor_order_.size(); ++i) tensor_order_[i] = i;
  std::ranges::sort(tensor_order_, {}, name);
  const auto twice = std::ranges::adjacent_find(tensor_order_, {}, name);
  if (twice != tensor_order_.end()) {
    return malformed(cat("tensor name '", printable(name(*twice)), "' occurs twice"));
  }
  data_offset_ = round_up(position_, alignment_);
  if (!tensors_.empty() && data_offset_ > file_size_) {
    return fail(ErrorCode::kTruncated, cat("the data section would begin at byte ", data_offset_,
                                           ", but the file has only ", file_size_));
  }
  for (const TensorRef& ref : tensors_) {
    // Nothing overflows: offset + bytes was checked, and both sides of the comparison are
    // differences.
    const uint64_t end = ref.info.offset + ref.info.bytes;
    if (end > file_size_ - data_offset_) {
      return fail(ErrorCode::kTruncated,
                  cat("the data of tensor '", printable(text(ref.name)), "' ends ",
                      end - (file_size_ - data_offset_), " bytes past the end of the file (",
                      file_size_, " bytes); fetch it again"));
    }
  }
  return {};
}

Result<Header> HeaderParser::finish() && {
  TRY_VOID(Status(failure_));
  if (!done()) {
    return fail(ErrorCode::kTruncated, cat("only ", received(), " bytes of the header were read; ",
                                           needed_, " are needed at least"));
  }
  bytes_.shrink(static_cast<size_t>(position_));
  Header header;
  header.version_ = version_;
  header.alignment_ = alignment_;
  header.data_offset_ = data_offset_;
  header.file_size_ = file_size_;
  header.metadata_.reserve(key_values_.size());
  for (const KeyValueRef& ref : key_values_) {
    header.metadata_.push_back({text(ref.key), value(ref)});
  }
  header.tensors_.reserve(tensors_.size());
  for (const TensorRef& ref : tensors_) {
    TensorInfo& info = header.tensors_.emplace_back(ref.info);
    info.name = text(ref.name);
    info.offset += data_offset_;
  }
  header.metadata_order_ = std::move(key_value_order_);
  header.tensor_order_ = std::move(tensor_order_);
  header.bytes_ = std::move(bytes_);
  return header;
}

Result<Header> parse_header(Bytes file) {
  HeaderParser parser(file.size());
  while (!parser.done()) {
    TRY_VOID(parser.feed(file.subspan(static_cast<size_t>(parser.received()), parser.wanted())));
  }
  return std::move(parser).finish();
}

}  // namespace lapidary::gguf
