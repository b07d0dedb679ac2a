// Pictures and sound of conversations: their soft tokens, made when a medium is first met and kept
// for the turns that follow.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/audio/recording.h"
#include "engine/base/json.h"
#include "engine/base/lock.h"
#include "engine/gguf/header.h"
#include "engine/model/audio_tower.h"
#include "engine/model/decoder.h"
#include "engine/model/raw_audio.h"
#include "engine/model/vision_tower.h"

namespace lapidary::generate {

class Media {
 public:
  // Soft tokens side by side.
  struct Piece {
    std::vector<uint32_t> ids;                // from model::kSoftToken on
    std::shared_ptr<const gpu::Buffer> rows;  // f32 [ids][hidden of the text model]
  };
  // A picture is one piece; of sound each window is one.
  struct Medium {
    model::SoftKind kind = model::SoftKind::kImage;
    std::vector<Piece> pieces;
    double seconds = 0;  // of sound
    uint32_t holds = 0;
    uint64_t used = 0;

    uint64_t bytes() const;
    size_t tokens() const;
  };

  // A recording whose soft tokens are made while it comes.
  class Live {
   public:
    double seconds() const { return recording_.seconds(); }
    size_t tokens() const;  // made so far

   private:
    friend class Media;
    audio::Recording recording_;
    model::AudioStream stream_;
    std::vector<float> frames_;           // that wait for others
    std::vector<model::AudioRows> rows_;  // of the window that has begun
    Medium medium_{.kind = model::SoftKind::kAudio};
    bool failed_ = false;
  };

  // hidden: of the text model.
  // as_llama_cpp: where llama.cpp reads media otherwise than Transformers, from which Gemma 4's
  // definition is taken, what llama.cpp does (docs/pictures.md, docs/sound.md).
  Media(uint32_t hidden, bool as_llama_cpp) : hidden_(hidden), as_llama_cpp_(as_llama_cpp) {}

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

  // Nothing: the model can take pictures, or sound. kUnsupported: it cannot.
  Status can_see() const;
  Status can_hear() const;
  uint64_t bytes() const;  // of GPU memory

  // A medium is kept from here on until as many calls of release() as there were of hold() and
  // add_…(); nullptr: it is not there. key: 64 hexadecimal digits of a digest of its bytes, and
  // whatever else tells it from others.
  const Medium* hold(std::string_view key);
  void release(std::string_view key);
  const Medium* find(std::string_view key) const;

  // The soft tokens of a picture whose pixels `source` has, row by row. spec: {width, height,
  // channels: 3 for RGB or 4, the last unused, maxTokens: one of vision::kTokenBudgets}. The tower
  // is loaded when this is first called; if the GPU has no memory for it, that of sound is let go,
  // and loaded again when it is needed. kInvalidArgument: no such key or spec, pixels that are too
  // many or too few; errors of can_see, VisionTower and of the source; kCancelled.
  Task<Result<const Medium*>> add_image(std::string key, uint32_t source, Json spec,
                                        std::function<bool()> cancelled);
  // The same of a recording. spec: {format: "wav", or "f32" for samples of {rate, channels},
  // channel after channel for each moment}. Errors of audio::Recording, too; kInvalidArgument: too
  // long.
  Task<Result<const Medium*>> add_sound(std::string key, uint32_t source, Json spec,
                                        std::function<bool()> cancelled);

  // Begins a recording of samples, and loads the tower for it. spec: {rate, channels}. Errors as
  // add_sound's.
  Task<Result<std::shared_ptr<Live>>> begin_live(Json spec, std::function<bool()> cancelled);
  // Its next samples, and the soft tokens that they complete; what lies within some pieces of a
  // second waits for more. After an error it is of no use.
  Task<Status> write_live(std::shared_ptr<Live> live, std::vector<float> samples,
                          std::function<bool()> cancelled);
  // After the last of them: it is a medium as of add_sound, the same bit for bit. It is kept until
  // it has been held once, or another recording ends.
  Task<Result<const Medium*>> end_live(std::shared_ptr<Live> live, std::string key,
                                       std::function<bool()> cancelled);

 private:
  // What a file says of a tower, and the tower once it was needed.
  template <typename Config, typename Tensors, typename Tower>
  struct Place {
    Status refused;  // why that of the file is none
    std::optional<Config> config;
    std::unique_ptr<Tensors> tensors;
    uint32_t source = 0;
    std::unique_ptr<Tower> tower;
  };
  Result<Live> open_samples(const Json& spec) const;
  audio::MelFloor mel_floor() const {
    return as_llama_cpp_ ? audio::MelFloor::kClamped : audio::MelFloor::kAdded;
  }
  // Does `work`; where the GPU has no memory for it, once more without the tower `other`.
  template <typename Work, typename Tower>
  Task<Status> with_room(Work work, std::unique_ptr<Tower>& other);
  Task<Status> load_ears(const std::function<bool()>& cancelled);
  // Encodes what has come; whole: only complete windows.
  Task<Status> encode(Live& live, bool whole);
  Task<Status> end_window(Live& live);
  Task<Status> finish(Live& live, const std::string& key, bool whole);
  const Medium* keep(const std::string& key, Medium medium);
  void forget_oldest();

  gpu::Device* device_ = nullptr;
  uint32_t hidden_;
  bool as_llama_cpp_;
  kernels::Variant variant_;
  Place<model::VisionConfig, model::VisionTensors, model::VisionTower> eyes_;
  Place<model::AudioConfig, model::AudioTensors, model::AudioTower> ears_;
  // Of a model that takes samples as they are.
  std::optional<model::RawAudioConfig> raw_config_;
  std::unique_ptr<model::RawAudio> raw_ears_;
  Lock lock_;
  std::map<std::string, Medium, std::less<>> media_;
  uint64_t clock_ = 0;   // of Medium::used
  std::string awaited_;  // the medium that was recorded last, until it is held
};

}  // namespace lapidary::generate
