// How much one request may hold. What fits the model's context is far smaller; these only bound the work of refusing.

/** What one request may hold. */
export const LIMITS = {
  /** UTF-16 units of one text, and of all texts of a request. */
  text: 4 << 20,
  /** UTF-16 units of the address of one picture, and of all of a request: base64 of 64 MiB, and more. */
  media: 96 << 20,
  messages: 4096,
  /** Parts of one message's content, and calls that one message makes. */
  parts: 1024,
  tools: 128,
  /** UTF-16 units of the JSON of all tools. */
  toolText: 1 << 20,
  /** UTF-16 units of the JSON of a reply's schema. */
  schemaText: 1 << 18,
  /** Objects and lists in each other. */
  depth: 64,
  /** Of a reply's schema; what it stands in comes on top of it. */
  schemaDepth: 48,
  /** Tokens of a prompt that is given as ids. */
  promptTokens: 1 << 20,
  /** Texts of one request for embeddings. */
  embeddings: 2048,
  stops: 16,
  stopText: 1024,
  biases: 1024,
  name: 256,
} as const;
