#include "engine/base/json.h"

#include <gtest/gtest.h>

#include <string>

#include "engine/base/text.h"

namespace lapidary {
namespace {

std::string wide_object(int members) {
  std::string text = "{";
  for (int i = 0; i < members; ++i) text += cat(i > 0 ? "," : "", "\"", i, "\":0");
  return text + "}";
}

TEST(ParseJson, KeepsTheOrderOfMembers) {
  const auto value = parse_json(R"({"b": 1, "a": {"d": [], "c": null}})", "test");
  ASSERT_TRUE(value);
  EXPECT_EQ(dump_json(*value), R"({"b":1,"a":{"d":[],"c":null}})");
}

TEST(ParseJson, RefusesWhatIsNoJson) {
  for (const char* text : {"", "{", "[1,]", "{\"a\" 1}", "nul", "\"\xff\"", "1 2"}) {
    const auto value = parse_json(text, "test");
    ASSERT_FALSE(value) << text;
    EXPECT_EQ(value.error().code, ErrorCode::kInvalidFormat);
    EXPECT_EQ(value.error().message, "test: not valid JSON");
  }
}

TEST(ParseJson, RefusesWhatIsTooDeep) {
  EXPECT_TRUE(parse_json("[[[1]]]", "test", 3));
  const auto value = parse_json("[[[[1]]]]", "test", 3);
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().message, "test: JSON nested deeper than 3");
  EXPECT_FALSE(parse_json(std::string(1 << 20, '['), "test"));
}

TEST(ParseJson, RefusesObjectsThatTakeLongToBuild) {
  EXPECT_TRUE(parse_json(wide_object(8192), "test"));
  const auto value = parse_json(wide_object(8193), "test");
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().code, ErrorCode::kInvalidFormat);
  EXPECT_EQ(value.error().message, "test: JSON with too many members");
  // As many members in many small objects are no trouble; in several wide ones they are.
  std::string small = "[";
  std::string wide = "[";
  for (int i = 0; i < 2000; ++i) small += (i > 0 ? "," : "") + wide_object(8);
  for (int i = 0; i < 4; ++i) wide += (i > 0 ? "," : "") + wide_object(6000);
  EXPECT_TRUE(parse_json(small + "]", "test"));
  EXPECT_FALSE(parse_json(wide + "]", "test"));
  // One that is wide and then closed does not count for the next.
  EXPECT_TRUE(parse_json("[" + wide_object(5000) + "," + wide_object(5000) + "]", "test"));
}

}  // namespace
}  // namespace lapidary
