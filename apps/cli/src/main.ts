#!/usr/bin/env node
// The command line: run, pull, list, show, rm, tokenize, embed, finetune, export, bench, serve.

import { Command, CommanderError, Option } from 'commander';
import { embed } from './commands/embed.js';
import { list } from './commands/list.js';
import { run } from './commands/run.js';
import { show } from './commands/show.js';
import { transcribe } from './commands/transcribe.js';
import { tokenize } from './commands/tokenize.js';
import { EXIT, EXIT_HELP, report } from './exit.js';
import {
  collect,
  context,
  drafter,
  encoders,
  gpuMemory,
  kvType,
  models,
  noDrafter,
  number,
  perLayerEmbeddings,
  projector,
  wholeFrom,
  wholes,
  wholesFrom0,
  words,
} from './options.js';

// A reader that has seen enough (`| head`) closes the pipe: nothing is wrong, and nothing more is wanted.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.ok);
  throw error;
});

let exitCode: number = EXIT.ok;
/** Runs a command; its errors become a line and an exit code. */
function guarded<Args extends unknown[]>(command: (...args: Args) => Promise<number>) {
  return async (...args: Args): Promise<void> => {
    const flags = args.at(-2) as { json?: boolean };
    try {
      exitCode = await command(...args);
    } catch (error) {
      exitCode = report(error, flags.json === true);
    }
  };
}
/** The same for a command whose code is loaded when it is asked for: it would cost the others time. */
function guardedLater<Args extends unknown[]>(
  load: () => Promise<(...args: Args) => Promise<number>>,
) {
  return guarded(async (...args: Args) => (await load())(...args));
}

const program = new Command('lapidary')
  .description("Runs Gemma 4 on this machine's GPU, from the models that Ollama has on disk.")
  .version('0.0.0')
  .showHelpAfterError('(--help says more)')
  .configureHelp({ showGlobalOptions: true })
  .exitOverride()
  .addHelpText('after', EXIT_HELP);

const MODEL = 'a name (nano, gemma4:e2b, hf.co/user/repo:tag), a .gguf file, or an http(s) address';

program
  .command('run')
  .description('Answer a prompt, or hold a conversation when there is none')
  .argument('<model>', MODEL)
  .argument('[prompt...]', 'the prompt; text from a pipe or a file is put below it, or is it')
  .option('--system <text>', 'what the model is told before everything else')
  .option('--think', 'let the model think before it answers')
  .option('--seed <n>', 'the same seed gives the same answer on the same GPU', wholeFrom(0))
  .option('--temperature <n>', '0 is greedy', number(0, 100))
  .option('--top-k <n>', 'only the n likeliest tokens; 0 is all', wholeFrom(0))
  .option('--top-p <p>', 'only the likeliest tokens that together reach p', number(0, 1))
  .option('--min-p <p>', 'only tokens at least p times as likely as the likeliest', number(0, 1))
  .option('--repeat-penalty <n>', '1 is none', number(0.01, 100))
  .option('--max-tokens <n>', 'most tokens to write', wholeFrom(1))
  .option('--stop <text>', 'end the answer before this text (may be given several times)', collect)
  .option('--format <json|file>', 'answer in JSON, or as the JSON schema in the file says')
  .addOption(context())
  .addOption(kvType())
  .addOption(perLayerEmbeddings())
  .addOption(gpuMemory())
  .option(
    '--adapter <path[:scale]>',
    "a LoRA adapter: a .gguf or .safetensors file, PEFT's folder, or an http(s) address (may be given several times)",
    collect,
  )
  .option(
    '--image <path>',
    'a picture that comes before the prompt: a file or an http(s) address (may be given several times)',
    collect,
  )
  .option(
    '--audio <path>',
    'a recording that comes before the prompt: a WAV file or an http(s) address (may be given several times)',
    collect,
  )
  .addOption(
    new Option('--image-tokens <n>', 'what a picture becomes at most: more show more detail')
      .choices(['70', '140', '280', '560', '1120'])
      .default('280'),
  )
  .addOption(projector())
  .addOption(encoders())
  .addOption(drafter())
  .addOption(noDrafter())
  .option('--raw', 'give the prompt to the model as it is, without the chat template')
  .option('--json', 'events as JSON, one a line; the last has the type "done"')
  .option('--verbose', 'all timings and counts at the end')
  .addOption(models())
  .addHelpText(
    'after',
    `
The answer goes to standard output; the GPU, the speed and the thinking go to standard error. In a conversation,
paths of pictures and WAV files among what is said are these.

Examples:
  lapidary run nano "What is the capital of France?"
  lapidary run gemma4:e2b
  git diff | lapidary run gemma4:e2b "Review this change."
  lapidary run gemma4:e2b --image cat.png "What is in this picture?"
  lapidary run ./model.gguf --temperature 0 --json "Hello"
  lapidary run gemma4:e2b --adapter ./my-lora --adapter ./style.gguf:0.5 "Hello"
${EXIT_HELP}`,
  )
  .action(guarded(run));

program
  .command('transcribe')
  .description('Write down what is said in a recording, by windows of 30 seconds')
  .argument('<model>', MODEL)
  .argument('<file>', 'a WAV file of any rate and channels, or its http(s) address')
  .option('--prompt <text>', 'what the model is told to do with each window')
  .option('--max-tokens <n>', 'most tokens to write for a window', wholeFrom(1))
  .option('--json', '{start, end, text} of each window, as JSON, one a line')
  .addOption(projector())
  .addOption(encoders())
  .addOption(drafter())
  .addOption(noDrafter())
  .addOption(context())
  .addOption(kvType())
  .addOption(perLayerEmbeddings())
  .addOption(gpuMemory())
  .addOption(models())
  .addHelpText(
    'after',
    `\nThe words go to standard output as they come, with minutes and seconds.\n${EXIT_HELP}`,
  )
  .action(guarded(transcribe));

program
  .command('pull')
  .description(
    "Fetch a model from its registry into Ollama's folder; Ctrl-C stops, the same command goes on",
  )
  .argument('<model>', 'a name: gemma4:e2b, hf.co/user/repo:tag, localhost:5000/library/nano')
  .option('--registry <address>', "ask this registry, not the one in the model's name")
  .option('--insecure', 'allow plain http to a registry on another machine')
  .option('--verify', 'check the layers that are there already, too, and fetch what is damaged')
  .option('--json', 'events as JSON, one a line; the last has the type "done"')
  .addOption(models())
  .addHelpText(
    'after',
    `
It goes to --models, else $OLLAMA_MODELS, else ~/.ollama/models. Layers that are there are not fetched again.

Examples:
  lapidary pull gemma4:e2b
  lapidary pull hf.co/user/repo:Q4_K_M --models /mnt/models
  lapidary pull nano --registry http://localhost:5000
${EXIT_HELP}`,
  )
  .action(guardedLater(async () => (await import('./commands/pull.js')).pull));

program
  .command('rm')
  .description('Delete a model, or what an unfinished pull of it has left')
  .argument('<model>', 'a name, as list shows it')
  .option('--json', 'what was deleted, as JSON')
  .addOption(models())
  .addHelpText(
    'after',
    `
It is deleted from --models alone, if that is given, else from the first of $OLLAMA_MODELS, ~/.ollama/models and the
folder of Ollama's service that has it. Layers that other models there need stay.

Examples:
  lapidary rm gemma4:e2b
  lapidary rm someone/model:tag --models /mnt/models`,
  )
  .action(guardedLater(async () => (await import('./commands/rm.js')).rm));

program
  .command('list')
  .description('List the models on this machine')
  .option('--json', 'as JSON')
  .addOption(models())
  .addHelpText(
    'after',
    `
Searched: --models, $OLLAMA_MODELS, ~/.ollama/models, Ollama's service on Linux, the embedded models.

Examples:
  lapidary list
  lapidary list --models /mnt/models --json`,
  )
  .action(guarded(list));

program
  .command('show')
  .description("Show what a model's file says about it")
  .argument('<model>', 'a name or a .gguf file')
  .option('--tensors', 'list the tensors, too')
  .option('--json', 'as JSON')
  .addOption(context())
  .addOption(kvType())
  .addOption(gpuMemory())
  .addOption(models())
  .addHelpText(
    'after',
    `
Examples:
  lapidary show nano
  lapidary show ./model.gguf --tensors
  lapidary show gemma4:26b --gpu-memory 8GiB`,
  )
  .action(guarded(show));

program
  .command('tokenize')
  .description('Show the tokens of a text')
  .argument('<model>', MODEL)
  .argument('<text>', 'the text')
  .option('--ids', 'only the ids, on one line')
  .option('--bos', 'begin with <bos>')
  .option('--specials', 'read control tokens in the text as such')
  .option('--json', 'as JSON')
  .addOption(models())
  .addHelpText(
    'after',
    `
Examples:
  lapidary tokenize nano "Hello, world"
  lapidary tokenize nano --ids --specials "<|turn>user"`,
  )
  .action(guarded(tokenize));

program
  .command('embed')
  .description('Print the embeddings of texts, each as a list in JSON on a line of its own')
  .argument('<model>', MODEL)
  .argument('<text...>', 'the texts')
  .addOption(
    new Option('--pooling <how>', 'of the hidden states (default mean)').choices(['mean', 'last']),
  )
  .option('--dimensions <n>', 'only the first n', wholeFrom(1))
  .option('--no-normalize', 'vectors as they are, not of length 1')
  .option('--truncate', 'cut texts that are longer than the context')
  .addOption(context())
  .addOption(kvType())
  .addOption(perLayerEmbeddings())
  .addOption(gpuMemory())
  .addOption(models())
  .addHelpText(
    'after',
    `
Examples:
  lapidary embed nano "The sky is blue." "Grass is green."
  lapidary embed gemma4:e2b --dimensions 256 "The sky is blue."`,
  )
  .action(guarded(embed));

program
  .command('finetune')
  .description('Train a LoRA adapter on examples; Ctrl-C stops, the same command goes on')
  .argument('<model>', MODEL)
  .argument('[data]', 'examples, as JSON Lines; gzip, too')
  .option('--out <folder>', 'where the adapter and the checkpoint go')
  .option('--probe', 'only try what fits in memory, with these options; nothing is read or written')
  .option('--restart', 'begin anew, even if the folder holds a checkpoint')
  .option('--epochs <n>', 'how often to see every example (default 3)', number(0.001, 100000))
  .option('--steps <n>', 'train for n steps instead', wholeFrom(1))
  .option('--rank <n>', 'of the adapter (default 16)', number(1, 1024, true))
  .option(
    '--alpha <n>',
    'the adapter counts alpha / rank times (default 2 rank)',
    number(1e-6, 1e6),
  )
  .option('--rs-lora', 'it counts alpha / sqrt(rank) times instead')
  .option('--dropout <p>', "of the adapter's inputs (default 0)", number(0, 0.99))
  .option(
    '--targets <list>',
    'q,k,v,o,gate,up,down,per_layer_gate,per_layer_projection,head',
    words,
  )
  .option('--layers <list>', 'numbers of layers, from 0 (default all)', wholesFrom0)
  .option('--learning-rate <n>', 'the highest (default 2e-4)', number(0, 1))
  .addOption(
    new Option('--schedule <name>', 'of the learning rate (default cosine)').choices([
      'constant',
      'linear',
      'cosine',
      'cosine-restarts',
    ]),
  )
  .option(
    '--warmup <part>',
    'part of the steps that the rate rises (default 0.03)',
    number(0, 0.99),
  )
  .option('--restarts <n>', 'cycles of cosine-restarts', wholeFrom(1))
  .option('--weight-decay <n>', 'default 0.01', number(0, 10))
  .option('--clip <n>', 'largest norm of the gradients; 0 is any (default 1)', number(0, 1e6))
  .option('--max-length <n>', 'tokens of an example (default 512)', wholeFrom(8))
  .addOption(
    new Option('--long-examples <what>', 'for those that are longer (default cut)').choices([
      'cut',
      'split',
      'drop',
    ]),
  )
  .option('--batch <n>', 'rows at once (default 1)', wholeFrom(1))
  .option('--accumulation <n>', 'batches of a step (default 1)', wholeFrom(1))
  .option('--no-pack', 'one example a row')
  .option('--no-checkpointing', 'keep all activations: faster, with more memory')
  .option('--eval <part>', 'part of the data to evaluate with, not trained on', number(0, 0.99))
  .option('--eval-every <n>', 'steps between evaluations (default: an epoch)', wholeFrom(1))
  .addOption(
    new Option('--supervise <which>', 'which answers of a conversation to learn').choices([
      'all',
      'last',
    ]),
  )
  .addOption(
    new Option('--bad-lines <what>', 'for lines that are no examples (default fail)').choices([
      'fail',
      'skip',
    ]),
  )
  .option('--checkpoint-every <n>', 'steps between checkpoints (default 100)', wholeFrom(1))
  .option('--seed <n>', 'the same seed gives the same adapter on the same GPU', wholeFrom(0))
  .option('--json', 'events as JSON, one a line; the last has the type "done"')
  .addOption(context())
  .addOption(perLayerEmbeddings())
  .addOption(gpuMemory())
  .addOption(models())
  .addHelpText(
    'after',
    `
A line of the data is {"messages": […]}, {"prompt", "completion"}, {"instruction", "input", "output"},
{"conversations": […]} or {"text"}. The folder holds the adapter as PEFT reads it; docs/fine-tuning.md says more.

Examples:
  lapidary finetune nano models/data/pirate.jsonl --out pirate --max-length 64 --epochs 10 --learning-rate 1e-3
  lapidary run nano --adapter pirate "What is the capital of France?"
  lapidary finetune gemma4:e2b --probe --max-length 1024 --batch 4
  lapidary finetune gemma4:e2b chats.jsonl.gz --out mine --eval 0.05 --max-length 1024 --accumulation 8
${EXIT_HELP}`,
  )
  .action(guardedLater(async () => (await import('./commands/finetune.js')).finetune));

program
  .command('export')
  .description("Merge LoRA adapters into a model's file, or convert an adapter to another format")
  .argument('[model]', `with --merge: ${MODEL}`)
  .option(
    '--adapter <path[:scale]>',
    "as run takes it; may be given several times with --merge, which adds each to the model's weights",
    collect,
  )
  .option('--merge <file>', 'write the model with the adapters in it as this GGUF file')
  .option('--gguf <file>', "write the adapter as llama.cpp's GGUF LoRA")
  .option('--peft <folder>', "write the adapter as PEFT's two files")
  .addOption(
    new Option(
      '--type <type>',
      'of the matrices that are changed (default keep: as each is)',
    ).choices([
      'keep',
      'f32',
      'f16',
      'bf16',
      'q8_0',
      'q4_0',
      'q4_1',
      'q5_0',
      'q5_1',
      'q4_k',
      'q5_k',
      'q6_k',
    ]),
  )
  .option('--force', 'replace a file that is there')
  .option('--json', 'what was written, as JSON')
  .addOption(models())
  .addHelpText(
    'after',
    `
It needs no GPU. Types of few bits round small changes away; a line at the end says so where it happens.

Examples:
  lapidary export gemma4:e2b --adapter ./my-lora --merge mine.gguf
  lapidary export ./base-f16.gguf --adapter ./my-lora --adapter ./style.gguf:0.5 --merge mine.gguf --type q8_0
  printf 'FROM ./mine.gguf\\n' > Modelfile && ollama create mine -f Modelfile
  lapidary export --adapter ./my-lora --gguf my-lora.gguf
${EXIT_HELP}`,
  )
  .action(guardedLater(async () => (await import('./commands/export.js')).exportAdapters));

program
  .command('bench')
  .description('Check that the engine is right, then measure how fast it is')
  .argument('[model]', `${MODEL}; with --synthesize, the file to write`)
  .option('--contexts <n,…>', 'decode after so many tokens (default 128,2048,8192)', wholes)
  .option('--prefills <n,…>', 'time prompts of so many tokens (default 128,512,2048)', wholes)
  .option(
    '--repeats <n>',
    'measure each number n times; the median counts (default 5)',
    wholeFrom(1),
  )
  .option('--loads <n>', 'load the model n times (default: as --repeats)', wholeFrom(1))
  .option('--decode-tokens <n>', 'tokens of each timed decode (default 128)', wholeFrom(2))
  .option('--first-token <n>', 'await the first token after n tokens (default 512)', wholeFrom(1))
  .option('--profile', 'time every kernel on the GPU, too')
  .addOption(
    new Option('--variant-dot <form>', 'how decoding multiplies; f32 is the exact form').choices([
      'f32',
      'int16',
      'int8',
    ]),
  )
  .addOption(
    new Option(
      '--variant-prefill <form>',
      'how prompts are multiplied (default: as is measured to be fastest)',
    ).choices(['f32', 'int16', 'int8', 'matrix']),
  )
  .addOption(
    new Option('--variant-subgroups <use>', 'whether kernels use subgroups').choices(['on', 'off']),
  )
  .addOption(kvType())
  .addOption(perLayerEmbeddings())
  .addOption(drafter())
  .option(
    '--draft-tokens <n>',
    'guesses of the drafter at a time, 1 to 8 (default: as pay)',
    wholeFrom(1),
  )
  .addOption(gpuMemory())
  .option('--no-tune', 'kernels as their shapes suggest, not as timing on this GPU does')
  .option('--batch-size <n>', 'tokens of a prompt that run at once (default 512)', wholeFrom(1))
  .option(
    '--sessions <n>',
    'conversations in the KV cache; time their prompts together, too (default 1)',
    wholeFrom(1),
  )
  .option(
    '--concurrency <n,…>',
    'time so many replies at once, too: 1,2,4,8',
    (text: string): number[] => text.split(',').map(number(1, 64, true)),
  )
  .option(
    '--lora-rank <n>',
    'measure with a LoRA adapter of random values on the seven projections of every layer',
    number(1, 1024, true),
  )
  .option('--known-answers <file>', 'logits of this model, as reference_logits writes them')
  .option('--json', 'as JSON')
  .option('--out <file>', 'write the JSON to a file, too')
  .addOption(
    new Option(
      '--synthesize <shape>',
      'write a model of random weights in the shapes of a real one instead: 3.2, 5, 7, 16 or 17 GiB in Q4_K_M, or tiny',
    ).choices(['e2b', 'e4b', '12b', '26b-a4b', '31b', 'tiny']),
  )
  .option(
    '--seed <n>',
    'of --synthesize: the same seed writes the same file (default 1)',
    wholeFrom(0),
  )
  .addOption(models())
  .addHelpText(
    'after',
    `
The model is nano unless another is named. Before any speed is shown, nano must give its known answers, and so must
the model if its logits are known; if an answer is wrong, the exit code is 1 and no number is shown.

Examples:
  lapidary bench
  lapidary bench gemma4:e2b --profile --out e2b.json
  lapidary bench --synthesize e2b ./e2b.gguf && lapidary bench ./e2b.gguf --contexts 128,2048
${EXIT_HELP}`,
  )
  .action(guardedLater(async () => (await import('./commands/bench.js')).bench));

program
  .command('serve')
  .description("Serve the page, the models, and OpenAI's and Ollama's interfaces to them")
  .option('--port <n>', 'where to listen; 0 is any free port', number(0, 65535, true), 11535)
  .option('--host <address>', 'on which address; others than loopback need --token', '127.0.0.1')
  .option('--token <text>', 'what requests must bear (or LAPIDARY_TOKEN, which others cannot see)')
  .option('--origin <origin>', 'a site whose pages may ask, too (several times)', collect)
  .option(
    '--allow-host <name>',
    'a name by which requests may call this machine (several times)',
    collect,
  )
  .option(
    '--keep-alive <time>',
    'how long a model stays after its last reply: 5m, 0, -1 for ever',
    '5m',
  )
  .option(
    '--parallel <n>',
    'replies that are written at once, and conversations that stay in the cache',
    number(1, 64, true),
    4,
  )
  .option('--pull', 'let clients pull and delete models; as it is unless --host is not loopback')
  .option('--no-pull', 'let them not')
  .option(
    '--insecure-registry <host>',
    'a registry that clients may have asked in plain http: host:port (several times)',
    collect,
  )
  .addOption(
    new Option('--log <format>', 'a line a request on standard error')
      .choices(['text', 'json'])
      .default('text'),
  )
  .addOption(context())
  .addOption(kvType())
  .addOption(perLayerEmbeddings())
  .addOption(noDrafter())
  .addOption(gpuMemory())
  .addOption(models())
  .addHelpText(
    'after',
    `
The page is at /, the weights of a model at /models/NAME, OpenAI's interface at /v1, Ollama's at /api, counters at
/metrics. Only this machine reaches it unless --host says otherwise. Ctrl-C stops it.

Examples:
  lapidary serve
  lapidary serve --port 11434        # where Ollama's clients look
  LAPIDARY_TOKEN=$(openssl rand -hex 16) lapidary serve --host 0.0.0.0`,
  )
  .action(guardedLater(async () => (await import('./commands/serve.js')).serve));

for (const command of program.commands)
  command.exitOverride().showHelpAfterError('(--help says more)');

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof CommanderError)) throw error;
  exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
}
// Dawn's threads would keep the process alive; what was written to a pipe is flushed first.
process.exitCode = exitCode;
process.stdout.write('', () => process.stderr.write('', () => process.exit(exitCode)));
