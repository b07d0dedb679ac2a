// `serve` on nano as a program of its own, with the clients that people have, for the tests of a file; and what they ask.

import { Ollama } from 'ollama';
import OpenAI from 'openai';
import { afterAll, beforeAll } from 'vitest';
import { QUESTION, startServer, type Running } from './harness.ts';

export const TOKEN = 'a token of these tests';
export const FRIEND = 'https://friend.example';
export const CHAT = '/v1/chat/completions';

export const question = [{ role: 'user' as const, content: QUESTION }];
export const ANSWER = 'The capital of France is Paris.';
export const greedy = { model: 'nano', messages: question, temperature: 0 };
export const CAPITAL = {
  type: 'object',
  properties: { city: { enum: ['London', 'Paris'] }, sure: { type: 'boolean' } },
  required: ['city', 'sure'],
  additionalProperties: false,
};
export const schemaFormat = (schema: Record<string, unknown>) => ({
  response_format: {
    type: 'json_schema' as const,
    json_schema: { name: 'answer', strict: true, schema },
  },
});
/** A reply that goes on and on. */
export const endless = {
  model: 'nano',
  messages: [{ role: 'user' as const, content: 'Tell me a story.' }],
  temperature: 0,
  logit_bias: { 1: -100, 106: -100, 50: -100 },
};

export const ask = [{ role: 'user' as const, content: 'What is the weather in Paris?' }];

export interface ApiServer {
  server: Running;
  port: number;
  /** "http://127.0.0.1:PORT" */
  base: string;
  openai: OpenAI;
  ollama: Ollama;
  /** A number of /metrics. */
  metric(name: string): Promise<number>;
  /** Waits until nothing runs, and resolves with the tokens generated so far: then no more may come. */
  settled(): Promise<number>;
}

/** There once the first test of the file runs. */
export function apiServer(): ApiServer {
  const headers = { Authorization: `Bearer ${TOKEN}` };
  const api = {
    async metric(name: string) {
      const text = await (await fetch(`${api.base}/metrics`, { headers })).text();
      return Number(new RegExp(`^lapidary_${name} (\\d+)$`, 'm').exec(text)?.[1]);
    },
    async settled() {
      while ((await api.metric('replies_running')) + (await api.metric('queue_length')) > 0) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return api.metric('generated_tokens_total');
    },
  } as ApiServer;
  beforeAll(async () => {
    const flags = ['--origin', FRIEND, '--context', '512', '--log', 'json'];
    Object.assign(api, await startServer(flags, { env: { LAPIDARY_TOKEN: TOKEN } }));
    api.base = `http://127.0.0.1:${api.port}`;
    api.openai = new OpenAI({ baseURL: `${api.base}/v1`, apiKey: TOKEN, maxRetries: 0 });
    api.ollama = new Ollama({ host: api.base, headers });
  });
  afterAll(() => api.server?.kill('SIGKILL'));
  return api;
}
