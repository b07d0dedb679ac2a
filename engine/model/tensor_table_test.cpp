// The tensor table: its names, and that it covers what files hold.
#include "engine/model/tensor_table.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "engine/reference/fixture.h"

namespace lapidary::model {
namespace {

TEST(TensorTable, Names) {
  EXPECT_EQ(tensor_name(TensorRole::kTokenEmbd), "token_embd.weight");
  EXPECT_EQ(tensor_name(TensorRole::kAttnQ, 31), "blk.31.attn_q.weight");
  std::set<std::string> names;
  for (int i = 0; i < kTensorRoles; ++i) names.insert(tensor_name(static_cast<TensorRole>(i), 0));
  EXPECT_EQ(names.size(), static_cast<size_t>(kTensorRoles));
  EXPECT_EQ(to_string(TensorShape{{5, 6, 1, 1}, 2}), "[5, 6]");
}

// Every tensor of the fixtures has a role: nothing that a model needs is forgotten.
TEST(TensorTable, CoversTheFixtures) {
  for (const char* path :
       {"gemma4/tiny-e.gguf", "gemma4/tiny-dense.gguf", "gemma4/tiny-moe.gguf"}) {
    const Result<gguf::Header> header = gguf::parse_header(reference::read_fixture(path));
    ASSERT_TRUE(header.has_value()) << path;
    const Result<Config> config = Config::from_gguf(*header);
    ASSERT_TRUE(config.has_value());
    size_t needed = 0;
    for (int i = 0; i < kTensorRoles; ++i) {
      const auto role = static_cast<TensorRole>(i);
      const int layers =
          tensor_role_info(role).per_layer ? static_cast<int>(config->layers.size()) : 1;
      for (int layer = 0; layer < layers; ++layer) {
        if (tensor_need(*config, role, layer) != TensorNeed::kNone &&
            find_tensor(*header, role, layer))
          ++needed;
      }
    }
    EXPECT_EQ(needed, header->tensors().size()) << path;
  }
}

}  // namespace
}  // namespace lapidary::model
