// Schemas against texts that satisfy them and texts that do not, and schemas that are refused, by
// the name of what is wrong.
#include <gtest/gtest.h>

#include "engine/base/text.h"
#include "engine/grammar/matcher.h"
#include "engine/grammar/numbers.h"
#include "engine/grammar/reply_format.h"
#include "engine/grammar/schema.h"
#include "engine/grammar/token_bytes.h"
#include "engine/tokenizer/test_vocabulary.h"

namespace lapidary::grammar {
namespace {

Result<Automaton> compile_text(std::string_view schema) {
  const auto format = parse_json(schema, "schema");
  EXPECT_TRUE(format) << schema;
  return compile({.format = *format});
}

Matcher matcher(std::string_view schema) {
  auto automaton = compile_text(schema);
  EXPECT_TRUE(automaton) << schema << ": " << automaton.error().message;
  return Matcher(std::make_shared<const Automaton>(*std::move(automaton)));
}

bool matches(std::string_view schema, std::string_view text) {
  Matcher state = matcher(schema);
  for (const char& c : text)
    if (!state.accept({&c, 1})) return false;
  return state.complete();
}

struct Case {
  const char* name;
  const char* schema;
  std::vector<const char*> good;
  std::vector<const char*> bad;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class Schemas : public testing::TestWithParam<Case> {};

TEST_P(Schemas, TakeWhatSatisfiesThemAndNothingElse) {
  for (const char* text : GetParam().good) EXPECT_TRUE(matches(GetParam().schema, text)) << text;
  for (const char* text : GetParam().bad) EXPECT_FALSE(matches(GetParam().schema, text)) << text;
}

INSTANTIATE_TEST_SUITE_P(
    All, Schemas,
    testing::Values(
        Case{"Json",
             R"("json")",
             {"{}", "{ }", "{\"a\":1}", "{\"a\": [1, {\"b\": null}, \"x\"],\n  \"c\": -0.5e-7}",
              "{\"\":{\"\":{}}}", "{\"a\":[]}", "{\"a\":[ ]}"},
             {"", "[]", "1", " {}", "{} ", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}",
              "{\"a\":01}", "{\"a\":+1}", "{\"a\":.5}", "{\"a\":1.}", "{\"a\":nul}", "{  }",
              "{\"a\":\"\n\"}", "{\"a\":1}}"}},
        Case{"String",
             R"({"type":"string"})",
             {R"("")", R"("a b")", R"("\"\\\/\b\f\n\r\t")", R"("\u00e9\uD83D\ude00")", "\"é世😀\"",
              "\"\x7F\""},
             {R"("a)", R"(a)", R"("\x")", R"("\u12")", R"("\ud800")", R"("\ude00")",
              R"("\ud800\u0041")", "\"\x1F\"", "\"\xC3\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"",
              "\"\xF4\x90\x80\x80\"", "\"\xFF\""}},
        Case{"Length",
             R"({"type":"string","minLength":2,"maxLength":3})",
             {R"("ab")", "\"é世😀\"", R"("\n\ud83d\ude00")"},
             {R"("a")", R"("abcd")", "\"é\""}},
        Case{"MinLength", R"({"minLength":1})", {R"("a")", R"("abcdef")"}, {R"("")", "1"}},
        Case{"Number",
             R"({"type":"number"})",
             {"0", "-0", "-0.5", "12.25", "1e9", "1E+09", "999999999999999"},
             {"", "-", "00", "1.", ".1", "1e", "1e999", "1000000000000000", "NaN", "Infinity"}},
        Case{"Integer",
             R"({"type":"integer"})",
             {"0", "-1", "999999999999999", "-999999999999999"},
             {"-0", "1.0", "1e3", "01", "1000000000000000"}},
        Case{"IntegerBounds",
             R"({"type":"integer","minimum":-5,"maximum":130})",
             {"-5", "-1", "0", "9", "10", "99", "100", "129", "130"},
             {"-6", "-10", "131", "140", "200", "1000"}},
        Case{"IntegerExclusive",
             R"({"type":"integer","exclusiveMinimum":0.5,"exclusiveMaximum":4})",
             {"1", "2", "3"},
             {"0", "4", "-1"}},
        Case{"IntegerFrom",
             R"({"type":"integer","minimum":18})",
             {"18", "19", "20", "180"},
             {"17", "2", "-18"}},
        Case{"NumberBounds",
             R"({"type":"number","minimum":0,"maximum":1})",
             {"0", "1", "0.5", "0.00001", "1.0", "1.000"},
             {"-0.5", "1.5", "1.01", "2", "10", "-0", "1e0"}},
        Case{"NumberExclusive",
             R"({"type":"number","exclusiveMinimum":0,"exclusiveMaximum":12})",
             {"0.1", "0.001", "11.999", "9", "10.0"},
             {"0", "0.0", "12", "12.0", "12.1", "-1"}},
        Case{"NumberNegative",
             R"({"type":"number","minimum":-2,"exclusiveMaximum":0})",
             {"-2", "-2.0", "-1.5", "-0.5"},
             {"-2.1", "0", "-0", "-0.0", "1", "-3"}},
        Case{"Literals",
             R"({"enum":["a","ab",1,true,null,{"k":[1,"é"]}]})",
             {R"("a")", R"("ab")", "1", "true", "null", R"({"k":[1,"é"]})"},
             {R"("b")", "11", "false", R"("abc")"}},
        Case{"TypedEnum",
             R"({"type":["integer","null"],"enum":["a",1,2.5,null]})",
             {"1", "null"},
             {"2.5", R"("a")"}},
        Case{"Const", R"({"const":"x\ny"})", {R"("x\ny")"}, {R"("x")", R"("xy")"}},
        Case{"Boolean", R"({"type":"boolean"})", {"true", "false"}, {"1", "True", "tru"}},
        Case{"Union",
             R"({"type":["string","null"],"maxLength":2})",
             {R"("ab")", "null"},
             {R"("abc")", "1"}},
        Case{"AnyOf",
             R"({"anyOf":[{"type":"integer"},{"type":"object","properties":{"a":{"type":"null"}},
                 "required":["a"]}]})",
             {"12", R"({"a":null})"},
             {"{}", R"("a")"}},
        Case{"Array",
             R"({"type":"array","items":{"type":"integer"}})",
             {"[]", "[ ]", "[1]", "[1,2, 3,\n4]", "[\n1\n]"},
             {"[,]", "[1,]", "[1 ,2]", "[\"a\"]", "[1"}},
        Case{"ArrayBounds",
             R"({"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":3})",
             {"[1,2]", "[1,2,3]"},
             {"[]", "[1]", "[1,2,3,4]"}},
        Case{"ArrayFrom", R"({"minItems":2})", {"[1,null]", "[[],{},1]"}, {"[1]", "[]"}},
        Case{"EmptyArray", R"({"type":"array","maxItems":0})", {"[]"}, {"[1]"}},
        Case{"Object",
             R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"},
                 "c":{"type":"null"}},"required":["a","c"],"additionalProperties":false})",
             {R"({"a":1,"c":null})", R"({"a": 1, "b": "x", "c": null})",
              "{\n    \"a\": 1,\n    \"c\": null\n}"},
             {"{}", R"({"a":1})", R"({"c":null,"a":1})", R"({"a":1,"c":null,"d":1})",
              R"({"a":1,"b":2,"c":null})", R"({"a":1,"a":1,"c":null})"}},
        Case{"Optional",
             R"({"properties":{"a":{"type":"integer"},"b":{"type":"integer"}}})",
             {"{}", R"({"a":1})", R"({"b":1})", R"({"a":1,"b":2})"},
             {R"({,"b":1})", R"({"b":1,"a":2})", R"({"c":1})", R"({"a":1,})"}},
        Case{"Additional",
             R"({"type":"object","properties":{"ab":{"type":"integer"}},"required":["ab"],
                 "additionalProperties":{"type":"string"}})",
             {R"({"ab":1})", R"({"ab":1,"a":"x"})", R"({"ab":1,"abc":"x","":"y"})",
              R"({"ab":1,"é":"x"})"},
             {R"({"a":"x"})", R"({"ab":"x"})", R"({"ab":1,"ab":"x"})", R"({"ab":1,"c":2})",
              R"({"ab":1,"\u0061b":"x"})"}},
        Case{"Map",
             R"({"additionalProperties":{"type":"boolean"}})",
             {"{}", R"({"x":true})"},
             {R"({"x":1})"}},
        Case{"Recursion",
             R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{
                 "value":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/node"},
                 {"type":"null"}]}},"required":["value","next"]}}})",
             {R"({"value":1,"next":null})", R"({"value":1,"next":{"value":2,"next":null}})"},
             {R"({"value":1})", R"({"value":1,"next":{}})"}},
        Case{"RootReference",
             R"({"properties":{"children":{"type":"array","items":{"$ref":"#"}}},
                 "required":["children"]})",
             {R"({"children":[{"children":[]},{"children":[]}]})"},
             {R"({"children":[{}]})"}},
        Case{"LeftRecursion", R"({"anyOf":[{"$ref":"#"},{"type":"integer"}]})", {"1"}, {"a"}},
        Case{"EscapedReference",
             R"({"$ref":"#/$defs/a~1b~0c","$defs":{"a/b~c":{"type":"null"}}})",
             {"null"},
             {"1"}},
        Case{"AllOfOne", R"({"allOf":[{"type":"null"}],"title":"x"})", {"null"}, {"1"}},
        Case{"Anything", R"({})", {"1", "{}", "[\"a\",{}]", "null"}, {"", "a"}},
        Case{"True", R"(true)", {"1", "{}"}, {"a"}},
        Case{"Pattern",
             R"({"type":"string","pattern":"^[A-Z]{2}-\\d+(x|yz)?$"})",
             {R"("AB-1")", R"("AB-12x")", R"("AB-1yz")"},
             {R"("AB-")", R"("aB-1")", R"("AB-1y")", R"(" AB-1")", R"("AB-1 ")"}},
        Case{"PatternInside",
             R"({"pattern":"a.c"})",
             {R"("abc")", R"("xxaéc\n")"},
             {R"("ac")", R"("a\nc")"}},
        Case{"PatternAlternatives",
             R"({"pattern":"^a|b$"})",
             {R"("a")", R"("axx")", R"("xxb")"},
             {R"("xa")", R"("bx")"}},
        Case{"PatternClasses",
             R"({"pattern":"^[^a-c\\s\"]*[\\]\\-x]\\u00e9?$"})",
             {R"("d]")", R"("-é")", "\"世x\""},
             {R"("a]")", R"("d")", R"("\"]")", R"(" x")"}},
        Case{"PatternQuote",
             R"({"pattern":"^\"\\\\\\t+$"})",
             {R"("\"\\\t")", R"("\"\\\t\t")"},
             {R"("\"\\")"}},
        Case{"Date",
             R"({"format":"date"})",
             {R"("2024-02-29")", R"("2000-02-29")", R"("1999-12-31")"},
             {R"("2023-02-29")", R"("1900-02-29")", R"("2024-13-01")", R"("2024-04-31")",
              R"("2024-1-1")"}},
        Case{"DateTime",
             R"({"type":"string","format":"date-time"})",
             {R"("2024-02-29T23:59:59Z")", R"("2024-01-01T00:00:00.123+02:00")"},
             {R"("2024-01-01")", R"("2024-01-01T24:00:00Z")", R"("2024-01-01T00:00:00")"}},
        Case{"Uuid",
             R"({"format":"uuid"})",
             {R"("123e4567-e89b-12d3-a456-426614174000")"},
             {R"("123e4567")"}},
        Case{"Ipv4",
             R"({"format":"ipv4"})",
             {R"("0.10.199.255")"},
             {R"("256.1.1.1")", R"("01.1.1.1")"}}),
    [](const auto& info) { return std::string(info.param.name); });

struct Refusal {
  const char* schema;
  ErrorCode code;
  const char* part;  // of the message
};

TEST(Schema, RefusesByNameAndPath) {
  for (
      const auto& [schema, code, part] : {
          Refusal{R"({"not":{}})", ErrorCode::kUnsupported, "'not' at #"},
          {R"({"properties":{"a":{"oneOf":[]}}})", ErrorCode::kUnsupported,
           "'oneOf' at #/properties/a"},
          {R"({"type":"array","items":{"type":"string","contentEncoding":"x"}})",
           ErrorCode::kUnsupported, "'contentEncoding' at #/items"},
          {R"({"type":"array","uniqueItems":true})", ErrorCode::kUnsupported, "'uniqueItems'"},
          {R"({"type":"integer","multipleOf":3})", ErrorCode::kUnsupported, "'multipleOf'"},
          {R"({"type":"number","minimum":0.5})", ErrorCode::kUnsupported, "'minimum'"},
          {R"({"allOf":[{},{}]})", ErrorCode::kUnsupported, "'allOf'"},
          {R"({"anyOf":[{"type":"null"}],"type":"null"})", ErrorCode::kUnsupported, "'type'"},
          {R"({"enum":["a"],"minLength":1})", ErrorCode::kUnsupported, "'minLength'"},
          {R"({"$ref":"other.json"})", ErrorCode::kUnsupported, "'$ref'"},
          {R"({"$ref":"#/$defs/none"})", ErrorCode::kInvalidArgument, "'$ref'"},
          {R"({"$ref":"#/$defs/a","$defs":{"a":{"if":{}}}})", ErrorCode::kUnsupported,
           "'if' at #/$defs/a"},
          {R"({"required":["a"]})", ErrorCode::kUnsupported, "'required'"},
          {R"({"type":"text"})", ErrorCode::kInvalidArgument, "'type'"},
          {R"({"type":7})", ErrorCode::kInvalidArgument, "'type'"},
          {R"({"type":[]})", ErrorCode::kInvalidArgument, "'type'"},
          {R"({"enum":[]})", ErrorCode::kInvalidArgument, "'enum'"},
          {R"({"type":"string","enum":[1]})", ErrorCode::kInvalidArgument, "'enum'"},
          {R"({"properties":[]})", ErrorCode::kInvalidArgument, "'properties'"},
          {R"({"properties":{"a/b":3}})", ErrorCode::kInvalidArgument, "#/properties/a~1b"},
          {R"({"minItems":-1})", ErrorCode::kInvalidArgument, "'minItems'"},
          {R"({"minItems":3,"maxItems":2})", ErrorCode::kInvalidArgument, "'maxItems'"},
          {R"({"maxLength":1e9})", ErrorCode::kUnsupported, "'maxLength'"},
          {R"({"type":"integer","minimum":3,"maximum":2})", ErrorCode::kInvalidArgument, "minimum"},
          {R"({"type":"string","format":"idn-email"})", ErrorCode::kUnsupported, "'format'"},
          {R"x({"pattern":"^a","maxLength":3})x", ErrorCode::kUnsupported, "'pattern'"},
          {R"x({"pattern":"(?=a)"})x", ErrorCode::kUnsupported, "'pattern'"},
          {R"x({"pattern":"(a)\\1"})x", ErrorCode::kUnsupported, "'pattern'"},
          {R"x({"pattern":"\\bx"})x", ErrorCode::kUnsupported, "'pattern'"},
          {R"x({"pattern":"a^b"})x", ErrorCode::kUnsupported, "'pattern'"},
          {R"x({"pattern":"(a"})x", ErrorCode::kInvalidArgument, "'pattern'"},
          {R"x({"pattern":"a)"})x", ErrorCode::kInvalidArgument, "'pattern'"},
          {R"x({"pattern":"[b-a]"})x", ErrorCode::kInvalidArgument, "'pattern'"},
          {R"x({"pattern":"a**"})x", ErrorCode::kInvalidArgument, "'pattern'"},
          {R"x({"pattern":"((((((a{99}){99}){99}){99}){99}){99})"})x", ErrorCode::kUnsupported, ""},
          {R"x({"pattern":"(((((((((((((((((((((((((a*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)"})x",
           ErrorCode::kUnsupported, ""},
          {R"({"properties":{"a":{"$ref":"#"}},"required":["a"]})", ErrorCode::kInvalidArgument,
           "no value"},
          {R"(false)", ErrorCode::kInvalidArgument, "false"},
          {R"([])", ErrorCode::kInvalidArgument, "format"},
          {R"("xml")", ErrorCode::kInvalidArgument, "format"},
      }) {
    const auto automaton = compile_text(schema);
    ASSERT_FALSE(automaton) << schema;
    EXPECT_EQ(automaton.error().code, code) << schema << ": " << automaton.error().message;
    EXPECT_NE(automaton.error().message.find(part), std::string::npos)
        << schema << ": " << automaton.error().message;
  }
}

TEST(Schema, TooLargeOnesAreRefused) {
  std::string schema = R"({"enum":[)";
  for (int i = 0; i < 30'000; ++i) schema += cat(i == 0 ? "" : ",", "\"", i * 7919, "\"");
  auto automaton = compile_text(schema + "]}");
  ASSERT_FALSE(automaton);
  EXPECT_EQ(automaton.error().code, ErrorCode::kUnsupported);
  automaton = compile_text(R"({"items":{"maxLength":16000},"maxItems":16000,"minItems":15000})");
  ASSERT_TRUE(automaton) << automaton.error().message;  // the lengths add, they do not multiply
  automaton = compile_text(R"({"properties":{"a":{"maxLength":16000},"b":{"maxLength":16000},
      "c":{"maxLength":16000},"d":{"maxLength":16000},"e":{"maxLength":16000}}})");
  ASSERT_FALSE(automaton);
  EXPECT_EQ(automaton.error().code, ErrorCode::kUnsupported);
}

// Every integer of a range and none beside it, by brute force.
TEST(Numbers, RangesAreExact) {
  for (const auto& [low, high] : {std::pair{-120, 120},
                                  {0, 0},
                                  {7, 7},
                                  {-7, -7},
                                  {3, 12},
                                  {19, 201},
                                  {-205, -98},
                                  {100, 199},
                                  {99, 100},
                                  {-1, 0}}) {
    const std::string schema =
        cat(R"({"type":"integer","minimum":)", low, R"(,"maximum":)", high, "}");
    auto automaton = compile_text(schema);
    ASSERT_TRUE(automaton);
    const auto shared = std::make_shared<const Automaton>(*std::move(automaton));
    for (int value = -260; value <= 260; ++value) {
      Matcher state(shared);
      const bool accepted = state.accept(cat(value)) && state.complete();
      EXPECT_EQ(accepted, value >= low && value <= high) << schema << " " << value;
    }
  }
}

TEST(Matcher, ATextIsFinishedWhereNothingMayFollow) {
  Matcher state = matcher(R"({"type":"object","properties":{"n":{"type":"integer"}}})");
  for (const char c : std::string_view("{\"n\":12")) {
    EXPECT_FALSE(state.complete());
    EXPECT_TRUE(state.accept({&c, 1}));
  }
  EXPECT_FALSE(state.accept("x"));
  EXPECT_TRUE(state.allows("3}"));
  EXPECT_FALSE(state.allows("3}}"));
  EXPECT_TRUE(state.accept("}"));
  EXPECT_TRUE(state.finished());
  EXPECT_FALSE(state.allows(" "));

  Matcher number = matcher(R"({"type":"integer","maximum":99,"minimum":0})");
  EXPECT_TRUE(number.accept("1"));
  EXPECT_TRUE(number.complete());
  EXPECT_FALSE(number.finished());
  EXPECT_TRUE(number.accept("2"));
  EXPECT_TRUE(number.finished());
}

// Whatever bytes are drawn, there is always a next one, until the end: within bounds on depth, also
// where a schema would go on for ever.
TEST(Matcher, HasNoDeadEnds) {
  for (const std::string_view schema :
       {R"("json")", R"({"type":"array","items":{"$ref":"#"}})",
        R"({"anyOf":[{"type":"array","items":{"$ref":"#"},"minItems":1},
                     {"type":"array","items":{"$ref":"#"}},{"enum":[[[[1]]]]}]})",
        R"({"$ref":"#/$defs/a","$defs":{
            "a":{"properties":{"b":{"$ref":"#/$defs/b"},"a":{"$ref":"#/$defs/a"}},"required":["b"]},
            "b":{"properties":{"c":{"anyOf":[{"$ref":"#/$defs/c"},{"type":"string"}]}},
                 "required":["c"]},
            "c":{"type":"array","minItems":1,"items":{"$ref":"#/$defs/a"}}}})"}) {
    auto automaton = compile_text(schema);
    ASSERT_TRUE(automaton) << schema;
    const auto shared = std::make_shared<const Automaton>(*std::move(automaton));
    uint64_t random = 88172645463325252u;
    for (int run = 0; run < 10; ++run) {
      Matcher state(shared);
      std::string text;
      // Structure first, so that texts go deep; after a while what closes it.
      while (!state.finished() && text.size() < 3000) {
        const std::string_view wanted = text.size() < 100 ? "[{\":,ab1" : "\"]}:1,bac";
        char next = '\0';
        for (size_t i = 0; i < wanted.size() && next == '\0'; ++i) {
          random ^= random << 13;
          random ^= random >> 7;
          random ^= random << 17;
          const char c = text.size() < 100 ? wanted[random % wanted.size()] : wanted[i];
          if (state.allows({&c, 1})) next = c;
        }
        for (int byte = 0; byte < 256 && next == '\0'; ++byte) {
          const char c = static_cast<char>(byte);
          if (state.allows({&c, 1})) next = c;
        }
        ASSERT_NE(next, '\0') << "nothing may follow " << text;
        ASSERT_TRUE(state.accept({&next, 1}));
        text.push_back(next);
      }
      ASSERT_TRUE(state.finished()) << text;
      EXPECT_TRUE(parse_json(text, "reply", 200)) << text;
    }
  }
}

// The cache of sets is emptied on the way; what is allowed stays the same.
TEST(Matcher, ForgetsWithoutLosingItsPlace) {
  const std::string_view schema = R"({"type":"array","items":{"type":"array","items":{"anyOf":[
      {"type":"integer"},{"type":"string","maxLength":3000}]}}})";
  Matcher state = matcher(schema);
  ASSERT_TRUE(state.accept("["));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(state.accept("[1, \""));
    for (int n = 0; n < 3000; ++n) ASSERT_TRUE(state.accept("x")) << n;
    EXPECT_FALSE(state.allows("x"));
    ASSERT_TRUE(state.accept("\"],"));
  }
  ASSERT_TRUE(state.accept("[]]"));
  EXPECT_TRUE(state.finished());
}

std::vector<chat::ToolDeclaration> tools() {
  return *chat::parse_tools(*parse_json(R"([
      {"name": "weather", "parameters": {"type": "object", "properties": {
          "unit": {"enum": ["c", "f"]}, "City": {"type": "string"}, "days": {"type": "array",
          "items": {"type": "integer"}}, "odd key": {"type": "boolean"}}, "required": ["City"]}},
      {"name": "stop"}])",
                                        "tools"));
}

// In a test's texts tags are written as ^ (quote), < and > (call), T and t (thought).
std::string tagged(std::string_view text) {
  std::string out;
  for (const char c : text) {
    out.push_back(c == '^'   ? static_cast<char>(kQuoteByte)
                  : c == '<' ? static_cast<char>(kCallOpenByte)
                  : c == '>' ? static_cast<char>(kCallCloseByte)
                  : c == 'T' ? static_cast<char>(kChannelOpenByte)
                  : c == 't' ? static_cast<char>(kChannelCloseByte)
                             : c);
  }
  return out;
}

bool takes(const ReplyFormat& format, std::string_view text) {
  auto automaton = compile(format);
  EXPECT_TRUE(automaton) << automaton.error().message;
  Matcher state(std::make_shared<const Automaton>(*std::move(automaton)));
  return state.accept(tagged(text)) && state.complete();
}

TEST(ReplyFormat, ForcedCalls) {
  std::vector<chat::ToolDeclaration> all = tools();
  // The names hold letters that stand for tags here.
  all[0].name = "wea";
  all[1].name = "sop";
  const ReplyFormat any{.must_call = all, .many_calls = true};
  EXPECT_TRUE(takes(any, "<call:sop{}>"));
  EXPECT_TRUE(takes(any, "<call:wea{Ciy:^x^}>") == false);
  EXPECT_FALSE(takes(any, "<call:wea{}>"));
  EXPECT_FALSE(takes(any, "<call:sop{a:1}>"));
  EXPECT_FALSE(takes(any, "<call:none{}>"));
  EXPECT_FALSE(takes(any, "hello"));
  EXPECT_FALSE(takes(any, ""));
  EXPECT_TRUE(takes(any, "<call:sop{}><call:sop{}>"));
  EXPECT_FALSE(takes({.must_call = all}, "<call:sop{}><call:sop{}>"));
  EXPECT_FALSE(takes(any, "Thm<call:sop{}>"));
  EXPECT_TRUE(takes({.must_call = all, .may_think = true}, "Thmt<call:sop{}>"));
  EXPECT_TRUE(takes({.must_call = all, .may_think = true}, "<call:sop{}>"));
}

TEST(ReplyFormat, ArgumentsInTheNotationOfCalls) {
  std::vector<chat::ToolDeclaration> one = tools();
  one.resize(1);
  auto automaton = compile({.must_call = one});
  ASSERT_TRUE(automaton) << automaton.error().message;
  const auto shared = std::make_shared<const Automaton>(*std::move(automaton));
  const auto accepts = [&](std::string_view arguments) {
    Matcher state(shared);
    std::string text(1, static_cast<char>(kCallOpenByte));
    text += "call:weather{";
    for (const char c : arguments) text.push_back(c == '^' ? static_cast<char>(kQuoteByte) : c);
    text += "}";
    text.push_back(static_cast<char>(kCallCloseByte));
    return state.accept(text) && state.finished();
  };
  // Sorted whatever the case: City, days, odd key, unit.
  EXPECT_TRUE(accepts("City:^San \"José\"\n{,}^"));
  EXPECT_TRUE(accepts("City:^^,days:[1,-2],^odd key^:true,unit:^c^"));
  EXPECT_TRUE(accepts("City:^x^,unit:^f^"));
  EXPECT_FALSE(accepts("City:^x^,unit:^k^"));
  EXPECT_FALSE(accepts("City:^x^, unit:^f^"));
  EXPECT_FALSE(accepts("unit:^f^,City:^x^"));
  EXPECT_FALSE(accepts("City:\"x\""));
  EXPECT_FALSE(accepts("City:x"));
}

TEST(ReplyFormat, ThoughtsAndFreeCallsBesideAnAnswer) {
  const ReplyFormat plain{.format = "json"};
  EXPECT_TRUE(takes(plain, "{}"));
  EXPECT_FALSE(takes(plain, "<call:x{}>"));
  EXPECT_FALSE(takes(plain, "Thought{}"));
  const ReplyFormat rich{.format = "json", .may_call = true, .may_think = true};
  EXPECT_TRUE(takes(rich, "{}"));
  EXPECT_TRUE(takes(rich, "Tanyhing {[t{}"));
  EXPECT_TRUE(takes(rich, "Thmt<call:x{a:^b^}>"));
  EXPECT_TRUE(takes(rich, "<call:x{}><call:y{}>"));
  EXPECT_FALSE(takes(rich, "<call:x{}>{}"));
  EXPECT_FALSE(takes(rich, "Thm"));
  EXPECT_FALSE(takes(rich, "Thmt"));
  const ReplyFormat begun{.format = "json", .in_thought = true};
  EXPECT_TRUE(takes(begun, "hmt{}"));
  EXPECT_FALSE(takes(begun, "{}"));
}

TEST(ReplyFormat, RefusesToolsWhoseParametersCannotBeForced) {
  for (const std::string_view text :
       {R"([{"name":"f","parameters":{"type":"object","properties":{"a":{"not":{}}}}}])",
        R"([{"name":"f","parameters":{"type":"string"}}])", R"([{"name":"f(x"}])"}) {
    const auto automaton = compile({.must_call = *chat::parse_tools(*parse_json(text, "tools"))});
    ASSERT_FALSE(automaton) << text;
    EXPECT_EQ(automaton.error().code, ErrorCode::kUnsupported);
    EXPECT_NE(automaton.error().message.find("'f"), std::string::npos) << automaton.error().message;
  }
}

TEST(TokenBytes, AreWhatTokensWriteAndTagsWhatStandsForThem) {
  const tokenizer::TestVocabulary source = tokenizer::small_vocabulary();
  const auto tokenizer = tokenizer::Tokenizer::create(source.source());
  ASSERT_TRUE(tokenizer);
  const TokenBytes bytes(*tokenizer);
  const auto of = [&](std::string_view name) { return bytes[*tokenizer->vocabulary().find(name)]; };
  EXPECT_EQ(of("▁hello"), " hello");
  EXPECT_EQ(of("世界"), "世界");
  EXPECT_EQ(of("<0x0A>"), "\n");
  EXPECT_EQ(of("<0xE4>"), "\xE4");
  EXPECT_EQ(of("<|\"|>"), "\xFF");
  EXPECT_EQ(of("<|tool_call>"), "\xFD");
  EXPECT_EQ(of("<channel|>"), "\xFC");
  // No byte may pass for a tag, and no other tag is part of an answer.
  for (const std::string_view none :
       {"<0xFB>", "<0xFF>", "<turn|>", "<|turn>", "<|image|>", "<eos>", "<unk>"})
    EXPECT_EQ(of(none), "") << none;
  EXPECT_EQ(bytes[tokenizer->size()], "");
  EXPECT_EQ(bytes[UINT32_MAX], "");
}

}  // namespace
}  // namespace lapidary::grammar
