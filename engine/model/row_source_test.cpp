// RowSource against a host of its own: reads that the test answers, writes that it looks at.
#include "engine/model/row_source.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

namespace {

struct PendingRead {
  double offset;
  void* data;
  uint32_t size;
  uint32_t ticket;
};
std::vector<PendingRead> reads;
std::map<double, std::vector<float>> written;  // by offset

}  // namespace

extern "C" {
void host_gpu_info(lapidary::gpu::GpuInfo* info) { *info = {}; }
void host_buffer_destroy(uint32_t) {}
void host_buffer_write(uint32_t, double offset, const void* data, uint32_t size) {
  std::vector<float> values(size / sizeof(float));
  std::memcpy(values.data(), data, size);
  written[offset] = std::move(values);
}
void host_source_read(uint32_t, double offset, void* data, uint32_t size, uint32_t ticket) {
  reads.push_back({offset, data, size, ticket});
}
}

namespace lapidary::model {
namespace {

constexpr uint32_t kRows = 100, kCols = 2;
constexpr uint64_t kOffset = 1000, kRowBytes = kCols * sizeof(float);

// Row r of the table is {r, -r}.
void answer(const PendingRead& read) {
  const auto row = static_cast<float>((read.offset - kOffset) / kRowBytes);
  const float values[kCols] = {row, -row};
  ASSERT_EQ(read.size, sizeof(values));
  std::memcpy(read.data, values, sizeof(values));
  gpu::HostCallBase::resume(read.ticket, ErrorCode::kOk, "");
}

class RowSourceTest : public testing::Test {
 protected:
  void SetUp() override {
    reads.clear();
    written.clear();
  }

  // Starts a gather; done_ and status_ say how it ended.
  void gather(const std::vector<uint32_t>& tokens) {
    done_ = false;
    spawn([](RowSourceTest& self, std::vector<uint32_t> wanted) -> Task<void> {
      self.status_ = co_await self.rows_.gather(self.device_, wanted, self.out_);
      self.done_ = true;
    }(*this, tokens));
  }

  gpu::Device device_;
  gpu::Buffer out_{7, kRows * kRowBytes};
  RowSource rows_{{.source = 1,
                   .offset = kOffset,
                   .type = gguf::TensorType::kF32,
                   .rows = kRows,
                   .cols = kCols,
                   .row_bytes = kRowBytes},
                  0.5f};
  bool done_ = false;
  Status status_;
};

TEST_F(RowSourceTest, WritesScaledRowsInTheOrderOfTheTokens) {
  gather({6, 2, 6});
  ASSERT_EQ(reads.size(), 2u);  // equal tokens once
  // The host may answer in any order.
  answer(reads[1]);
  EXPECT_FALSE(done_);
  answer(reads[0]);
  ASSERT_TRUE(done_);
  ASSERT_TRUE(status_);
  const std::map<double, std::vector<float>> expected{{0, {3, -3}}, {8, {1, -1}}, {16, {3, -3}}};
  EXPECT_EQ(written, expected);
}

TEST_F(RowSourceTest, ReadsARowOnce) {
  gather({4});
  answer(reads[0]);
  written.clear();
  gather({4, 4});
  EXPECT_TRUE(done_ && status_);
  EXPECT_EQ(reads.size(), 1u);
  const std::map<double, std::vector<float>> expected{{0, {2, -2}}, {8, {2, -2}}};
  EXPECT_EQ(written, expected);
}

TEST_F(RowSourceTest, BoundsTheReadsThatAreUnderWayAndAwaitsThemAfterAFailure) {
  std::vector<uint32_t> tokens(kRows);
  for (uint32_t i = 0; i < kRows; ++i) tokens[i] = i;
  gather(tokens);
  const size_t at_once = reads.size();
  ASSERT_GT(at_once, 1u);
  ASSERT_LT(at_once, kRows);
  answer(reads[0]);
  ASSERT_EQ(reads.size(), at_once + 1);
  gpu::HostCallBase::resume(reads[1].ticket, ErrorCode::kIo, "unplugged");
  // No more is read; what the host still writes to is kept until it has been written.
  ASSERT_EQ(reads.size(), at_once + 1);
  for (size_t i = 2; i < reads.size(); ++i) {
    EXPECT_FALSE(done_);
    answer(reads[i]);
  }
  ASSERT_TRUE(done_);
  ASSERT_FALSE(status_);
  EXPECT_EQ(status_.error().code, ErrorCode::kIo);
  EXPECT_EQ(status_.error().message, "per-layer embedding of token 1: unplugged");
  EXPECT_EQ(written.size(), 1u);

  // And it can be used again: row 0 is here, row 1 is read anew.
  const size_t before = reads.size();
  gather({0, 1});
  ASSERT_EQ(reads.size(), before + 1);
  answer(reads.back());
  EXPECT_TRUE(done_ && status_);
}

TEST_F(RowSourceTest, RefusesATokenWithoutARowBeforeItReads) {
  gather({1, kRows});
  ASSERT_TRUE(done_);
  ASSERT_FALSE(status_);
  EXPECT_EQ(status_.error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(reads.empty());
}

}  // namespace
}  // namespace lapidary::model
