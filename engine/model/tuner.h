// Times a few cuts of each matrix product on the device at hand, and keeps the fastest. Cuts change
// how work is spread over threads, never what is computed: each is checked against the usual one
// before it is timed. A matmul's cut has a form, too (kernels::matmul_forms): an integer form or
// the matrix form, which computes the same within the error of its Dot, takes the place of the
// forms before it where it is faster than the best cut of those by as much as a cut must be, the
// quantisation of its input included.
#pragma once

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/cache.h"
#include "engine/kernels/matmul.h"
#include "engine/kernels/matvec.h"

namespace lapidary::model {

// A cut as numbers: of a matvec threads, lanes, rows; of a matmul threads, rows, form
// (kernels::Dot).
using Cut = std::array<uint32_t, 3>;
// Cuts by kernels::tuning_key.
using Cuts = std::map<std::string, Cut, std::less<>>;

class Tuner {
 public:
  // known: cuts found before, on this adapter; what does not fit a kernel is not used.
  Tuner(gpu::Device& device, const kernels::Variant& variant, Cuts known)
      : device_(device), variant_(variant), cuts_(std::move(known)) {}

  // Sets the spec's cut if one is known that fits; else notes that the product is computed with
  // these ranges: binding 1 is y, as in matvec.h and matmul.h.
  void use(kernels::MatvecSpec& spec, const std::vector<gpu::Range>& ranges);
  // The matmul's form is set, too; ranges are those of the float form. `quantized`: where other
  // forms have their activations; not empty where the variant has such a form.
  void use(kernels::MatmulSpec& spec, const std::vector<gpu::Range>& ranges,
           const gpu::Buffer& quantized);

  // Whether a product was noted.
  bool has_work() const { return !products_.empty(); }
  // Tunes the products noted, those that cost most first, until `budget_ms`
  // have passed; the rest keep the usual cut and stay unknown. The buffers that products read must
  // hold finite numbers other than 0, and their uniforms a step of `tokens` tokens.
  Task<Status> run(double budget_ms, uint32_t tokens);
  const Cuts& cuts() const { return cuts_; }

 private:
  using Spec = std::variant<kernels::MatvecSpec, kernels::MatmulSpec>;
  struct Product {
    std::string key;
    Spec spec;
    std::vector<std::vector<gpu::Range>> uses;  // a layer each
    const gpu::Buffer* quantized = nullptr;     // of matmuls
    uint64_t weights = 0;                       // elements, all uses together
  };
  struct Dispatch {
    uint32_t slot = 0;
    const gpu::Kernel* kernel = nullptr;
    kernels::Groups groups;
    std::vector<std::vector<gpu::Range>> uses;
    std::vector<gpu::Bindings> bindings;  // by use
  };
  struct Trial {
    Cut cut{};
    kernels::Dot form = kernels::Dot::kF32;  // of matmuls
    std::vector<Dispatch> dispatches;        // one after another: the last is the product
    std::string wrong;                       // why it is not used
    double ms = 1e30;                        // the least time of a submission
  };

  const Cut* find(std::string_view key) const;
  void note(Product product, const std::vector<gpu::Range>& ranges);
  std::vector<Cut> candidates(const Spec& spec) const;
  Trial trial(const Product& product, const Cut& cut, uint32_t tokens,
              kernels::KernelCache& cache) const;
  Status bind(Trial& trial, const kernels::KernelCache& cache, const Status& compiled) const;
  static void append(gpu::CommandList& list, const Trial& trial, size_t use);
  static Cut best(const std::vector<Trial>& trials);
  Task<Result<std::vector<float>>> output(const Trial& trial, const Product& product) const;
  Task<Status> time(Trial& trial, size_t turns);
  Task<Status> tune(const Product& product, uint32_t tokens);

  gpu::Device& device_;
  kernels::Variant variant_;
  Cuts cuts_;
  std::vector<Product> products_;
};

}  // namespace lapidary::model
