// SPDX-License-Identifier: Apache-2.0
// The forward convolution: blocks of tiles that stay in a core's cache from the transformed patches over the
// 36 matrix products to the finished pixels, gate and norm included. A task is a block, whatever the number of
// threads, so the sums do not depend on it.

#include <atomic>
#include <new>

#include "cpu_convolution.h"
#include "thread_pool.h"

namespace npcr {
namespace {

constexpr int64_t kCacheFloats = 96 * 1024;     // of a core's own cache, for one block's matrices
constexpr int64_t kLargeWeights = 512 * 1024;   // from here on, reading the weights decides: larger blocks
constexpr int64_t kLargeBlock = 96;

// Columns of the products: all convolutions, padded to whole vectors of 8, then all gates.
struct Columns {
    int64_t gate, padded;
    Columns(int64_t outputs, bool gated)
        : gate(gated ? round_up(outputs, 8) : 0), padded(round_up(gated ? 2 * gate : outputs, kPanel)) {}
};

struct Plan {
    int64_t inputs, outputs;
    Columns columns;
    Tiles tiles;    // of one image
    Area area;      // what the region depends on
    int64_t count;  // of all images' tiles
    int64_t left_row, right_row, block, blocks, left_plane, right_plane;
    int64_t images;  // that a block may have tiles of

    explicit Plan(const NpcrConvolve& task)
        : inputs(sum_of(task.channels)),
          outputs(sum_of(task.outputs)),
          columns(outputs, task.gated),
          tiles(task.region[0], task.region[1], task.region[2], task.region[3]),
          area{std::max<int64_t>(0, task.region[0] - 1), std::max<int64_t>(0, task.region[1] - 1),
               std::min(task.width, task.region[2] + 1), std::min(task.height, task.region[3] + 1)},
          count(tiles.count() * task.images),
          left_row(row_floats(inputs)),
          right_row(columns.padded + kPanel) {  // the last vector of a gate or a target may reach so far
        block = kCacheFloats / (kProducts * (left_row + right_row)) / 12 * 12;
        block = std::max<int64_t>(12, std::min<int64_t>(block, 48));
        if (kProducts * inputs * columns.padded > kLargeWeights) {
            // Blocks of one size, an even number of them for an even number of threads.
            const int64_t parts = 2 * ((count + 2 * kLargeBlock - 1) / (2 * kLargeBlock));
            block = round_up((count + parts - 1) / parts, 6);
        }
        block = std::max(block, (count + ThreadPool::kMaxTasks - 1) / ThreadPool::kMaxTasks);
        blocks = (count + block - 1) / block;
        left_plane = plane_floats(block * left_row);
        right_plane = plane_floats(block * right_row);
        images = std::min(task.images, (block - 1) / tiles.count() + 2);
    }
    int64_t thread_floats() const { return kProducts * (left_plane + right_plane); }
    int thread_count(int threads) const {
        const int64_t work = count * inputs * columns.padded / 32768;
        return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, blocks, 1 + work, 256})));
    }
    int64_t image_of(int64_t tile) const { return tile / tiles.count(); }
    int64_t channel_floats() const { return row_floats(outputs); }
    int64_t block_sums() const { return 2 * images * channel_floats(); }
    int64_t scratch_bytes(int threads, bool sums) const {
        return 4 * (thread_count(threads) * thread_floats() + 4 * channel_floats() + (sums ? blocks * block_sums() : 0)) + 128;
    }
};

// 1 / (1 + exp(-x)); exp by a polynomial of degree 6 on half an octave, to about 1e-7.
template <int lanes>
NPCR_INLINE void sigmoid(typename Lanes<lanes>::Float& x) {
    typedef typename Lanes<lanes>::Float V;
    typedef typename Lanes<lanes>::Bits B;
    V power = x * -1.44269504f;
    power = power > 126.0f ? V{} + 126.0f : power;
    power = power < -126.0f ? V{} - 126.0f : power;
    const V shifted = power + 12582912.0f;  // 1.5 * 2^23: the fraction is rounded away
    const V rest = power - (shifted - 12582912.0f);
    V exp2 = V{} + 1.5403530e-4f;
    exp2 = exp2 * rest + 1.3333558e-3f;
    exp2 = exp2 * rest + 9.6181291e-3f;
    exp2 = exp2 * rest + 5.5504109e-2f;
    exp2 = exp2 * rest + 2.4022651e-1f;
    exp2 = exp2 * rest + 6.9314718e-1f;
    exp2 = exp2 * rest + 1.0f;
    const B bits = (B)exp2 + ((B)shifted << 23);  // these casts keep the bits
    x = 1.0f / (1.0f + (V)bits);
}

template <class V>
NPCR_INLINE void products_to_pixels(const float* products, int64_t plane, V* pixels) {
    V half[kTile][kPatch];
    for (int column = 0; column < kPatch; ++column) {
        V values[kPatch];
#pragma GCC unroll 6
        for (int row = 0; row < kPatch; ++row) load(products + (row * kPatch + column) * plane, values[row]);
        transform_products(values, &half[0][column], kPatch);
    }
#pragma GCC unroll 4
    for (int row = 0; row < kTile; ++row) transform_products(half[row], pixels + row * kTile, 1);
}

template <class V, class Element>
NPCR_INLINE void store_some(const V& from, int64_t count, Element* to) {
    constexpr int kLanes = sizeof(V) / sizeof(Element);
    if (count == kLanes) {
        store(from, to);
    } else {
        Element lanes[kLanes];
        store(from, lanes);
        copy_some<kLanes / 2>(lanes, count, to);
    }
}

// Sigmoids 0 to 1 as 0 to 65535.
template <int lanes>
NPCR_INLINE void store_gates(const typename Lanes<lanes>::Float& sigmoids, int64_t count, uint16_t* to) {
    const auto whole = __builtin_convertvector(sigmoids * 65535.0f + 0.5f, typename Lanes<lanes>::Int);
    store_some(__builtin_convertvector(whole, typename Lanes<lanes>::Short), count, to);
}

// What finish_tile needs for each channel, `stride` floats a kind, with whole vectors to read.
struct PerChannel {
    float *bias, *gate_bias, *scale, *shift;
    float* sums;  // a block's, of each of its images: of the results, then of their squares; or null
    int64_t stride;
};

template <class V>
NPCR_INLINE void add_to(const V& value, float* place) {
    V before;
    load(place, before);
    store(before + value, place);
}

// One tile's products to its pixels of one target, whose channels begin at `start` of the result's.
template <int lanes>
NPCR_INLINE void finish_tile(const NpcrConvolve& task, const Plan& plan, const PerChannel& per_channel, float* sums,
                             const float* products, int64_t plane, int64_t tile, int target, int64_t start) {
    typedef typename Lanes<lanes>::Float V;
    const int64_t image = plan.image_of(tile), of_image = tile - image * plan.tiles.count();
    const int64_t x0 = plan.tiles.x(of_image), y0 = plan.tiles.y(of_image), outputs = task.outputs[target];
    const int64_t rows = std::min<int64_t>(kTile, task.region[3] - y0);
    const int64_t across = std::min<int64_t>(kTile, task.region[2] - x0);
    const int64_t origin = (image * task.height + y0) * task.width + x0;
    for (int64_t channel = 0; channel < outputs; channel += lanes) {
        const int64_t count = std::min<int64_t>(lanes, outputs - channel), place = start + channel;
        V value[kTile * kTile], gate[kTile * kTile], bias, gate_bias, scale, shift, sum = V{}, squares = V{};
        products_to_pixels(products + place, plane, value);
        if (task.gated) products_to_pixels(products + plan.columns.gate + place, plane, gate);
        load(per_channel.bias + place, bias);
        load(per_channel.gate_bias + place, gate_bias);
        load(per_channel.scale + place, scale);
        load(per_channel.shift + place, shift);
        for (int64_t row = 0; row < rows; ++row) {
            for (int64_t column = 0; column < across; ++column) {
                const int64_t at = (origin + row * task.width + column) * outputs + channel;
                V out = value[row * kTile + column] + bias;
                if (task.gated) {
                    V sigmoids = gate[row * kTile + column] + gate_bias;
                    sigmoid<lanes>(sigmoids);
                    if (task.gates) store_gates<lanes>(sigmoids, count, task.gates + at);
                    out *= sigmoids;
                    sum += out;
                    squares += out * out;
                    if (task.scale) {
                        out = out * scale + shift;
                        out = out > 0.0f ? out : V{};
                    }
                }
                store_some(out, count, task.targets[target] + at);
            }
        }
        if (sums) {
            add_to(sum, sums + place);
            add_to(squares, sums + per_channel.stride + place);
        }
    }
}

template <int lanes, int rows, int panels_at_once>
NPCR_INLINE void convolve_block(const NpcrConvolve& task, const Plan& plan, int64_t block, float* memory,
                                const PerChannel& per_channel) {
    const int64_t first = block * plan.block, count = std::min(plan.block, plan.count - first);
    const int64_t left_plane = plan.left_plane, right_plane = plan.right_plane;
    float* left = memory;
    float* products = memory + kProducts * left_plane;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t image = plan.image_of(first + i), tile = first + i - image * plan.tiles.count();
        const float* maps[3];
        for (int source = 0; source < 3; ++source) {
            maps[source] = task.sources[source] + image * task.height * task.width * task.channels[source];
        }
        const Sources sources{maps, task.channels, task.height, task.width, plan.area, nullptr, nullptr};
        transform_patches<lanes>(sources, plan.tiles.y(tile), plan.tiles.x(tile), left + i * plan.left_row, left_plane);
    }
    const int64_t panel_floats = plan.inputs * kPanel, panels = plan.columns.padded / kPanel;
    for (int64_t product = 0; product < kProducts; ++product) {
        const float* weights = task.packed + product * plane_floats(panels * panel_floats);
        multiply<lanes, rows, panels_at_once, false>(left + product * left_plane, plan.left_row, 1, weights, kPanel,
                                                     panel_floats, plan.inputs, products + product * right_plane,
                                                     plan.right_row, count, panels);
    }
    for (int64_t i = 0; i < count; ++i) {
        const int64_t image = plan.image_of(first + i) - plan.image_of(first);  // of the block's
        float* sums = per_channel.sums ? per_channel.sums + 2 * image * per_channel.stride : nullptr;
        for (int64_t target = 0, start = 0; target < 3; start += task.outputs[target++]) {
            if (!task.targets[target]) continue;
            finish_tile<lanes>(task, plan, per_channel, sums, products + i * plan.right_row, right_plane, first + i,
                               static_cast<int>(target), start);
        }
    }
}

NPCR_FOR_PROCESSOR(convolve_block,
                   (const NpcrConvolve& task, const Plan& plan, int64_t block, float* memory,
                    const PerChannel& per_channel),
                   (task, plan, block, memory, per_channel))

bool valid(const NpcrConvolve& task) {
    const int64_t* region = task.region;
    const int64_t most = 1 << 20;
    bool fits = task.images >= 1 && task.images <= (1 << 16) && task.height >= 1 && task.height <= kMaxSide &&
                task.width >= 1 && task.width <= kMaxSide && region[0] >= 0 && region[0] < region[2] &&
                region[2] <= task.width && region[1] >= 0 && region[1] < region[3] && region[3] <= task.height;
    for (int64_t channels : task.channels) fits = fits && channels >= 0 && channels <= most;
    for (int64_t outputs : task.outputs) fits = fits && outputs >= 0 && outputs <= most;
    const bool one = task.outputs[1] == 0 && task.outputs[2] == 0;
    return fits && task.channels[0] >= 1 && task.outputs[0] >= 1 &&
           (task.gated ? one : !(task.gates || task.sums || task.scale));
}

bool valid(const NpcrPack& task) {
    const int64_t most = 1 << 20;
    return task.outputs >= 1 && task.outputs <= most && task.inputs >= 1 && task.inputs <= most;
}

// The matrices that a task packs.
struct PackPlan {
    int64_t outputs;  // gates count among them
    int64_t rows, columns;
    Columns place;

    explicit PackPlan(const NpcrPack& task)
        : outputs(task.gate_weights ? 2 * task.outputs : task.outputs),
          rows(task.transposed ? outputs : task.inputs),
          columns(task.transposed ? task.inputs : outputs),
          place(task.transposed ? task.inputs : task.outputs, task.gate_weights && !task.transposed) {}
    int64_t plane() const { return plane_floats(rows * place.padded); }
    // Which column of the weights has its place here; -1 where none has.
    int64_t column_at(int64_t at) const {
        if (place.gate == 0) return at < columns ? at : -1;
        const int64_t half = columns / 2;
        return at < half ? at : at >= place.gate && at - place.gate < half ? half + at - place.gate : -1;
    }
};

// A panel of the packed matrices, all rows, so that both sides are read and written in order: G g G' of `lanes` pairs
// of channels at a time.
template <int lanes, int rows, int panels_at_once>
NPCR_INLINE void pack_panel(const NpcrPack& task, const PackPlan& plan, int64_t panel) {
    typedef typename Lanes<lanes>::Float V;
    const int64_t plane = plan.plane();
    for (int64_t step = 0; step < plan.rows * kPanel; step += lanes) {
        const int64_t row = step / kPanel, place = panel * kPanel + step % kPanel;
        float taps[9][lanes] = {};
        for (int lane = 0; lane < lanes; ++lane) {
            const int64_t column = plan.column_at(place + lane);
            if (column < 0) continue;
            const int64_t output = task.transposed ? row : column, input = task.transposed ? column : row;
            const bool gate = output >= task.outputs;
            const float* weights = gate ? task.gate_weights : task.weights;
            weights += 9 * ((gate ? output - task.outputs : output) * task.inputs + input);
            for (int tap = 0; tap < 9; ++tap) taps[tap][lane] = weights[task.transposed ? 8 - tap : tap];
        }
        V loaded[9], half_way[kPatch][3];
        for (int tap = 0; tap < 9; ++tap) load(taps[tap], loaded[tap]);
        for (int i = 0; i < kPatch; ++i) {
            for (int j = 0; j < 3; ++j) {
                half_way[i][j] = kG[i][0] * loaded[j] + kG[i][1] * loaded[3 + j] + kG[i][2] * loaded[6 + j];
            }
        }
        float* out = task.packed + panel * plan.rows * kPanel + step;
        for (int i = 0; i < kPatch; ++i) {
            for (int j = 0; j < kPatch; ++j) {
                const V value = kG[j][0] * half_way[i][0] + kG[j][1] * half_way[i][1] + kG[j][2] * half_way[i][2];
                store(value, out + (i * kPatch + j) * plane);
            }
        }
    }
}

NPCR_FOR_PROCESSOR(pack_panel, (const NpcrPack& task, const PackPlan& plan, int64_t panel), (task, plan, panel))

// All blocks' sums to each image's, in the blocks' order.
void add_up_sums(const NpcrConvolve& task, const Plan& plan, const float* sums) {
    std::fill_n(task.sums, task.images * 2 * plan.outputs, 0.0);
    for (int64_t block = 0; block < plan.blocks; ++block) {
        const int64_t first = plan.image_of(block * plan.block);
        const int64_t last = plan.image_of(std::min(plan.count, (block + 1) * plan.block) - 1);
        for (int64_t row = 2 * first; row < 2 * last + 2; ++row) {
            const float* of_block = sums + block * plan.block_sums() + (row - 2 * first) * plan.channel_floats();
            for (int64_t i = 0; i < plan.outputs; ++i) task.sums[row * plan.outputs + i] += of_block[i];
        }
    }
}

}  // namespace
}  // namespace npcr

int64_t npcr_pack_floats(const NpcrPack* task) {
    using namespace npcr;
    return valid(*task) ? kProducts * PackPlan(*task).plane() : static_cast<int64_t>(NPCR_BAD_ARGUMENT);
}

int32_t npcr_pack(const NpcrPack* task) {
    using namespace npcr;
    const int64_t needed = npcr_pack_floats(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->packed_floats < needed) return NPCR_SCRATCH_TOO_SMALL;
    const PackPlan plan(*task);
    ThreadPool::run(static_cast<int>(std::min<int64_t>(task->threads, 1 + plan.rows * plan.columns / 4096)),
              static_cast<int>(plan.place.padded / kPanel),
              [&](int panel, int) { pack_panel_here(*task, plan, panel); });
    return NPCR_OK;
}

int64_t npcr_convolve_scratch(const NpcrConvolve* task) {
    using namespace npcr;
    if (!valid(*task)) return NPCR_BAD_ARGUMENT;
    return Plan(*task).scratch_bytes(task->threads, task->sums != nullptr);
}

int32_t npcr_convolve(const NpcrConvolve* task) {
    using namespace npcr;
    const int64_t needed = npcr_convolve_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    const Plan plan(*task);
    const int threads = plan.thread_count(task->threads);
    const uintptr_t origin = (reinterpret_cast<uintptr_t>(task->scratch) + 63) / 64 * 64;
    float* memory = reinterpret_cast<float*>(origin);
    const int64_t stride = plan.channel_floats();
    float* channels = memory + threads * plan.thread_floats();
    float* sums = channels + 4 * stride;
    std::fill_n(channels, 4 * stride + (task->sums ? plan.blocks * plan.block_sums() : 0), 0.0f);
    const float* given[4] = {task->bias, task->gated ? task->bias + plan.outputs : nullptr, task->scale, task->shift};
    for (int kind = 0; kind < 4; ++kind) {
        if (given[kind]) std::copy_n(given[kind], plan.outputs, channels + kind * stride);
    }
    ThreadPool::run(threads, static_cast<int>(plan.blocks), [&](int block, int thread) {
        const PerChannel per_channel{channels,
                                     channels + stride,
                                     channels + 2 * stride,
                                     channels + 3 * stride,
                                     task->sums ? sums + block * plan.block_sums() : nullptr,
                                     stride};
        convolve_block_here(*task, plan, block, memory + thread * plan.thread_floats(), per_channel);
    });
    if (task->sums) add_up_sums(*task, plan, sums);
    return NPCR_OK;
}
