// Which remembered cuts the tuner uses: a matmul's form must be one that the variant has.
#include "engine/model/tuner.h"

#include "tests/kernels/kernel_test.h"

namespace lapidary::model {
namespace {

using kernels::Codec;
using kernels::Dot;
using kernels::MatmulSpec;
using kernels::Variant;

KERNEL_TEST(tuner_uses_remembered_forms_that_the_variant_has) {
  struct Case {
    Variant variant;
    Codec codec;
    Cut known;
    bool used;
    Dot form;
  };
  const Variant f32{};
  const Variant int16{.dot = Dot::kInt16};
  const Variant forced_f32{.dot = Dot::kInt16, .prefill = Dot::kF32};
  const Variant forced_int8{.prefill = Dot::kInt8};
  const Variant matrix{.dot = Dot::kInt16, .matrix = true};
  const Variant forced_matrix{.prefill = Dot::kMatrix};
  const Case cases[] = {
      {f32, Codec::kQ4_K, {{128, 8, 0}}, true, Dot::kF32},
      {f32, Codec::kQ4_K, {{128, 8, 1}}, false, Dot::kF32},
      {int16, Codec::kQ4_K, {{128, 8, 0}}, true, Dot::kF32},
      {int16, Codec::kQ4_K, {{256, 8, 1}}, true, Dot::kInt16},
      {int16, Codec::kQ4_K, {{256, 8, 2}}, false, Dot::kF32},
      {int16, Codec::kQ4_K, {{256, 8, 7}}, false, Dot::kF32},
      {int16, Codec::kQ4_K, {{1, 1, 1}}, false, Dot::kF32},
      {int16, Codec::kBF16, {{128, 8, 1}}, false, Dot::kF32},
      {forced_f32, Codec::kQ4_K, {{128, 8, 1}}, false, Dot::kF32},
      {forced_int8, Codec::kQ4_K, {{128, 8, 0}}, false, Dot::kInt8},
      {forced_int8, Codec::kQ4_K, {{128, 8, 2}}, true, Dot::kInt8},
      {int16, Codec::kQ4_K, {{128, 4, 3}}, false, Dot::kF32},
      {matrix, Codec::kQ4_K, {{128, 4, 3}}, true, Dot::kMatrix},
      {matrix, Codec::kQ4_K, {{128, 4, 1}}, true, Dot::kInt16},
      {matrix, Codec::kBF16, {{128, 4, 3}}, false, Dot::kF32},
      {forced_matrix, Codec::kQ4_K, {{128, 4, 3}}, true, Dot::kMatrix},
      {forced_matrix, Codec::kQ4_K, {{128, 4, 0}}, false, Dot::kMatrix},
      {forced_int8, Codec::kBF16, {{128, 8, 0}}, true, Dot::kF32},
  };
  const gpu::Buffer none;
  for (size_t i = 0; i < std::size(cases); ++i) {
    const Case& c = cases[i];
    MatmulSpec spec{.segments = {{c.codec, 128}}, .cols = 256};
    Tuner tuner(device, c.variant, {{tuning_key(spec, c.variant), c.known}});
    tuner.use(spec, {}, none);
    KERNEL_EXPECT(spec.dot == c.form, "case ", i, ": the form is ", dot_name(spec.dot));
    KERNEL_EXPECT(tuner.has_work(0) != c.used, "case ", i);
    if (c.used) KERNEL_EXPECT(spec.tiling.threads == c.known.numbers[0], "case ", i);
  }
  co_return Status{};
}

}  // namespace
}  // namespace lapidary::model
