// A prompt of the AI SDK's as a conversation of ours.

import type {
  LanguageModelV4FilePart,
  LanguageModelV4Message,
  LanguageModelV4Prompt,
  LanguageModelV4ToolResultOutput,
} from '@ai-sdk/provider';
import { LapidaryError } from '../errors.js';
import type { ContentPart, Message, ToolCall } from '../types.js';

const unsupported = (what: string) =>
  new LapidaryError(
    'unsupported',
    `the prompt has ${what}: messages are text, pictures, thinking and tool calls`,
  );

function partOfFile({ data, mediaType }: LanguageModelV4FilePart): ContentPart {
  if (data.type === 'text') return { type: 'text', text: data.text };
  if (!/^image(\/|$)/i.test(mediaType)) throw unsupported(`a file (${mediaType})`);
  switch (data.type) {
    case 'url':
      return { type: 'image', image: data.url };
    case 'data':
      return {
        type: 'image',
        image:
          typeof data.data === 'string'
            ? `data:${mediaType};base64,${data.data}`
            : new Uint8Array(data.data),
      };
    default:
      throw unsupported(`a picture by a provider's reference`);
  }
}

/** What a tool answered, as the model reads it. */
function textOfOutput(output: LanguageModelV4ToolResultOutput): string {
  switch (output.type) {
    case 'text':
    case 'error-text':
      return output.value;
    case 'json':
    case 'error-json':
      return JSON.stringify(output.value);
    case 'execution-denied':
      return output.reason ?? 'The call was not allowed.';
    case 'content':
      return output.value
        .map((part) => {
          if (part.type === 'text') return part.text;
          if (part.type === 'file' && part.data.type === 'text') return part.data.text;
          throw unsupported(`a tool's answer with a part of the type '${part.type}'`);
        })
        .join('\n');
  }
}

function assistantMessage(
  content: (LanguageModelV4Message & { role: 'assistant' })['content'],
): Message {
  let text = '';
  let thinking = '';
  const toolCalls: ToolCall[] = [];
  for (const part of content) {
    if (part.type === 'text') text += part.text;
    else if (part.type === 'reasoning') thinking += part.text;
    else if (part.type === 'tool-call') {
      // What was no object when it was called is none that the model would have written.
      const input = part.input as ToolCall['arguments'];
      toolCalls.push({ name: part.toolName, arguments: input });
    } else throw unsupported(`a part of the type '${part.type}' in an assistant's message`);
  }
  return {
    role: 'assistant',
    content: text,
    ...(thinking !== '' && { thinking }),
    ...(toolCalls.length > 0 && { toolCalls }),
  };
}

function messagesOf(message: LanguageModelV4Message): Message[] {
  switch (message.role) {
    case 'system':
      return [{ role: 'system', content: message.content }];
    case 'user': {
      const content = message.content.map((part): ContentPart =>
        part.type === 'text' ? { type: 'text', text: part.text } : partOfFile(part),
      );
      return [{ role: 'user', content }];
    }
    case 'assistant':
      return [assistantMessage(message.content)];
    case 'tool':
      return message.content.map((part) => {
        if (part.type !== 'tool-result') throw unsupported(`a part of the type '${part.type}'`);
        return { role: 'tool', name: part.toolName, content: textOfOutput(part.output) };
      });
  }
}

/** The conversation; `unsupported` for parts that are not text, pictures, thinking or calls. */
export const conversationOf = (prompt: LanguageModelV4Prompt): Message[] =>
  prompt.flatMap(messagesOf);
