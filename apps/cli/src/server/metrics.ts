// Counters of the server, in Prometheus' text format.

import type { ReplyReport } from 'lapidary/node';

/** What is true at the moment it is asked. */
export interface Gauges {
  /** Requests that wait for the GPU. */
  waiting: number;
  /** Requests that it works on. */
  running: number;
  /** Models in its memory. */
  models: number;
}

const quoted = (text: string) =>
  text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');

export class Metrics {
  private readonly requests = new Map<string, number>();
  private promptTokens = 0;
  private cachedTokens = 0;
  private generatedTokens = 0;

  /** `route` is a pattern, not a path: labels must stay few. */
  countRequest(method: string, route: string, status: number): void {
    const labels = `method="${quoted(method)}",route="${quoted(route)}",status="${status}"`;
    this.requests.set(labels, (this.requests.get(labels) ?? 0) + 1);
  }

  countReply({ usage }: Pick<ReplyReport, 'usage'>): void {
    this.promptTokens += usage.promptTokens;
    this.cachedTokens += usage.cachedTokens;
    this.generatedTokens += usage.completionTokens;
  }

  text({ waiting, running, models }: Gauges): string {
    const lines: string[] = [];
    const add = (name: string, type: string, help: string, samples: [string, number][]) => {
      lines.push(`# HELP lapidary_${name} ${help}`, `# TYPE lapidary_${name} ${type}`);
      for (const [labels, value] of samples) {
        lines.push(`lapidary_${name}${labels && `{${labels}}`} ${value}`);
      }
    };
    const counter = (name: string, help: string, value: number) =>
      add(name, 'counter', help, [['', value]]);
    const gauge = (name: string, help: string, value: number) =>
      add(name, 'gauge', help, [['', value]]);
    add('requests_total', 'counter', 'Requests answered.', [...this.requests]);
    counter('prompt_tokens_total', 'Tokens of prompts.', this.promptTokens);
    counter('cached_tokens_total', 'Of those, tokens that the cache held.', this.cachedTokens);
    counter('generated_tokens_total', 'Tokens written.', this.generatedTokens);
    gauge('queue_length', 'Requests that wait for the GPU.', waiting);
    gauge('replies_running', 'Requests that the GPU works on.', running);
    gauge('models_loaded', 'Models in memory.', models);
    return `${lines.join('\n')}\n`;
  }
}
