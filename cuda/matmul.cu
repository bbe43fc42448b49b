#include <bit>

#include "cuda/kernels.h"
#include "cuda/matmul.cuh"
#include "model/check.h"

namespace tuppence::TUPPENCE_DEVICE {
namespace {

template <typename Half, WeightType kType, int kPairs, int kTiles>
void LaunchSkinny(Gpu& gpu, const MatmulArgs& args) {
  Launch(gpu, &MatmulSkinnyKernel<Half, kType, kPairs, kTiles>,
         {.name = "matmul_skinny",
          .blocks_x = CeilDiv(args.pairs, kPairs),
          .threads = kMatmulThreads,
          .shared_bytes = sizeof(SkinnyShared<kPairs>)},
         args);
}

// Blocks of fewer outputs where those of the most would leave multiprocessors idle.
template <typename Half, WeightType kType, int kTiles>
void LaunchSkinny(Gpu& gpu, const MatmulArgs& args) {
  constexpr int kMost = kSkinnyPairsMax<kType, kTiles>;
  const bool few = CeilDiv(args.pairs, kMost) < 3 * gpu.facts().multiprocessors;
  few ? LaunchSkinny<Half, kType, 1, kTiles>(gpu, args)
      : LaunchSkinny<Half, kType, kMost, kTiles>(gpu, args);
}

template <typename Half, WeightType kType>
void LaunchSkinny(Gpu& gpu, const MatmulArgs& args) {
  const int tiles = CeilDiv(args.rows, kTileRows);
  if (tiles <= 1) return LaunchSkinny<Half, kType, 1>(gpu, args);
  if (tiles <= 2) return LaunchSkinny<Half, kType, 2>(gpu, args);
  if (tiles <= 4) return LaunchSkinny<Half, kType, 4>(gpu, args);
  LaunchSkinny<Half, kType, 8>(gpu, args);
}

template <typename Half, WeightType kType>
void LaunchWide(Gpu& gpu, const MatmulArgs& args) {
  Launch(gpu, &MatmulWideKernel<Half, kType>,
         {.name = "matmul_wide",
          .blocks_x = CeilDiv(args.pairs, WideShape<kType>::kBlockPairs),
          .blocks_y = CeilDiv(args.rows, kWideRows),
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
  CHECK(w.layout() == PackedMatrix::Layout::kPanels);
  CHECK_EQ(out.shape[0], x.shape[0]);
  CHECK_EQ(out.shape[1], w.outputs());
  CHECK(format.quantised() || (x.type == DType::kF16 && format.type == WeightType::kF16) ||
        (x.type == DType::kBf16 && format.type == WeightType::kBf16));
  CHECK(out.type == (w.gated() ? x.type : DType::kF32));
  CHECK(!format.quantised() || 128 % format.group == 0);
  MatmulArgs args;
  args.x = x.as<uint16_t>();
  args.weights = w.data();
  args.scales = w.scales();
  args.rows = static_cast<int>(x.shape[0]);
  args.cols = static_cast<int>(x.shape[1]);
  args.pairs = w.panels() / 2;
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

void SiluMultiply(Gpu& gpu, Tensor gate_up, Tensor out) {
  CHECK(gate_up.type == DType::kF32);
  CHECK_EQ(gate_up.shape[0], out.shape[0]);
  CHECK_EQ(gate_up.shape[1], 2 * out.shape[1]);
  const int columns = static_cast<int>(out.shape[1]);
  const LaunchShape shape{.name = "silu_multiply",
                          .blocks_x = CeilDiv(columns, kMatmulThreads),
                          .blocks_y = static_cast<int>(out.shape[0]),
                          .threads = kMatmulThreads};
  const auto launch = [&]<typename Half>(Half) {
    Launch(gpu, &SiluMultiplyKernel<Half>, shape, gate_up.as<float>(), columns, out.as<uint16_t>());
  };
  out.type == DType::kF16 ? launch(F16{}) : launch(Bf16{});
}

}  // namespace tuppence::TUPPENCE_DEVICE
