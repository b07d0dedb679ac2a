// Radix selection: the threshold above which exactly `want` of `count` items lie, in the total order
// of (key, lowest id first). 256 threads. The includer gives fn item(i: u32) -> Item, and
// want <= the number of items.
struct Item {
  key: u32,
  id: u32,
}

// (key, ~id) of an item is taken when its masked bits are >= prefix.
struct Threshold {
  mask: vec2<u32>,
  prefix: vec2<u32>,
}

struct Choice {
  digit: u32,
  above: u32,  // items in the bins above
  here: u32,   // items in the bin
}

var<workgroup> bins: array<atomic<u32>, 256>;
var<workgroup> bin_sums: array<u32, 16>;
var<workgroup> choice: Choice;

fn taken(x: Item, threshold: Threshold) -> bool {
  let bits = vec2<u32>(x.key, ~x.id) & threshold.mask;
  return bits.x > threshold.prefix.x ||
         (bits.x == threshold.prefix.x && bits.y >= threshold.prefix.y);
}

// One byte a pass from the top of (key, ~id), until a bin is taken whole.
fn select_threshold(thread: u32, count: u32, want: u32) -> Threshold {
  var threshold = Threshold(vec2<u32>(), vec2<u32>());
  var left = want;
  for (var pass_ = 0u; pass_ < 8u; pass_ += 1u) {
    let shift = 24u - 8u * (pass_ & 3u);
    let in_key = pass_ < 4u;
    atomicStore(&bins[thread], 0u);
    workgroupBarrier();
    for (var i = thread; i < count; i += 256u) {
      let x = item(i);
      let bits = vec2<u32>(x.key, ~x.id);
      if (all((bits & threshold.mask) == threshold.prefix)) {
        atomicAdd(&bins[(select(bits.y, bits.x, in_key) >> shift) & 255u], 1u);
      }
    }
    workgroupBarrier();
    if (thread < 16u) {
      var sum = 0u;
      for (var i = 0u; i < bound(16u); i += 1u) {
        sum += atomicLoad(&bins[16u * thread + i]);
      }
      bin_sums[thread] = sum;
    }
    workgroupBarrier();
    var above = 0u;
    for (var i = thread / 16u + 1u; i < bound(16u); i += 1u) {
      above += bin_sums[i];
    }
    for (var i = thread + 1u; i % 16u != 0u; i += 1u) {
      above += atomicLoad(&bins[i]);
    }
    let here = atomicLoad(&bins[thread]);
    if (above < left && above + here >= left) {
      choice = Choice(thread, above, here);
    }
    let chosen = workgroupUniformLoad(&choice);
    left -= chosen.above;
    let mask = select(vec2<u32>(0u, 255u << shift), vec2<u32>(255u << shift, 0u), in_key);
    threshold.mask |= mask;
    threshold.prefix |= mask & vec2<u32>(chosen.digit << shift);
    if (chosen.here == left) {
      break;
    }
  }
  return threshold;
}
