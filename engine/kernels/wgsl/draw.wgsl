// Draws the next token (sampling.h): from all logits, or from the candidates. Few numbers are left
// when this runs, so one thread adds them up: its sums are in one order, and few barriers stand
// here, which software GPUs compile slowly. The includer gives THREADS >= K, ranked (the
// candidates, best first) and the bindings of the last top-k kernel.
const NO_TOKEN: u32 = 0xffffffffu;

var<workgroup> weights: array<f32, THREADS>;  // at the temperature
var<workgroup> shares: array<f32, THREADS>;   // at temperature 1
var<workgroup> drawn: u32;
var<workgroup> depth: f32;  // how far into the weight drawn the draw lies

fn draws_from_all() -> bool {
  return params.top_k == 0u && params.top_p >= 1.0 && params.min_p <= 0.0;
}

// How many of `count` candidates the cuts leave; 0 when candidates past them could stay too.
fn kept_by_cuts(count: u32, log_mass: f32) -> u32 {
  var kept = count;
  var closed = count == VOCAB;
  // What top_p is a share of: the top_k candidates, or all tokens.
  var mass = exp(log_mass);
  if (params.top_k > count && !closed) {
    return 0u;
  }
  if (params.top_k > 0u && params.top_k <= count) {
    kept = params.top_k;
    closed = true;
    mass = 0.0;
    for (var i = 0u; i < kept; i += 1u) {
      mass += shares[i];
    }
  }
  var sum = 0.0;
  for (var i = 0u; i < kept; i += 1u) {
    if (i > 0u && shares[i] < params.min_p) {
      return i;
    }
    sum += shares[i];
    if (params.top_p < 1.0 && sum >= params.top_p * mass) {
      // min_p may cut no more: what it would cut lies further on.
      return i + 1u;
    }
  }
  return select(0u, kept, closed);
}

// The weight at bits' share of the sum of the first `count`, into drawn and depth. 23 bits: the
// share stays below the sum.
fn pick(count: u32, bits: u32) {
  var total = 0.0;
  for (var i = 0u; i < count; i += 1u) {
    total += weights[i];
  }
  let goal = f32(bits >> 9u) * 0x1p-23 * total;
  var sum = 0.0;
  for (var i = 0u; i < count; i += 1u) {
    if (sum + weights[i] > goal) {
      drawn = i;
      depth = goal - sum;
      return;
    }
    sum += weights[i];
  }
}

fn run_weight(run: u32, top: f32) -> f32 {
  return bitcast<f32>(partial[4u * run + 3u]) *
         sample_weight(bitcast<f32>(partial[4u * run + 1u]), top);
}
fn logit(id: u32) -> f32 { return key_logit(logit_key(logits[id])); }

// The id drawn; for every thread, to be called in uniform control flow.
fn draw_token(thread: u32, count: u32, top: f32, log_sum_exp: f32, draw: vec2<u32>) -> u32 {
  // With no cut: a run of logits first, thread by thread a few, then a token in it.
  let runs_each = (RUNS + THREADS - 1u) / THREADS;
  let first_run = thread * runs_each;
  let end_run = min(first_run + runs_each, RUNS);
  var weight = 0.0;
  if (draws_from_all()) {
    for (var run = first_run; run < end_run; run += 1u) {
      weight += run_weight(run, top);
    }
  } else if (thread < count) {
    let l = key_logit(ranked[thread].key);
    weight = sample_weight(l, top);
    shares[thread] = weight_of(l - top);
  }
  weights[thread] = weight;
  workgroupBarrier();
  if (thread == 0u) {
    drawn = NO_TOKEN;
    if (draws_from_all()) {
      pick(THREADS, draw.x);
    } else {
      pick(kept_by_cuts(count, log_sum_exp - top), draw.x);
    }
  }
  let place = workgroupUniformLoad(&drawn);
  if (!draws_from_all()) {
    if (place == NO_TOKEN) {
      return NO_TOKEN;
    }
    return ranked[place].id;
  }

  if (thread == place) {
    var at = 0.0;
    for (var run = first_run; run < end_run && at <= depth; run += 1u) {
      let w = run_weight(run, top);
      at += w;
      if (w > 0.0) {
        drawn = run;
      }
    }
  }
  let run = workgroupUniformLoad(&drawn);
  let begin = run * SLICE + thread * (SLICE / THREADS);
  let end = min(begin + SLICE / THREADS, VOCAB);
  let run_top = bitcast<f32>(partial[4u * run + 1u]);
  weight = 0.0;
  for (var id = begin; id < end; id += 1u) {
    weight += sample_weight(logit(id), run_top);
  }
  weights[thread] = weight;
  workgroupBarrier();
  if (thread == 0u) {
    pick(THREADS, draw.y);
  }
  if (thread == workgroupUniformLoad(&drawn)) {
    var at = 0.0;
    for (var id = begin; id < end && at <= depth; id += 1u) {
      let w = sample_weight(logit(id), run_top);
      at += w;
      if (w > 0.0) {
        drawn = id;
      }
    }
  }
  return workgroupUniformLoad(&drawn);
}
