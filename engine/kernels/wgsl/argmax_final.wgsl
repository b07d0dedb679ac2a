// The best of the runs becomes the next token, and the step advances.
@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  var best = Best(0u, 0xffffffffu);
  for (var i = thread; i < RUNS; i += THREADS) {
    let run = partial[i];
    best = better(best, Best(run.x, run.y));
  }
  best = workgroup_best(thread, best);
  if (thread == 0u) {
    tokens[0] = best.id;
    results[step.position % RESULT_SLOTS] = best.id;
    step.position += 1u;
  }
}
