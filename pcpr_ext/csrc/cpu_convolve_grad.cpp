// SPDX-License-Identifier: Apache-2.0
// The convolution's gradient in its weights: with patches and tiles of the gradient both transformed, 36 matrix
// products over the tiles, and G' (.) G of the result. Tiles are taken by the batch: all threads transform them,
// then each of the 36 products is one thread's, which adds up batches in their order.

#include "cpu_convolution.h"
#include "team.h"

namespace npcr {
namespace {

constexpr int64_t kBatchFloats = 1 << 19;  // of both transformed matrices, or more; the shared cache holds them
constexpr int64_t kTilesAtOnce = 64;       // of a product: these rows stay in the first caches
constexpr int64_t kTilesPerTask = 16;

struct Plan {
    Tiles tiles;    // of one picture
    int64_t count;  // of all pictures' tiles
    int64_t inputs, columns, left_row, right_row, batch, left_plane, right_plane, result_plane;

    explicit Plan(const NpcrConvolveGrad& task)
        : tiles(0, 0, task.width, task.height),
          count(tiles.count() * task.images),
          inputs(task.channels[0] + task.channels[1] + task.channels[2]),
          columns(round_up(task.outputs, kPanel)),
          left_row(row_floats(inputs)),
          right_row(columns) {
        // Every batch reads and writes the whole result: a large one is worth larger batches.
        batch = std::max(kBatchFloats, kProducts * inputs * columns) / (kProducts * (left_row + right_row)) / kTilesAtOnce * kTilesAtOnce;
        batch = std::min(std::max(batch, kTilesAtOnce), round_up(count, kTilesPerTask));
        left_plane = plane_floats(batch * left_row);
        right_plane = plane_floats(batch * right_row);
        result_plane = plane_floats(inputs * columns);
    }
    int64_t left_floats() const { return kProducts * left_plane; }
    int64_t right_floats() const { return kProducts * right_plane; }
    int64_t result_floats() const { return kProducts * result_plane; }
    int64_t scratch_bytes() const { return 4 * (left_floats() + right_floats() + result_floats()) + 64; }
};

struct Memory {
    float *left, *right, *result;
    Memory(const NpcrConvolveGrad& task, const Plan& plan) {
        left = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(task.scratch) + 63) / 64 * 64);
        right = left + plan.left_floats();
        result = right + plan.right_floats();
    }
};

// Patches and tiles first..last of the batch that begins at tile `start`.
template <int lanes, int rows, int panels_at_once>
NPCR_INLINE void transform_tiles(const NpcrConvolveGrad& task, const Plan& plan, const Memory& memory, int64_t start,
                                 int64_t first, int64_t last) {
    typedef typename Lanes<lanes>::Float V;
    for (int64_t i = first; i < last; ++i) {
        const int64_t image = (start + i) / plan.tiles.count(), tile = (start + i) % plan.tiles.count();
        const int64_t x = plan.tiles.x(tile), y = plan.tiles.y(tile), pixels = image * task.height * task.width;
        const float *pictures[3], *scale[3], *shift[3];
        for (int source = 0; source < 3; ++source) {
            const int64_t channels = task.channels[source];
            pictures[source] = task.sources[source] + pixels * channels;
            scale[source] = task.scale[source] ? task.scale[source] + image * channels : nullptr;
            shift[source] = task.scale[source] ? task.shift[source] + image * channels : nullptr;
        }
        const Sources sources{pictures, task.channels, task.height, task.width, scale, shift};
        transform_patches<lanes>(sources, y, x, memory.left + i * plan.left_row, plan.left_plane);
        float* row = memory.right + i * plan.right_row;
        for (int64_t channel = 0; channel < task.outputs; channel += lanes) {
            transform_pixels<V, kTile>(task.grad_output + pixels * task.outputs, task.outputs, task.height, task.width,
                                       y, x, channel, row + channel, plan.right_plane, AsItIs(), SpreadTransform());
        }
    }
}

template <int lanes, int rows, int panels_at_once>
NPCR_INLINE void multiply_tiles(const Plan& plan, const Memory& memory, int64_t product, int64_t count) {
    const float* left = memory.left + product * plan.left_plane;
    const float* right = memory.right + product * plan.right_plane;
    float* result = memory.result + product * plan.result_plane;
    for (int64_t tile = 0; tile < count; tile += kTilesAtOnce) {
        const int64_t depth = std::min(kTilesAtOnce, count - tile);
        multiply<lanes, rows, panels_at_once, true>(left + tile * plan.left_row, 1, plan.left_row,
                                                    right + tile * plan.right_row, plan.right_row, kPanel, depth,
                                                    result, plan.columns, plan.inputs, plan.columns / kPanel);
    }
}

NPCR_FOR_PROCESSOR(transform_tiles,
                   (const NpcrConvolveGrad& task, const Plan& plan, const Memory& memory, int64_t start, int64_t first,
                    int64_t last),
                   (task, plan, memory, start, first, last))
NPCR_FOR_PROCESSOR(multiply_tiles, (const Plan& plan, const Memory& memory, int64_t product, int64_t count),
                   (plan, memory, product, count))

// G' (.) G for all outputs of one input.
template <int lanes, int rows, int panels_at_once>
NPCR_INLINE void finish_input(const NpcrConvolveGrad& task, const Plan& plan, const Memory& memory, int64_t input) {
    typedef typename Lanes<lanes>::Float V;
    const int64_t plane = plan.result_plane;
    for (int64_t output = 0; output < task.outputs; output += lanes) {
        const float* at = memory.result + input * plan.columns + output;
        V half[3][kPatch];
        for (int column = 0; column < kPatch; ++column) {
            V products[kPatch];
            for (int row = 0; row < kPatch; ++row) load(at + (row * kPatch + column) * plane, products[row]);
            for (int i = 0; i < 3; ++i) {
                half[i][column] = V{};
                for (int row = 0; row < kPatch; ++row) half[i][column] += kG[row][i] * products[row];
            }
        }
        const int64_t count = std::min<int64_t>(lanes, task.outputs - output);
        for (int tap = 0; tap < 9; ++tap) {
            V sum = V{};
            for (int column = 0; column < kPatch; ++column) sum += half[tap / 3][column] * kG[column][tap % 3];
            for (int64_t i = 0; i < count; ++i) {
                task.grad_weights[((output + i) * plan.inputs + input) * 9 + tap] = sum[i];
            }
        }
    }
}

NPCR_FOR_PROCESSOR(finish_input,
                   (const NpcrConvolveGrad& task, const Plan& plan, const Memory& memory, int64_t input),
                   (task, plan, memory, input))

bool valid(const NpcrConvolveGrad& task) {
    const int64_t most = 1 << 20;
    bool fits = task.outputs >= 1 && task.outputs <= most && task.height >= 1 && task.height <= kMaxSide &&
                task.width >= 1 && task.width <= kMaxSide && task.images >= 1 && task.images <= (1 << 16);
    for (int64_t channels : task.channels) fits = fits && channels >= 0 && channels <= most;
    return fits && task.channels[0] >= 1;
}

int team_size(const NpcrConvolveGrad& task, const Plan& plan) {
    const int64_t work = plan.count * plan.inputs * plan.columns / 32768;
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({task.threads, 1 + work, 256})));
}

}  // namespace
}  // namespace npcr

int64_t npcr_convolve_grad_scratch(const NpcrConvolveGrad* task) {
    using namespace npcr;
    if (!valid(*task)) return NPCR_BAD_ARGUMENT;
    return Plan(*task).scratch_bytes();
}

int32_t npcr_convolve_grad(const NpcrConvolveGrad* task) {
    using namespace npcr;
    const int64_t needed = npcr_convolve_grad_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    const Plan plan(*task);
    const Memory memory(*task, plan);
    int64_t start = -plan.batch, count = 0;
    enum class Phase { clear, transform, multiply, finish } phase = Phase::clear;
    const auto perform = [&](int part, int) {
        if (phase == Phase::clear) {
            std::fill_n(memory.result + part * plan.result_plane, plan.inputs * plan.columns, 0.0f);
        } else if (phase == Phase::transform) {
            transform_tiles_here(*task, plan, memory, start, part * kTilesPerTask,
                                 std::min(count, (part + 1) * kTilesPerTask));
        } else if (phase == Phase::multiply) {
            multiply_tiles_here(plan, memory, part, count);
        } else {
            finish_input_here(*task, plan, memory, part);
        }
    };
    bool begun = false;
    Team::run(team_size(*task, plan), perform, [&]() -> int {
        if (!begun) {
            begun = true;
            return kProducts;
        }
        if (phase == Phase::transform) {
            phase = Phase::multiply;
            return kProducts;
        }
        if (phase == Phase::finish) return 0;
        start += plan.batch;
        count = std::min(plan.batch, plan.count - start);
        phase = count > 0 ? Phase::transform : Phase::finish;
        return static_cast<int>(count > 0 ? (count + kTilesPerTask - 1) / kTilesPerTask : plan.inputs);
    });
    return NPCR_OK;
}
