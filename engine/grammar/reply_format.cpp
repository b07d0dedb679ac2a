#include "engine/grammar/reply_format.h"

#include "engine/base/text.h"
#include "engine/grammar/schema.h"

namespace lapidary::grammar {
namespace {

// Bytes of thoughts and free calls.
void any_text(Builder& builder, uint32_t at) { builder.bytes(at, 0, kFirstTagByte - 1, at); }

Result<uint32_t> answer(Builder& builder, const Json& format, uint32_t from) {
  if (format == "json") return SchemaCompiler(builder, Syntax::kJson, format).any_object(from);
  if (!format.is_object() && !format.is_boolean()) {
    return fail(ErrorCode::kInvalidArgument,
                "option 'format' must be \"json\" or a JSON schema, which is an object");
  }
  return SchemaCompiler(builder, Syntax::kJson, format).run(from);
}

// A call as the model would write it unasked; the reply parser makes of it what it can.
uint32_t free_call(Builder& builder, uint32_t from) {
  const uint32_t at = builder.byte(from, kCallOpenByte);
  any_text(builder, at);
  builder.bytes(at, kQuoteByte, kQuoteByte, at);
  return builder.byte(at, kCallCloseByte);
}

Result<uint32_t> call(Builder& builder, const chat::ToolDeclaration& tool, uint32_t from) {
  static const Json kNoParameters = {{"type", "object"}, {"additionalProperties", false}};
  const Json& schema = tool.parameters.is_null() ? kNoParameters : tool.parameters;
  // Arguments are an object, whatever else the schema may allow.
  const Json* type = json_member(schema, "type");
  if (!schema.is_object() || (type != nullptr && *type != "object") ||
      (type == nullptr && !schema.contains("properties"))) {
    return fail(ErrorCode::kUnsupported,
                cat("the parameters of the tool '", printable(tool.name),
                    "' must be a schema of the type object for a call of it to be forced"));
  }
  if (tool.name.find_first_of(" \t\n\v\f\r{}(\"") != std::string::npos) {
    return fail(ErrorCode::kUnsupported,
                cat("the name of the tool '", printable(tool.name),
                    "' must be without spaces, quotes and brackets for a call of it to be forced"));
  }
  uint32_t at = builder.byte(from, kCallOpenByte);
  at = builder.literal(at, cat("call:", tool.name));
  Result<uint32_t> end = SchemaCompiler(builder, Syntax::kCall, schema).run(at);
  if (!end) {
    return fail(end.error().code, cat("the parameters of the tool '", printable(tool.name),
                                      "' in a call that is forced: ", end.error().message));
  }
  return builder.byte(*end, kCallCloseByte);
}

}  // namespace

Result<Automaton> compile(const ReplyFormat& reply) {
  Builder builder;
  const uint32_t entry = builder.entry(Automaton::kRoot);
  const uint32_t exit = builder.exit(Automaton::kRoot);
  // Where the answer begins.
  const uint32_t begin = builder.state();
  if (reply.may_think || reply.in_thought) {
    const uint32_t thought = builder.state();
    any_text(builder, thought);
    builder.bytes(thought, kChannelCloseByte, kChannelCloseByte, begin);
    if (reply.in_thought) {
      builder.skip(entry, thought);
    } else {
      builder.bytes(entry, kChannelOpenByte, kChannelOpenByte, thought);
    }
  }
  if (!reply.in_thought) builder.skip(entry, begin);

  if (reply.must_call.empty()) {
    TRY(const uint32_t end, answer(builder, reply.format, begin));
    builder.skip(end, exit);
    if (reply.may_call) {
      const uint32_t first = free_call(builder, begin);
      builder.skip(first, exit);
      builder.skip(free_call(builder, first), first);
    }
  }
  for (const chat::ToolDeclaration& tool : reply.must_call) {
    TRY(const uint32_t end, call(builder, tool, begin));
    builder.skip(end, exit);
    // A thought comes before the first call only, which `begin` is behind.
    if (reply.many_calls) builder.skip(end, begin);
  }
  return std::move(builder).finish();
}

}  // namespace lapidary::grammar
