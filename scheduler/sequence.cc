#include "scheduler/sequence.h"

#include <algorithm>

namespace tuppence {

int32_t SequenceGroup::live_sequences() const {
  int32_t live = 0;
  for (const Sequence& sequence : sequences) live += !sequence.finished;
  return live;
}

bool SequenceGroup::all_stalled() const {
  for (const Sequence& sequence : sequences) {
    if (!sequence.finished && !sequence.stalled) return false;
  }
  return true;
}

bool SequenceGroup::holds_blocks() const {
  for (const Sequence& sequence : sequences) {
    if (!sequence.blocks.empty()) return true;
  }
  return false;
}

int64_t SequenceGroup::tokens_left() const {
  int64_t left = 0;
  for (const Sequence& sequence : sequences) {
    if (sequence.finished || sequence.follows) continue;
    left += std::max(sequence.length(), prompt_tokens()) - sequence.computed;
  }
  return left;
}

int64_t SequenceGroup::recompute_tokens() const {
  int64_t shared = 0;
  int64_t own = 0;
  for (const Sequence& sequence : sequences) {
    if (sequence.finished) continue;
    if (sequence.crossed()) {
      own += sequence.computed;
    } else {
      shared = std::max<int64_t>(shared, std::min(sequence.computed, sequence.prompt_tokens));
      own += std::max(0, sequence.computed - sequence.prompt_tokens);
    }
  }
  return shared + own;
}

bool SequenceGroup::IsFirstLive(const Sequence& sequence) const {
  for (const Sequence& other : sequences) {
    if (!other.finished) return &other == &sequence;
  }
  return false;
}

}  // namespace tuppence
