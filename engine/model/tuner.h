// Times a few cuts of each matrix product on the device at hand, and keeps the fastest. Cuts change
// how work is spread over threads, never what is computed: each is checked against the usual one
// before it is timed. How much of that a load does is TuningSchedule's to say; what is left undone
// the next one goes on with. A matmul's cut has a form, too (kernels::matmul_forms): an integer
// form or the matrix form, which computes the same within the error of its Dot, takes the place of
// the forms before it where it is faster than the best cut of those by as much as a cut must be,
// the quantisation of its input included.
#pragma once

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/gpu/device.h"
#include "engine/kernels/attention.h"
#include "engine/kernels/cache.h"
#include "engine/kernels/matmul.h"
#include "engine/kernels/matvec.h"
#include "engine/model/tuning_schedule.h"

namespace lapidary::model {

struct Cut {
  // Of a matvec threads, lanes, rows; of a matmul threads, rows, form (kernels::Dot); of decode
  // attention threads, keys, splits.
  std::array<uint32_t, 3> numbers{};
  // So many of the product's candidates were compared, of which this one is the best; 0: all.
  uint32_t tried = 0;
  // Where not all were: so many milliseconds are needed to go on, as far as a load could tell that
  // had fewer. 0: any may try.
  uint32_t needed_ms = 0;

  bool is_open() const { return tried > 0; }
  friend bool operator==(const Cut&, const Cut&) = default;
};
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
  // Sets the cut alone: of what is computed elsewhere, too, for several tokens at once.
  void apply(kernels::MatvecSpec& spec) const;
  void apply(kernels::AttentionSpec& spec) const;
  // The matmul's form is set, too; ranges are those of the float form. `quantized`: where other
  // forms have their activations; not empty where the variant has such a form.
  void use(kernels::MatmulSpec& spec, const std::vector<gpu::Range>& ranges,
           const gpu::Buffer& quantized);

  // Attention is tuned together with the product that merges its splits, for that pays for their
  // number: binding 1 of `merged` is y. Of the merge the cut is the caller's to set.
  void use(kernels::AttentionSpec& spec, const std::vector<gpu::Range>& ranges,
           const kernels::MatvecSpec& merge, const std::vector<gpu::Range>& merged);

  // Forgets the products noted (before they are recorded anew); forget_plain() those without a
  // low-rank change (fused_change.h).
  void forget() { products_.clear(); }
  void forget_plain();

  // Whether a product was noted that tuning for so long may get on with.
  bool has_work(double budget_ms) const;
  // Tunes the products noted, those that cost most first, for `budget_ms` and at most one step
  // (tuning_schedule.h) longer; so many processors compile kernels side by side; a product of which
  // not all candidates were compared takes the best of those that were. The buffers that products
  // read must hold finite numbers other than 0, and their uniforms a step of `tokens` tokens.
  Task<Status> run(double budget_ms, uint32_t processors, uint32_t tokens);
  const Cuts& cuts() const { return cuts_; }

 private:
  using Spec = std::variant<kernels::MatvecSpec, kernels::MatmulSpec, kernels::AttentionSpec>;
  struct Product {
    std::string key;
    Spec spec;
    std::vector<std::vector<gpu::Range>> uses;    // a layer each
    const gpu::Buffer* quantized = nullptr;       // of matmuls
    kernels::MatvecSpec merge;                    // of attention
    std::vector<std::vector<gpu::Range>> merges;  // the same layers
    uint64_t weights = 0;                         // elements, all uses together
    Cut known;                                    // open: where to go on
  };
  struct Dispatch {
    uint32_t slot = 0;
    kernels::Groups groups;
    std::vector<std::vector<gpu::Range>> uses;
    std::vector<gpu::Bindings> bindings;  // by use
  };
  struct Trial {
    Cut cut{};
    kernels::Dot form = kernels::Dot::kF32;  // of matmuls
    std::vector<Dispatch> dispatches;        // one after another: the last is the product
    size_t place = 0;                        // among the cuts of its heat
    std::string wrong;                       // why it is not used
    double ms = kNever;                      // the least time of a submission
  };
  // What is compared of one product in one load: the first cut is the usual one.
  struct Heat {
    const Product* product = nullptr;
    std::vector<Cut> all;   // of the product
    size_t tried = 0;       // of them, before
    Cut so_far{};           // the best of those
    std::vector<Cut> cuts;  // to be compared now
    size_t old = 0;         // of them were tried before
    const kernels::KernelCache* cache = nullptr;
    std::vector<Trial> made;    // of `cuts`, compiled
    std::vector<Trial> trials;  // of them, those found right
    std::vector<float> usual;   // the first's output
    double one = 0;             // what a submission of the usual cut takes, in milliseconds
    double each = 0;            // what a turn in it does
    size_t turns = 1;           // in a timed submission

    // Fewer cuts say nothing.
    uint32_t needed() const { return static_cast<uint32_t>(old + 1); }
  };
  static constexpr double kNever = 1e30;

  // Where a token stands while attention is timed.
  static uint32_t attention_position(const kernels::AttentionSpec& spec);
  static uint32_t timed_keys(const kernels::AttentionSpec& spec);
  std::string attention_key(const kernels::AttentionSpec& spec) const;
  const Cut* find(std::string_view key) const;
  // nullptr where the cut is none of that product.
  const Cut* find_fitting(const kernels::MatvecSpec& spec, std::string_view key) const;
  const Cut* find_fitting(const kernels::AttentionSpec& spec, std::string_view key) const;
  Product& note(Product product, const Cut* known, const std::vector<gpu::Range>& ranges,
                uint64_t weights);
  std::vector<Cut> candidates(const Spec& spec) const;
  Trial trial(const Product& product, const Cut& cut, uint32_t tokens,
              kernels::KernelCache& cache) const;
  Status bind(Trial& trial, const kernels::KernelCache& cache) const;
  void prepare(const Product& product) const;
  static void append(gpu::CommandList& list, const Heat& heat, const Trial& trial, size_t use);
  static Cut best(const std::vector<Trial>& trials, double gain);
  Task<Result<std::vector<float>>> output(const Heat& heat, const Trial& trial,
                                          const Product& product) const;
  Task<Result<double>> time(const Heat& heat, const Trial& trial, size_t turns,
                            TuningSchedule& schedule) const;
  Task<Status> check(Heat& heat, Trial& trial, const Product& product) const;
  Task<Result<bool>> probe(Heat& heat, TuningSchedule& schedule) const;
  Task<Result<bool>> time_all(Heat& heat, TuningSchedule& schedule) const;
  Heat heat(const Product& product) const;
  void keep(const Heat& heat, Cut cut, size_t compared, uint32_t needed_ms);
  std::vector<Heat> choose(size_t& next, const TuningSchedule& schedule);
  Task<Status> compile(std::vector<Heat>& heats, uint32_t tokens, kernels::KernelCache& cache,
                       TuningSchedule& schedule) const;
  Task<Status> check_all(Heat& heat, TuningSchedule& schedule, size_t& next) const;
  Task<Status> tune(Heat& heat, bool first, TuningSchedule& schedule);

  gpu::Device& device_;
  kernels::Variant variant_;
  Cuts cuts_;
  std::vector<Product> products_;
};

}  // namespace lapidary::model
