#include "engine/generate/snapshot.h"

#include <gtest/gtest.h>

#include <string>

namespace lapidary::generate {
namespace {

SnapshotBinding binding() {
  return {.model = "sha256:0123",
          .adapters = "ab:1065353216 ",
          .kv_type = kernels::KvType::kF16,
          .context = 512,
          .window = 64,
          .ring_slots = 256,
          .layers = {{true, 128}, {true, 128}, {false, 256}}};
}

ErrorCode refusal(std::string_view text, const SnapshotBinding& fits, uint64_t bytes) {
  const auto parsed = parse_snapshot_header(text, fits, bytes);
  return parsed ? ErrorCode::kOk : parsed.error().code;
}

TEST(Snapshot, WhatIsWrittenIsRead) {
  const SnapshotBinding fits = binding();
  for (const Snapshot snapshot : {Snapshot{1, 0}, Snapshot{64, 0}, Snapshot{64, 1},
                                  Snapshot{300, 237}, Snapshot{300, 44}, Snapshot{512, 448}}) {
    const uint64_t bytes = snapshot_bytes(fits, snapshot);
    EXPECT_EQ(bytes, 4 * snapshot.tokens + 4 * 128 * (snapshot.tokens - snapshot.floor) +
                         2 * 256 * snapshot.tokens);
    const auto read = parse_snapshot_header(write_snapshot_header(fits, snapshot), fits, bytes);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->tokens, snapshot.tokens);
    EXPECT_EQ(read->floor, snapshot.floor);
  }
}

TEST(Snapshot, WithoutSlidingLayersAllRowsAreThere) {
  SnapshotBinding fits = binding();
  fits.window = 0;
  fits.layers = {{false, 128}};
  const auto code = [&](Snapshot snapshot) {
    return refusal(write_snapshot_header(fits, snapshot), fits, snapshot_bytes(fits, snapshot));
  };
  EXPECT_EQ(code({100, 0}), ErrorCode::kOk);
  EXPECT_EQ(code({100, 1}), ErrorCode::kInvalidFormat);
}

TEST(Snapshot, WhatCannotBeIsRefused) {
  const SnapshotBinding fits = binding();
  const auto code = [&](Snapshot snapshot) {
    return refusal(write_snapshot_header(fits, snapshot), fits, snapshot_bytes(fits, snapshot));
  };
  EXPECT_EQ(code({0, 0}), ErrorCode::kInvalidFormat);      // nothing
  EXPECT_EQ(code({513, 449}), ErrorCode::kInvalidFormat);  // more than the context
  EXPECT_EQ(code({300, 238}), ErrorCode::kInvalidFormat);  // less than the window
  EXPECT_EQ(code({300, 43}), ErrorCode::kInvalidFormat);   // more than the ring
  const Snapshot good{300, 237};
  const std::string text = write_snapshot_header(fits, good);
  const uint64_t bytes = snapshot_bytes(fits, good);
  EXPECT_EQ(refusal(text, fits, bytes - 1), ErrorCode::kInvalidFormat);
  EXPECT_EQ(refusal(text, fits, 0), ErrorCode::kInvalidFormat);
  EXPECT_EQ(refusal(text + " ", fits, bytes), ErrorCode::kInvalidFormat);
  EXPECT_EQ(refusal("", fits, bytes), ErrorCode::kInvalidFormat);
  EXPECT_EQ(refusal("[]", fits, bytes), ErrorCode::kInvalidFormat);
  EXPECT_EQ(refusal(std::string(2 << 20, '['), fits, bytes), ErrorCode::kInvalidFormat);
  std::string later = text;
  later.replace(later.find("\"version\":1"), 11, "\"version\":2");
  EXPECT_EQ(refusal(later, fits, bytes), ErrorCode::kUnsupported);
}

TEST(Snapshot, AnotherModelAdapterOrLayoutIsRefused) {
  const Snapshot good{300, 237};
  const std::string text = write_snapshot_header(binding(), good);
  const auto code = [&](auto change) {
    SnapshotBinding other = binding();
    change(other);
    return refusal(text, other, snapshot_bytes(binding(), good));
  };
  EXPECT_EQ(code([](SnapshotBinding&) {}), ErrorCode::kOk);
  EXPECT_EQ(code([](SnapshotBinding& b) { b.model = "sha256:0124"; }), ErrorCode::kIntegrity);
  EXPECT_EQ(code([](SnapshotBinding& b) { b.adapters.clear(); }), ErrorCode::kIntegrity);
  EXPECT_EQ(code([](SnapshotBinding& b) { b.kv_type = kernels::KvType::kF32; }),
            ErrorCode::kIntegrity);
  EXPECT_EQ(code([](SnapshotBinding& b) { b.context = 1024; }), ErrorCode::kIntegrity);
  EXPECT_EQ(code([](SnapshotBinding& b) { b.window = 32; }), ErrorCode::kIntegrity);
  EXPECT_EQ(code([](SnapshotBinding& b) { b.ring_slots = 320; }), ErrorCode::kIntegrity);
  EXPECT_EQ(code([](SnapshotBinding& b) { b.layers.pop_back(); }), ErrorCode::kIntegrity);
  EXPECT_EQ(code([](SnapshotBinding& b) { b.layers[1].sliding = false; }), ErrorCode::kIntegrity);
  EXPECT_EQ(code([](SnapshotBinding& b) { b.layers[2].row_bytes = 512; }), ErrorCode::kIntegrity);
}

// Of the payload the host's checksum says the same.
TEST(Snapshot, EveryCorruptionOfOneByteIsRefused) {
  const SnapshotBinding fits = binding();
  const Snapshot good{300, 237};
  const std::string text = write_snapshot_header(fits, good);
  const uint64_t bytes = snapshot_bytes(fits, good);
  for (size_t at = 0; at < text.size(); ++at) {
    for (int change = 1; change < 256; ++change) {
      std::string damaged = text;
      damaged[at] = static_cast<char>(damaged[at] ^ change);
      ASSERT_NE(refusal(damaged, fits, bytes), ErrorCode::kOk) << damaged;
    }
    ASSERT_NE(refusal(text.substr(0, at), fits, bytes), ErrorCode::kOk);
  }
}

}  // namespace
}  // namespace lapidary::generate
