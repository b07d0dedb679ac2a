// What a call of the AI SDK's asks for, in our terms; what cannot be honoured becomes a warning, as the SDK has it.

import type {
  LanguageModelV4CallOptions,
  LanguageModelV4FunctionTool,
  SharedV4Warning,
} from '@ai-sdk/provider';
import type { ChatOptions, Tool } from '../types.js';

/** Ours beside the SDK's, under `providerOptions.lapidary`. */
export type LapidaryOptions = Pick<
  ChatOptions,
  'think' | 'minP' | 'repeatPenalty' | 'repeatLastN' | 'logitBias'
>;

const OURS = new Set(['think', 'minP', 'repeatPenalty', 'repeatLastN', 'logitBias']);

export interface Asked {
  options: ChatOptions;
  /** Whether the reply must not call. */
  noCalls: boolean;
  warnings: SharedV4Warning[];
}

function toolOf(tool: LanguageModelV4FunctionTool): Tool {
  const { name, description, inputSchema } = tool;
  const parameters = inputSchema as Record<string, unknown>;
  return {
    type: 'function',
    function: { name, ...(description !== undefined && { description }), parameters },
  };
}

/** SDK levels of reasoning are one here: a model thinks, or does not. */
function thinks(reasoning: LanguageModelV4CallOptions['reasoning'], usual: boolean): boolean {
  if (reasoning === undefined || reasoning === 'provider-default') return usual;
  return reasoning !== 'none' && reasoning !== 'minimal';
}

function chosenTool(choice: LanguageModelV4CallOptions['toolChoice']): ChatOptions['toolChoice'] {
  if (choice?.type === 'required') return 'required';
  return choice?.type === 'tool' ? { name: choice.toolName } : undefined;
}

function formatOf(format: LanguageModelV4CallOptions['responseFormat']): ChatOptions['format'] {
  if (format?.type !== 'json') return undefined;
  return (format.schema as Exclude<ChatOptions['format'], 'json'>) ?? 'json';
}

const withoutAbsent = <T extends object>(object: T): T =>
  Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as T;

export function readOptions(asked: LanguageModelV4CallOptions, usual: LapidaryOptions): Asked {
  const warnings: SharedV4Warning[] = [];
  const warn = (feature: string, details: string) =>
    warnings.push({ type: 'unsupported', feature, details });

  const ours = asked.providerOptions?.lapidary ?? {};
  for (const key of Object.keys(ours)) {
    if (!OURS.has(key)) warn(`providerOptions.lapidary.${key}`, 'there is no such option');
  }
  const known = Object.fromEntries(Object.entries(ours).filter(([key]) => OURS.has(key)));
  const { think = false, ...more }: LapidaryOptions = { ...usual, ...known };

  const { toolChoice } = asked;
  const tools: Tool[] = [];
  for (const tool of asked.tools ?? []) {
    if (tool.type !== 'function') {
      warn(`tool ${tool.id}`, 'there are no tools of a provider here');
      continue;
    }
    const forced = toolChoice?.type === 'required' || toolChoice?.type === 'tool';
    if (tool.strict && !forced) {
      warn(`tool ${tool.name}: strict`, 'only the arguments of a call that is required are forced');
    }
    if (tool.inputExamples?.length) {
      warn(`tool ${tool.name}: inputExamples`, 'put them into its description');
    }
    tools.push(toolOf(tool));
  }
  const noCalls = toolChoice?.type === 'none';
  const { seed } = asked;
  return {
    noCalls,
    warnings,
    options: withoutAbsent<ChatOptions>({
      ...more,
      temperature: asked.temperature,
      topP: asked.topP,
      topK: asked.topK,
      presencePenalty: asked.presencePenalty,
      frequencyPenalty: asked.frequencyPenalty,
      maxTokens: asked.maxOutputTokens,
      stop: asked.stopSequences,
      seed: seed !== undefined && seed < 0 ? seed + 2 ** 53 : seed,
      think: thinks(asked.reasoning, think),
      tools: noCalls || tools.length === 0 ? undefined : tools,
      toolChoice: chosenTool(toolChoice),
      format: formatOf(asked.responseFormat),
    }),
  };
}
