// OpenAI's shapes, as far as they mean something here. Names are OpenAI's own.

/** A call of a tool, as an assistant's message holds it. */
export interface ChatToolCall {
  id: string;
  type: 'function';
  function: { name: string; /** JSON. */ arguments: string };
}

/** Text in a message's content. */
export interface TextContentPart {
  type: 'text';
  text: string;
}

/** A picture in a message's content: a `data:` URL of its file. */
export interface ImageContentPart {
  type: 'image_url';
  image_url: {
    url: string;
    /** Tokens that it becomes at most: 70, 280 or 1,120. */
    detail?: 'low' | 'auto' | 'high' | undefined;
  };
}

/** A part of a message's content. */
export type ContentPartParam = TextContentPart | ImageContentPart;

/** A message of a request. */
export type ChatMessageParam =
  | {
      role: 'system' | 'developer' | 'user';
      content: string | ContentPartParam[];
      name?: string | undefined;
    }
  | {
      role: 'assistant';
      content?: string | TextContentPart[] | null | undefined;
      /** What it thought before it answered. */
      reasoning?: string | null | undefined;
      tool_calls?: ChatToolCall[] | undefined;
      name?: string | undefined;
    }
  | { role: 'tool'; content: string | TextContentPart[]; tool_call_id: string };

/** A function that the model may call; `parameters` are a JSON schema. */
export interface ChatTool {
  type: 'function';
  function: {
    name: string;
    description?: string | undefined;
    /** JSON Schema. */
    parameters?: Record<string, unknown> | undefined;
    strict?: boolean | null | undefined;
  };
}

/** What chat and completions both take. Absent and null are the model maker's value, else the engine's. */
export interface CommonParams {
  /** Ignored here, where the model is loaded already; a server chooses by it. */
  model?: string | undefined;
  frequency_penalty?: number | null | undefined;
  /** Token ids, and what is added to their logits, -100 to 100. */
  logit_bias?: Record<string, number> | null | undefined;
  max_tokens?: number | null | undefined;
  /** Only 1. */
  n?: number | null | undefined;
  presence_penalty?: number | null | undefined;
  seed?: number | null | undefined;
  stop?: string | string[] | null | undefined;
  stream_options?: { include_usage?: boolean | undefined } | null | undefined;
  temperature?: number | null | undefined;
  top_p?: number | null | undefined;
  user?: string | undefined;
  /** Not OpenAI's: only the k likeliest tokens. */
  top_k?: number | null | undefined;
  /** Not OpenAI's: only tokens at least this fraction as likely as the likeliest. */
  min_p?: number | null | undefined;
  /** Not OpenAI's: 1 is none. */
  repeat_penalty?: number | null | undefined;
}

/** What the answer must be. A schema is followed to the letter, `strict` or not. */
export type ResponseFormat =
  | { type: 'text' }
  | { type: 'json_object' }
  | {
      type: 'json_schema';
      json_schema: {
        name: string;
        description?: string | undefined;
        schema: Record<string, unknown>;
        strict?: boolean | null | undefined;
      };
    };

export interface ChatParams extends CommonParams {
  messages: ChatMessageParam[];
  logprobs?: boolean | null | undefined;
  /** Alternatives beside each token, 0 to 20. */
  top_logprobs?: number | null | undefined;
  max_completion_tokens?: number | null | undefined;
  tools?: ChatTool[] | undefined;
  /** `none` keeps the tools from the model; `required` and a name make it call. */
  tool_choice?:
    'auto' | 'none' | 'required' | { type: 'function'; function: { name: string } } | undefined;
  /** false: the reply ends after its first call. */
  parallel_tool_calls?: boolean | undefined;
  /** Whether a thinking model thinks: not for `none` and `minimal`, the default. */
  reasoning_effort?: 'none' | 'minimal' | 'low' | 'medium' | 'high' | 'xhigh' | null | undefined;
  response_format?: ResponseFormat | undefined;
  stream?: boolean | null | undefined;
}

export interface CompletionParams extends CommonParams {
  /** A text, or token ids; control tokens written in the text count as such, and `<bos>` is put before it. */
  prompt: string | [string] | number[] | [number[]];
  /** Alternatives beside each token, 0 to 5. */
  logprobs?: number | null | undefined;
  stream?: boolean | null | undefined;
}

/** Tokens of a request. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** Tokens that the KV cache held already. */
  prompt_tokens_details: { cached_tokens: number };
}

/** A token of a reply with its log probability. */
export interface ChatLogprob {
  token: string;
  logprob: number;
  /** UTF-8; null where the token is a part of a character. */
  bytes: number[] | null;
}

/** The tokens of a choice's text. */
export interface ChatLogprobs {
  content: (ChatLogprob & { top_logprobs: ChatLogprob[] })[] | null;
  refusal: null;
}

/** Why a reply ended. */
export type ChatFinishReason = 'stop' | 'length' | 'tool_calls';

/** A whole reply. */
export interface ChatCompletion {
  id: string;
  object: 'chat.completion';
  /** Seconds since 1970. */
  created: number;
  model: string;
  choices: {
    index: number;
    message: {
      role: 'assistant';
      content: string | null;
      refusal: null;
      /** What it thought, where it was asked to think. */
      reasoning?: string;
      tool_calls?: ChatToolCall[];
    };
    logprobs: ChatLogprobs | null;
    finish_reason: ChatFinishReason;
  }[];
  usage: Usage;
}

/** What a chunk adds to the message. */
export interface ChatDelta {
  role?: 'assistant';
  content?: string;
  reasoning?: string;
  tool_calls?: (ChatToolCall & { index: number })[];
}

/** A piece of a streamed reply. */
export interface ChatCompletionChunk {
  id: string;
  object: 'chat.completion.chunk';
  created: number;
  model: string;
  choices: {
    index: number;
    delta: ChatDelta;
    logprobs: ChatLogprobs | null;
    finish_reason: ChatFinishReason | null;
  }[];
  /** With `include_usage`: null until the last chunk, which has no choices. */
  usage?: Usage | null;
}

/** The tokens of a completion, member by member. */
export interface CompletionLogprobs {
  tokens: string[];
  token_logprobs: number[];
  top_logprobs: Record<string, number>[];
  /** Where each token begins in the text, in UTF-16 units. */
  text_offset: number[];
}

/** A whole completion of a prompt. */
export interface Completion {
  id: string;
  object: 'text_completion';
  created: number;
  model: string;
  choices: {
    index: number;
    text: string;
    logprobs: CompletionLogprobs | null;
    finish_reason: 'stop' | 'length';
  }[];
  usage?: Usage;
}

/** As {@link Completion}; `finish_reason` is null until the text ends. */
export interface CompletionChunk extends Omit<Completion, 'choices' | 'usage'> {
  choices: (Omit<Completion['choices'][number], 'finish_reason'> & {
    finish_reason: 'stop' | 'length' | null;
  })[];
  usage?: Usage | null;
}

/** A request for embeddings. */
export interface EmbeddingParams {
  /** A text, token ids, or a list of such, none of them empty. */
  input: string | string[] | number[] | number[][];
  model?: string | undefined;
  /** `base64`: of little-endian f32. Default `float`. */
  encoding_format?: 'float' | 'base64' | undefined;
  /** Only so many of the first dimensions. */
  dimensions?: number | undefined;
  user?: string | undefined;
}

/** Vectors in the order of the inputs. */
export interface EmbeddingResponse {
  object: 'list';
  /** In the order of the input; a text in base64 where that was asked for. */
  data: { object: 'embedding'; index: number; embedding: number[] | string }[];
  model: string;
  usage: { prompt_tokens: number; total_tokens: number };
}

/** A model of the list. */
export interface ModelEntry {
  id: string;
  object: 'model';
  created: number;
  owned_by: string;
}

/** What goes beside a request. */
export interface RequestOptions {
  /** Aborting ends the reply; the call or the loop then rejects with the code `cancelled` (`AbortError`). */
  signal?: AbortSignal | undefined;
}
