// SPDX-License-Identifier: Apache-2.0
// The convolution's gradient in its weights: with patches and tiles of the gradient both transformed, 36 matrix
// products over the tiles, and G' (.) G of the result. There are two ways to share the work, by the size of the result:
// a small one is made once for each of a few groups of tiles, so that a thread needs nothing of another's cache, and
// the groups' are added up at the end; a large one is made once, in batches of tiles that all threads transform, after
// which each of the 36 products is one thread's. Which tiles are added up in which order depends on the shapes alone.

#include "cpu_convolution.h"
#include "thread_pool.h"

namespace npcr {
namespace {

constexpr int64_t kSmallResult = 340 * 1024;  // floats
constexpr int64_t kCacheFloats = 448 * 1024;  // of a core's own cache, for a group's result and transformed tiles
constexpr int64_t kGroups = 16;               // at most; so many threads can share the work
constexpr int64_t kBatchFloats = 1 << 19;     // of a large result's transformed tiles, or more, in a shared cache
constexpr int64_t kTilesAtOnce = 128;         // of a product: these rows stay in the first caches
constexpr int64_t kTilesPerTask = 16;

struct Plan {
    Tiles tiles;    // of one image
    Area area;      // all of it
    int64_t count;  // of all images' tiles
    int64_t inputs, outputs, columns, left_row, right_row;  // outputs: gates count among them
    int64_t groups, group, batch;  // how many groups, tiles of a group, tiles transformed before they are multiplied
    int64_t left_plane, right_plane, result_plane;

    explicit Plan(const NpcrConvolveGrad& task)
        : tiles(0, 0, task.width, task.height),
          area{0, 0, task.width, task.height},
          count(tiles.count() * task.images),
          inputs(sum_of(task.channels)),
          outputs(task.grad_gate_weights ? 2 * task.outputs : task.outputs),
          columns(round_up(outputs, kPanel)),
          left_row(row_floats(inputs)),
          right_row(columns) {
        const int64_t result = kProducts * inputs * columns, row = kProducts * (left_row + right_row);
        if (result <= kSmallResult) {
            groups = std::min(kGroups, (count + kTilesPerTask - 1) / kTilesPerTask);
            batch = std::min<int64_t>((kCacheFloats - result) / row, 64);
        } else {  // every batch reads and writes the whole result: the larger it is, the larger they should be
            groups = 1;
            batch = std::max(kBatchFloats, result) / row;
        }
        group = (count + groups - 1) / groups;
        groups = (count + group - 1) / group;
        batch = even_parts(group, std::max(batch, kTilesPerTask));
        left_plane = plane_floats(batch * left_row);
        right_plane = plane_floats(batch * right_row);
        result_plane = plane_floats(inputs * columns);
    }
    bool shared() const { return groups == 1; }
    int thread_count(int threads) const {
        const int64_t work = 1 + count * inputs * columns / 32768;
        return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, work, shared() ? 256 : groups})));
    }
    int64_t thread_floats() const { return kProducts * (left_plane + right_plane); }
    int64_t result_floats() const { return kProducts * result_plane; }
    int64_t scratch_bytes(int threads) const {
        return 4 * ((shared() ? 1 : thread_count(threads)) * thread_floats() + groups * result_floats()) + 64;
    }
    // The size of equal parts of `whole`, none larger than `most`; the last may be smaller.
    static int64_t even_parts(int64_t whole, int64_t most) {
        const int64_t parts = (whole + most - 1) / most;
        return (whole + parts - 1) / parts;
    }
};

struct Memory {
    float *left, *right, *result;
    Memory(const NpcrConvolveGrad& task, const Plan& plan, int64_t thread, int64_t group) {
        float* results = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(task.scratch) + 63) / 64 * 64);
        result = results + group * plan.result_floats();
        left = results + plan.groups * plan.result_floats() + thread * plan.thread_floats();
        right = left + kProducts * plan.left_plane;
    }
};

// Patches and tiles first..last of the batch that begins at tile `start` of all.
template <int lanes, int rows, int panels_at_once>
NPCR_INLINE void transform_tiles(const NpcrConvolveGrad& task, const Plan& plan, const Memory& memory, int64_t start,
                                 int64_t first, int64_t last) {
    typedef typename Lanes<lanes>::Float V;
    for (int64_t i = first; i < last; ++i) {
        const int64_t image = (start + i) / plan.tiles.count(), tile = (start + i) % plan.tiles.count();
        const int64_t x = plan.tiles.x(tile), y = plan.tiles.y(tile), pixels = image * task.height * task.width;
        const float *maps[3], *scale[3], *shift[3];
        for (int source = 0; source < 3; ++source) {
            const int64_t channels = task.channels[source];
            maps[source] = task.sources[source] + pixels * channels;
            scale[source] = task.scale[source] ? task.scale[source] + image * channels : nullptr;
            shift[source] = task.scale[source] ? task.shift[source] + image * channels : nullptr;
        }
        const Sources sources{maps, task.channels, task.height, task.width, plan.area, scale, shift};
        transform_patches<lanes>(sources, y, x, memory.left + i * plan.left_row, plan.left_plane);
        float* row = memory.right + i * plan.right_row;
        for (int64_t channel = 0; channel < plan.outputs; channel += lanes) {
            transform_pixels<V, kTile>(task.grad_output + pixels * plan.outputs, plan.outputs, task.height, task.width,
                                       plan.area, y, x, channel, row + channel, plan.right_plane, AsItIs(),
                                       SpreadTransform());
        }
    }
}

// One product of `count` transformed tiles, added to the result, or as the result where that is `fresh`.
template <int lanes, int rows, int panels_at_once>
NPCR_INLINE void multiply_tiles(const Plan& plan, const Memory& memory, int64_t product, int64_t count, bool fresh) {
    const float* left = memory.left + product * plan.left_plane;
    const float* right = memory.right + product * plan.right_plane;
    float* result = memory.result + product * plan.result_plane;
    const int64_t panels = plan.columns / kPanel, part = Plan::even_parts(count, kTilesAtOnce);
    for (int64_t tile = 0; tile < count; tile += part) {
        const float *of_left = left + tile * plan.left_row, *of_right = right + tile * plan.right_row;
        const int64_t depth = std::min(part, count - tile);
        if (fresh && tile == 0) {
            multiply<lanes, rows, panels_at_once, false>(of_left, 1, plan.left_row, of_right, plan.right_row, kPanel,
                                                         depth, result, plan.columns, plan.inputs, panels);
        } else {
            multiply<lanes, rows, panels_at_once, true>(of_left, 1, plan.left_row, of_right, plan.right_row, kPanel,
                                                        depth, result, plan.columns, plan.inputs, panels);
        }
    }
}

NPCR_FOR_PROCESSOR(transform_tiles,
                   (const NpcrConvolveGrad& task, const Plan& plan, const Memory& memory, int64_t start, int64_t first,
                    int64_t last),
                   (task, plan, memory, start, first, last))
NPCR_FOR_PROCESSOR(multiply_tiles,
                   (const Plan& plan, const Memory& memory, int64_t product, int64_t count, bool fresh),
                   (plan, memory, product, count, fresh))

// G' (.) G of all groups' results together, for all outputs of one input.
template <int lanes, int rows, int panels_at_once>
NPCR_INLINE void finish_input(const NpcrConvolveGrad& task, const Plan& plan, const float* results, int64_t input) {
    typedef typename Lanes<lanes>::Float V;
    const int64_t plane = plan.result_plane;
    for (int64_t output = 0; output < plan.outputs; output += lanes) {
        const float* at = results + input * plan.columns + output;
        V half[3][kPatch];
        for (int column = 0; column < kPatch; ++column) {
            V products[kPatch];
            for (int row = 0; row < kPatch; ++row) load(at + (row * kPatch + column) * plane, products[row]);
            for (int64_t group = 1; group < plan.groups; ++group) {
                for (int row = 0; row < kPatch; ++row) {
                    V product;
                    load(at + group * plan.result_floats() + (row * kPatch + column) * plane, product);
                    products[row] += product;
                }
            }
            for (int i = 0; i < 3; ++i) {
                half[i][column] = V{};
                for (int row = 0; row < kPatch; ++row) half[i][column] += kG[row][i] * products[row];
            }
        }
        const int64_t count = std::min<int64_t>(lanes, plan.outputs - output);
        for (int tap = 0; tap < 9; ++tap) {
            V sum = V{};
            for (int column = 0; column < kPatch; ++column) sum += half[tap / 3][column] * kG[column][tap % 3];
            for (int64_t i = 0; i < count; ++i) {
                const bool gate = output + i >= task.outputs;
                float* grad = gate ? task.grad_gate_weights : task.grad_weights;
                const int64_t channel = gate ? output + i - task.outputs : output + i;
                grad[(channel * plan.inputs + input) * 9 + tap] = sum[i];
            }
        }
    }
}

NPCR_FOR_PROCESSOR(finish_input,
                   (const NpcrConvolveGrad& task, const Plan& plan, const float* results, int64_t input),
                   (task, plan, results, input))

void add_up_group(const NpcrConvolveGrad& task, const Plan& plan, int64_t group, int64_t thread) {
    const Memory memory(task, plan, thread, group);
    const int64_t end = std::min(plan.count, (group + 1) * plan.group);
    for (int64_t start = group * plan.group; start < end; start += plan.batch) {
        const int64_t count = std::min(plan.batch, end - start);
        transform_tiles_here(task, plan, memory, start, 0, count);
        for (int64_t product = 0; product < kProducts; ++product) {
            multiply_tiles_here(plan, memory, product, count, start == group * plan.group);
        }
    }
}

void add_up_together(const NpcrConvolveGrad& task, const Plan& plan) {
    const Memory memory(task, plan, 0, 0);
    int64_t start = -plan.batch, count = 0;
    bool transformed = false;
    const auto perform = [&](int part, int) {
        if (transformed) return multiply_tiles_here(plan, memory, part, count, start == 0);
        transform_tiles_here(task, plan, memory, start, part * kTilesPerTask,
                             std::min(count, (part + 1) * kTilesPerTask));
    };
    bool begun = false;
    ThreadPool::run(plan.thread_count(task.threads), perform, [&]() -> int {
        if (begun && !transformed) {
            transformed = true;
            return kProducts;
        }
        begun = true;
        transformed = false;
        start += plan.batch;
        count = std::min(plan.batch, plan.count - start);
        return count > 0 ? static_cast<int>((count + kTilesPerTask - 1) / kTilesPerTask) : 0;
    });
}

bool valid(const NpcrConvolveGrad& task) {
    const int64_t most = 1 << 20;
    bool fits = task.outputs >= 1 && task.outputs <= most && task.height >= 1 && task.height <= kMaxSide &&
                task.width >= 1 && task.width <= kMaxSide && task.images >= 1 && task.images <= (1 << 16);
    for (int64_t channels : task.channels) fits = fits && channels >= 0 && channels <= most;
    return fits && task.channels[0] >= 1;
}

}  // namespace
}  // namespace npcr

int64_t npcr_convolve_grad_scratch(const NpcrConvolveGrad* task) {
    using namespace npcr;
    if (!valid(*task)) return NPCR_BAD_ARGUMENT;
    return Plan(*task).scratch_bytes(task->threads);
}

int32_t npcr_convolve_grad(const NpcrConvolveGrad* task) {
    using namespace npcr;
    const int64_t needed = npcr_convolve_grad_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    const Plan plan(*task);
    const int threads = plan.thread_count(task->threads);
    if (plan.shared()) {
        add_up_together(*task, plan);
    } else {
        ThreadPool::run(threads, static_cast<int>(plan.groups),
                  [&](int group, int thread) { add_up_group(*task, plan, group, thread); });
    }
    const float* results = Memory(*task, plan, 0, 0).result;
    ThreadPool::run(threads, static_cast<int>(plan.inputs),
              [&](int input, int) { finish_input_here(*task, plan, results, input); });
    return NPCR_OK;
}
