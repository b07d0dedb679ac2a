// The forms of a kernel that a test runs.
#pragma once

#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/compose.h"

namespace lapidary::kernels {

// Those that this device might be given: the light ones are for software GPUs.
inline std::vector<Variant> variants(const gpu::Device& device) {
  const bool light = device.info().is_software != 0;
  std::vector<Variant> list = {{.light = light}};
  if (device.has(gpu::kFeatureSubgroups)) list.push_back({.subgroups = true, .light = light});
  return list;
}

// Those, and forms with integer products: for kernels that multiply weights. What a product is does
// not depend on subgroups, so each integer form runs once.
inline std::vector<Variant> dot_variants(const gpu::Device& device) {
  std::vector<Variant> list = variants(device);
  const Variant plain = list.front();
  const Variant reduced = list.back();
  list.push_back(plain);
  list.back().dot = Dot::kInt16;
  list.push_back(reduced);
  list.back().dot = Dot::kInt8;
  return list;
}

// The forms that real GPUs get. Software GPUs unroll them and compile slowly: for small cases only.
inline std::vector<Variant> unrolled_variants(const gpu::Device& device) {
  std::vector<Variant> list = {{.light = false}};
  if (device.has(gpu::kFeatureSubgroups)) list.push_back({.subgroups = true, .light = false});
  return list;
}

// All that this device can run. Software GPUs compile the others for minutes: for few tests only.
inline std::vector<Variant> all_variants(const gpu::Device& device) {
  std::vector<Variant> list = {{.light = false}, {.light = true}};
  if (device.has(gpu::kFeatureSubgroups)) {
    list.push_back({.subgroups = true, .light = false});
    list.push_back({.subgroups = true, .light = true});
  }
  return list;
}

}  // namespace lapidary::kernels
