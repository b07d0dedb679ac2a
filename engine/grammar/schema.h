// JSON Schema to an automaton: the part of it that OpenAI's structured outputs know
// (docs/structured-output.md). Whatever else a schema holds is refused by name, never overlooked:
// what is written satisfies the schema.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/grammar/notation.h"

namespace lapidary::grammar {

// Of the schema's own JSON.
inline constexpr size_t kMaxSchemaBytes = 256 << 10;
// Of lengths and counts, each of which takes a state.
inline constexpr uint32_t kMaxCount = 16'384;

class SchemaCompiler {
 public:
  // root: the whole schema, into which $ref points; it must outlive the compiler.
  SchemaCompiler(Builder& builder, Syntax syntax, const Json& root)
      : builder_(builder), notation_(builder, syntax), root_(root) {}

  // A value that satisfies the root schema, from `from` on to the state that is returned.
  // kUnsupported and kInvalidArgument name the keyword and where it stands ("#/properties/a").
  Result<uint32_t> run(uint32_t from);
  // Any object at all.
  uint32_t any_object(uint32_t from);

 private:
  // A schema and where it stands.
  struct Place {
    const Json& schema;
    std::string path;

    // The member `key` of it, which is there.
    Place operator[](std::string_view key) const;
    Place operator[](size_t i) const;
  };

  Result<uint32_t> value(const Place& at, uint32_t from);
  Result<uint32_t> reference(const Place& at, uint32_t from);
  Result<uint32_t> any_of(const Place& at, uint32_t from);
  Result<uint32_t> choices(const Place& at, uint32_t from);
  Result<uint32_t> of_type(const Place& at, std::string_view type, uint32_t from);
  Result<uint32_t> string(const Place& at, uint32_t from);
  Result<uint32_t> numeric(const Place& at, bool whole, uint32_t from);
  Result<uint32_t> array(const Place& at, uint32_t from);
  Result<uint32_t> object(const Place& at, uint32_t from);
  // Its members that `known` does not name are refused; annotations are overlooked.
  Status only(const Place& at, std::string_view known) const;
  // A rule for the schema `at`, compiled later.
  uint32_t later(const Place& at);
  uint32_t any_value();

  Builder& builder_;
  Notation notation_;
  const Json& root_;
  uint32_t any_value_ = 0;  // a rule; 0: not made yet
  std::map<const Json*, uint32_t> rules_;
  struct Pending {
    Place place;
    uint32_t rule;
  };
  std::vector<Pending> pending_;
};

}  // namespace lapidary::grammar
