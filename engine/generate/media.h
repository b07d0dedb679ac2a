// Pictures of conversations: their soft tokens, made when a picture is first met and kept for the
// turns that follow.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/lock.h"
#include "engine/gguf/header.h"
#include "engine/model/vision_tower.h"

namespace lapidary::generate {

class Media {
 public:
  // Of one picture.
  struct Medium {
    std::vector<uint32_t> ids;                // of its soft tokens: from model::kSoftToken on
    std::shared_ptr<const gpu::Buffer> rows;  // f32 [ids][hidden of the text model]
    uint32_t holds = 0;
    uint64_t used = 0;
  };

  // hidden: of the text model.
  explicit Media(uint32_t hidden) : hidden_(hidden) {}

  // Where the towers are: in the model's own file or in one of a projector, whose bytes `source`
  // has as long as the model lives. A later file's tower takes the place of an earlier one's. A
  // tower of a kind that there are no kernels for is an error when it is needed. Errors of
  // VisionConfig::from_gguf, other than that.
  Status find_towers(const gguf::Header& header, uint32_t source, bool projector);
  // What towers run on; before the first medium.
  void use(gpu::Device& device, const kernels::Variant& variant) {
    device_ = &device;
    variant_ = variant;
  }

  // Nothing: the model can take pictures. kUnsupported: it cannot.
  Status can_see() const;
  uint64_t bytes() const;  // of GPU memory

  // A medium is kept from here on until as many calls of release() as there were of hold() and
  // add_image(); nullptr: it is not there. key: 64 hexadecimal digits of a digest of its bytes, and
  // whatever else tells it from others.
  const Medium* hold(std::string_view key);
  void release(std::string_view key);
  const Medium* find(std::string_view key) const;

  // The soft tokens of a picture whose pixels `source` has, row by row. spec: {width, height,
  // channels: 3 for RGB or 4, the last unused, maxTokens: one of vision::kTokenBudgets}. The tower
  // is loaded when this is first called. kInvalidArgument: no such key or spec, pixels that are too
  // many or too few; errors of can_see, VisionTower and of the source; kCancelled.
  Task<Result<const Medium*>> add_image(std::string key, uint32_t source, Json spec,
                                        std::function<bool()> cancelled);

 private:
  void forget_oldest();

  gpu::Device* device_ = nullptr;
  uint32_t hidden_;
  kernels::Variant variant_;
  Status refused_;  // why the tower of the file is none
  std::optional<model::VisionConfig> vision_;
  std::unique_ptr<model::VisionTensors> tensors_;
  uint32_t source_ = 0;
  std::unique_ptr<model::VisionTower> tower_;
  Lock lock_;
  std::map<std::string, Medium, std::less<>> media_;
  uint64_t clock_ = 0;  // of Medium::used
};

}  // namespace lapidary::generate
