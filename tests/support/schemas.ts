// Schemas that a reply may be held to, and another implementation's judgement of replies.

import { Ajv } from 'ajv';
import addFormats from 'ajv-formats';
import type { JsonSchema } from 'lapidary/node';

const ajv = new Ajv({ strict: false, allErrors: true });
addFormats.default(ajv);

/** What is wrong with a reply's text under a schema; empty where it is JSON that satisfies it. */
export function complaints(schema: JsonSchema, text: string): string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return `${String(error)}: ${text}`;
  }
  return ajv.validate(schema, value) ? '' : `${ajv.errorsText()}: ${text}`;
}

const string = { type: 'string' };
const integer = { type: 'integer' };
const object = (properties: object, required = Object.keys(properties), more = {}) => ({
  ...{ type: 'object', properties, required, additionalProperties: false },
  ...more,
});

export const SCHEMAS: Record<string, JsonSchema> = {
  person: object({ name: string, age: { type: 'integer', minimum: 0, maximum: 150 } }),
  optional: object({ a: integer, b: string, c: { type: 'boolean' }, d: { type: 'null' } }, ['b']),
  nested: object({
    at: object({ x: { type: 'number' }, y: { type: 'number' } }),
    tags: list(string),
  }),
  choice: object({ kind: { enum: ['cat', 'catfish', 'dog', 7, null, { deep: [1, 'é'] }] } }),
  constant: { const: { a: [true, 'x"\\\n'], b: -1.5 } },
  union: { anyOf: [object({ text: string }), list(integer), { type: ['null', 'boolean'] }] },
  counted: { type: 'array', items: { type: 'boolean' }, minItems: 2, maxItems: 5 },
  lengths: object({ code: { type: 'string', minLength: 3, maxLength: 6 } }),
  integers: list({ type: 'integer', minimum: -1234, exclusiveMaximum: 77 }, { minItems: 3 }),
  fractions: list({ type: 'number', exclusiveMinimum: -1, maximum: 10 }, { minItems: 3 }),
  open: list({ type: 'number', exclusiveMinimum: 0 }, { minItems: 3 }),
  numbers: list({ type: 'number' }, { minItems: 3 }),
  pattern: object({ id: { type: 'string', pattern: '^[A-Z]{2,4}-\\d+(?:\\.[^\\d\\s"]+)?$' } }),
  search: object({ text: { type: 'string', pattern: 'a+[^b]|\\\\|^é' } }),
  dates: object({
    ...{ day: { type: 'string', format: 'date' }, at: { type: 'string', format: 'time' } },
    ...{ when: { type: 'string', format: 'date-time' }, ip: { type: 'string', format: 'ipv4' } },
    id: { type: 'string', format: 'uuid' },
  }),
  tree: {
    $ref: '#/$defs/node',
    $defs: { node: object({ value: integer, children: list({ $ref: '#/$defs/node' }) }) },
  },
  linked: object({ value: integer, next: { anyOf: [{ $ref: '#' }, { type: 'null' }] } }),
  mutual: {
    ...object({ a: { $ref: '#/$defs/a' } }),
    $defs: {
      a: object({ b: { $ref: '#/$defs/b' } }, []),
      b: { anyOf: [object({ a: { $ref: '#/$defs/a' } }), string] },
    },
  },
  map: { type: 'object', additionalProperties: { type: 'integer' } },
  beside: object({ ab: integer, ac: string }, ['ab'], { additionalProperties: { type: 'null' } }),
  keys: object({ 'é "quoted" \\ key': integer, '': string, 'a/b': { type: 'null' } }),
  inferred: { properties: { list: { items: { enum: [1, 2] }, maxItems: 3 } }, required: ['list'] },
  anything: object({ any: {}, all: { type: 'array' } }),
};

function list(items: object, more: object = {}) {
  return { type: 'array', items, ...more };
}
