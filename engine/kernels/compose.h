// Composes a kernel's WGSL from constants, flags and the modules in wgsl/. Shapes are compile-time
// text: a kernel is specialised for its matrix.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/kernels/layout.h"

namespace lapidary::kernels {

// What Device::create_kernel takes. layout: one letter a binding (engine/gpu/host.h).
struct KernelSource {
  std::string wgsl;
  std::string layout;
  std::string label;
};

// How weights of a block format are multiplied. The integer forms quantise the activations, a block
// at a time (16 for a matvec, 32 for a matmul), to sums of signed bytes that packed integer
// products take (dot4I8Packed).
enum class Dot : uint8_t {
  kF32,    // weights are decoded to f32
  kInt16,  // activations in two bytes: an error of at most 2^-15 of the largest of the block
  kInt8,   // activations in one byte: 2^-8
  // Of matmuls only. Weights and activations become halves (2^-10 of each), and matrices of 16 by
  // 16 are multiplied by subgroups, summed in f32.
  kMatrix,
};
inline constexpr Dot kDots[] = {Dot::kF32, Dot::kInt16, Dot::kInt8, Dot::kMatrix};

// "f32", "int16", "int8", "matrix".
std::string_view dot_name(Dot dot);

// The forms a kernel can take on a device; chosen at load by the self-test (selftest.h).
struct Variant {
  bool subgroups = false;  // reductions by subgroup shuffles where the hardware's subgroups allow
  bool light =
      false;  // loops stay loops: for software GPUs, whose compilers unroll without measure
  Dot dot = Dot::kF32;  // of matvecs
  // The form of every matmul that can have it. Where absent: kF32, or the form of `dot` or kMatrix
  // where that was measured to be faster (matmul_forms).
  std::optional<Dot> prefill;
  bool matrix = false;  // whether kMatrix is one of the forms to choose from
  bool operator==(const Variant&) const = default;
};

// The workgroups of a dispatch.
struct Groups {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
};
// `count` workgroups in x, folded into y when there are more than 65,535; there may be more than
// `count` then. Kernels number them workgroup_id.y * num_workgroups.x + workgroup_id.x and skip the
// surplus.
Groups fold_groups(uint64_t count);

// Builds a kernel's text. Lines of a module that start with "//#" are directives:
//   //#if NAME, //#if !NAME, //#else, //#endif   keep lines by a flag; they nest
//   //#repeat r NAME ... //#end                  the lines NAME times, with ${r} = 0, 1, ...; they
//   nest
//   //#include NAME                              another module, unless it is already there
// NAME is a flag or an integer constant given before the include. A mistake in a directive becomes
// a line that no WGSL compiler accepts, and names the mistake.
class Composer {
 public:
  // `const NAME: u32 = value;`, and a count for //#repeat.
  Composer& constant(std::string_view name, uint32_t value);
  Composer& constant(std::string_view name, float value);  // finite
  // A name for directives only.
  Composer& flag(std::string_view name, uint32_t value);
  // `enable name;`: goes to the top.
  Composer& enable(std::string_view name);
  Composer& text(std::string_view wgsl);       // directives are resolved
  Composer& include(std::string_view module);  // once; a second time does nothing
  // `@group(0) @binding(n) var<...> name: type;`, n counting up from 0. access: 'r', 'w' or 'u'.
  Composer& bind(char access, std::string_view name, std::string_view type);

  KernelSource finish(std::string label) &&;

 private:
  struct Name {
    std::string name;
    uint32_t value;
  };
  void append(std::string_view wgsl, int depth);
  const uint32_t* find(std::string_view name) const;

  std::string enables_;
  std::string body_;
  std::string layout_;
  std::vector<Name> names_;
  std::vector<std::string> included_;
};

// The start of a kernel whose workgroups of `threads` reduce together (workgroup_reduce.wgsl),
// after the modules that they need: step.wgsl and bound.wgsl.
Composer reducing_composer(const Variant& variant, uint32_t threads);

// Adds the codec modules of `segments`, and for segment i the constant SEGMENT_i: Planes (in
// vectors and words from the start of the bound range) and the constant ROWS_i. `dot`: what the
// codecs' *_dot functions multiply with.
void add_segments(Composer& composer, std::span<const Segment> segments, uint32_t cols,
                  Dot dot = Dot::kF32);

}  // namespace lapidary::kernels
