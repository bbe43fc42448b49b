#include <bit>

#include "cuda/kernels.h"
#include "cuda/matmul.cuh"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {
namespace {

template <typename Half, WeightType kType, int kTiles, int kPanels>
void LaunchSkinny(Gpu& gpu, const MatmulArgs& args) {
  Launch(gpu, &MatmulSkinnyKernel<Half, kType, kTiles, kPanels>,
         {.name = "matmul_skinny",
          .blocks_x = CeilDiv(args.panels, kPanels),
          .threads = kMatmulThreads,
          .shared_bytes = sizeof(SkinnyShared<kPanels>)},
         args);
}

// Blocks of fewer outputs where those of the most would leave multiprocessors idle.
template <typename Half, WeightType kType, int kTiles>
void LaunchSkinny(Gpu& gpu, const MatmulArgs& args) {
  constexpr int kMost = kSkinnyPanelsMax<kType, kTiles>;
  const bool few = CeilDiv(args.panels, kMost) < 3 * gpu.facts().multiprocessors;
  few ? LaunchSkinny<Half, kType, kTiles, 2>(gpu, args)
      : LaunchSkinny<Half, kType, kTiles, kMost>(gpu, args);
}

template <typename Half, WeightType kType>
void LaunchSkinny(Gpu& gpu, const MatmulArgs& args) {
  if (args.rows <= 16) return LaunchSkinny<Half, kType, 1>(gpu, args);
  if (args.rows <= 32) return LaunchSkinny<Half, kType, 2>(gpu, args);
  LaunchSkinny<Half, kType, 4>(gpu, args);
}

template <typename Half, WeightType kType>
void LaunchWide(Gpu& gpu, const MatmulArgs& args) {
  using Shape = WideShape<kType>;
  Launch(gpu, &MatmulWideKernel<Half, kType>,
         {.name = "matmul_wide",
          .blocks_x = CeilDiv(args.panels * kPanelOutputs, Shape::kOutputs),
          .blocks_y = CeilDiv(args.rows, Shape::kRows),
          .threads = kMatmulThreads,
          .shared_bytes = sizeof(WideShared)},
         args);
}

template <typename Half>
void LaunchFor(Gpu& gpu, WeightType type, const MatmulArgs& args) {
  constexpr int kSkinnyRowsMax = 64;
  const auto launch = [&]<WeightType kType>() {
    args.rows <= kSkinnyRowsMax ? LaunchSkinny<Half, kType>(gpu, args)
                                : LaunchWide<Half, kType>(gpu, args);
  };
  switch (type) {
    case WeightType::kInt8:
      return launch.template operator()<WeightType::kInt8>();
    case WeightType::kInt4:
      return launch.template operator()<WeightType::kInt4>();
    default:
      // Of the two 16-bit types the weight's is that of x: nothing in the kernel asks which.
      return launch.template operator()<WeightType::kBf16>();
  }
}

}  // namespace

void Matmul(Gpu& gpu, Tensor x, const PackedMatrix& w, Tensor out) {
  const WeightFormat& format = w.spec().format;
  CHECK_EQ(x.rank, 2);
  CHECK_EQ(x.shape[1], w.spec().cols);
  CHECK_EQ(x.shape[1] % 8, 0);
  CHECK_EQ(out.shape[0], x.shape[0]);
  CHECK_EQ(out.shape[1], w.outputs());
  CHECK(format.quantised() || (x.type == DType::kF16 && format.type == WeightType::kF16) ||
        (x.type == DType::kBf16 && format.type == WeightType::kBf16));
  CHECK(out.type == (w.gated() ? x.type : DType::kF32));
  CHECK(!format.quantised() || 128 % format.group == 0);
  MatmulArgs args;
  args.x = x.as<uint16_t>();
  args.weights = w.panel_data();
  args.scales = w.scales();
  args.rows = static_cast<int>(x.shape[0]);
  args.cols = static_cast<int>(x.shape[1]);
  args.panels = w.panels();
  args.loads = w.loads();
  args.groups = w.groups();
  if (format.quantised()) {
    args.group_shift = std::countr_zero(static_cast<uint32_t>(format.group));
  }
  args.outputs = static_cast<int>(w.outputs());
  args.gated = w.gated();
  if (w.gated()) {
    args.gated_out = out.as<uint16_t>();
  } else {
    args.out = out.as<float>();
  }
  x.type == DType::kF16 ? LaunchFor<F16>(gpu, format.type, args)
                        : LaunchFor<Bf16>(gpu, format.type, args);
}

}  // namespace tuppence::TUPPENCE_DEVICE
