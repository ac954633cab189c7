// SPDX-License-Identifier: Apache-2.0
// Ellipses composited front to back on a CPU, and the way back. A task is a tile, whose pixels stay in a core's cache
// while its ellipses pass over them, near ones first; on the way back in reverse. Sums do not depend on the threads:
// within a tile the order is fixed, and each ellipse's parts of several tiles are added up by one thread, in order.

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <new>

#include "gaussian.h"
#include "interface.h"
#include "target_clones.h"
#include "thread_pool.h"

// Sums are fused here: -ffp-contract=off is for the projection.
#if defined(__clang__)
#pragma clang fp contract(fast)
#else
#pragma GCC optimize("fp-contract=fast")
#endif

#define NPCR_BODY static inline __attribute__((always_inline))

namespace npcr {

typedef float Lanes8 __attribute__((vector_size(32)));
typedef uint32_t Words8 __attribute__((vector_size(32)));
template <>
struct IntegersOf<Lanes8> {
    using Type = Words8;
};

namespace {

// Eight pixels at a time: strands are thin and run in all directions, so these are four of two rows. A tile's pixels lie
// in memory by pairs of rows, and in a pair by columns, so that any such eight follow each other.
constexpr int kLanes = 8;
constexpr int kColumns = 4, kRows = 2;
constexpr int kStride = kRows * (kTile + kColumns);  // floats from pair to pair; the last vector may reach beyond
constexpr int kPlane = kTile / kRows * kStride;
constexpr int place_of(int row, int column) { return row / kRows * kStride + column * kRows + row % kRows; }

constexpr int64_t kSums = 4096;  // ellipses of a task that adds up gradients
constexpr int kAhead = 6;        // pairs whose numbers are asked for ahead
constexpr int kLook = 32;        // ellipses after which a tile looks whether its pixels still show any

template <class Number, class Vector>
NPCR_BODY void load(const Number* from, Vector& to) { memcpy(&to, from, sizeof to); }
template <class Number, class Vector>
NPCR_BODY void store(const Vector& from, Number* to) { memcpy(to, &from, sizeof from); }
NPCR_BODY float sum(const Lanes8& lanes) {
    float four[4], parts[kLanes];
    store(lanes, parts);
    for (int i = 0; i < 4; ++i) four[i] = parts[i] + parts[i + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

struct Tile {
    int64_t x, y;        // of its first pixel
    int columns, rows;   // of pixels
    int64_t first, last;  // of its pairs
    template <class Task>
    Tile(const Task& task, int64_t number)
        : x(number % tiles_across(task.width) * kTile),
          y(number / tiles_across(task.width) * kTile),
          columns(static_cast<int>(std::min<int64_t>(kTile, task.width - x))),
          rows(static_cast<int>(std::min<int64_t>(kTile, task.height - y))),
          first(task.starts[number]),
          last(task.starts[number + 1]) {}
};

// A thread's memory for a tile: planes of kPlane numbers.
struct Memory {
    uint32_t* ends;
    float* passing;
    float* other;   // of the gradients, what comes from behind
    float* planes;  // of each channel
    static constexpr int kOthers = 2;
    Memory(uint32_t* words, float* floats)
        : ends(words), passing(floats), other(floats + kPlane), planes(floats + kOthers * kPlane) {}
};

// Calls perform(place in a plane, dx, dy, shares) for each eight pixels that an ellipse may cover.
template <class Perform>
NPCR_BODY void for_covered(const Tile& tile, const float* ellipse, Perform perform) {
    const float x = ellipse[0] - static_cast<float>(tile.x), y = ellipse[1] - static_cast<float>(tile.y);
    const float inverse = 1 / ellipse[2], slope = -ellipse[3] * inverse;  // of the middles of rows
    const float half_height = ellipse[7] / ellipse[4] + kRoom, half_width = ellipse[7] * inverse + kRoom;
    const float left = (slope < 0 ? slope : 0) - half_width, right = (slope > 0 ? slope : 0) + half_width;
    const Pixels rows = pixels_between(y - half_height, y + half_height, static_cast<float>(tile.rows));
    for (int row = rows.from & ~1; row <= rows.to; row += kRows) {
        const float down = static_cast<float>(row) - y, middle = x + slope * down;
        const Lanes8 dy = Lanes8{0, 1, 0, 1, 0, 1, 0, 1} + down;
        const Pixels columns = pixels_between(middle + left, middle + right, static_cast<float>(tile.columns));
        for (int column = columns.from; column <= columns.to; column += kColumns) {
            const Lanes8 dx = Lanes8{0, 0, 1, 1, 2, 2, 3, 3} + (static_cast<float>(column) - x);
            Lanes8 share;
            ellipse_share<Lanes8>(ellipse, dx, dy, share);
            perform(place_of(row, column), dx, dy, share);
        }
    }
}

NPCR_BODY bool shows_more(const Tile& tile, const float* passing) {
    float most = 0;
    for (int row = 0; row < tile.rows; ++row) {
        for (int column = 0; column < tile.columns; ++column) most = std::max(most, passing[place_of(row, column)]);
    }
    return most >= kPassingStop;
}

// Rows of the values come from anywhere in memory: asks for those of the pairs to come.
template <class Task>
NPCR_BODY void prefetch(const Task& task, int64_t pair) {
    __builtin_prefetch(task.ellipses + kEllipse * task.members[pair]);
    const float* values = task.values + task.channels * task.members[pair];
    __builtin_prefetch(values);
    __builtin_prefetch(values + task.channels - 1);  // a row may lie in two lines of the cache
}

template <int kPad, class Task>
NPCR_BODY void load_values(const Task& task, int64_t pair, float last, float* value) {
    const float* from = task.values + task.channels * task.members[pair];
    if (task.channels == kPad - 1) {
        for (int c = 0; c < kPad - 1; ++c) value[c] = from[c];
        value[kPad - 1] = last;
        return;
    }
    for (int c = 0; c < kPad; ++c) value[c] = c < task.channels ? from[c] : c == task.channels ? last : 0;
}

template <int kPad>
NPCR_BODY void composite_tile(const NpcrCompositeGaussians& task, const Tile& tile, const Memory& memory) {
    const int64_t channels = task.channels;
    std::fill_n(memory.passing, kPlane, 1.0f);
    std::fill_n(memory.ends, kPlane, 0u);
    std::fill_n(memory.planes, kPad * kPlane, 0.0f);
    for (int64_t i = tile.first; i < tile.last; ++i) {
        if ((i - tile.first) % kLook == kLook - 1 && !shows_more(tile, memory.passing)) break;
        const float* ellipse = task.ellipses + kEllipse * task.members[i];
        float value[kPad] = {};
        std::copy_n(task.values + channels * task.members[i], channels, value);
        value[channels] = ellipse[6];
        const uint32_t end = static_cast<uint32_t>(i + 1 - tile.first);
        for_covered(tile, ellipse, [&](int at, const Lanes8&, const Lanes8&, Lanes8& share) {
            Lanes8 passing;
            Words8 ends;
            load(memory.passing + at, passing);
            load(memory.ends + at, ends);
            share = passing >= kPassingStop ? share : Lanes8{};
            const Lanes8 weight = passing * share;
            store(passing * (1 - share), memory.passing + at);
            store(share > 0 ? Words8{} + end : ends, memory.ends + at);
            for (int c = 0; c < kPad; ++c) {
                Lanes8 sum;
                load(memory.planes + c * kPlane + at, sum);
                store(sum + weight * value[c], memory.planes + c * kPlane + at);
            }
        });
    }
    for (int row = 0; row < tile.rows; ++row) {
        for (int column = 0; column < tile.columns; ++column) {
            const int64_t to = (tile.y + row) * task.width + tile.x + column;
            const int at = place_of(row, column);
            const float passing = memory.passing[at], covered = 1 - passing;
            float* pixel = task.image + to * (channels + 1);
            for (int64_t c = 0; c < channels; ++c) pixel[c] = memory.planes[c * kPlane + at];
            pixel[channels] = covered;
            task.mean_depth[to] = covered > kMinCovered ? memory.planes[channels * kPlane + at] / covered : 0;
            task.passing[to] = passing;
            task.ends[to] = static_cast<int32_t>(memory.ends[at]);
        }
    }
}

// Returns the largest of the pixels' ends.
NPCR_BODY int32_t load_tile(const NpcrCompositeGaussiansGrad& task, const Tile& tile, const Memory& memory, int pad) {
    std::fill_n(memory.passing, kPlane, 1.0f);
    std::fill_n(memory.ends, kPlane, 0u);
    std::fill_n(memory.other, kPlane, 0.0f);
    std::fill_n(memory.planes, pad * kPlane, 0.0f);
    int32_t end = 0;
    for (int row = 0; row < tile.rows; ++row) {
        for (int column = 0; column < tile.columns; ++column) {
            const int64_t from = (tile.y + row) * task.width + tile.x + column;
            const int at = place_of(row, column);
            const float* pixel = task.grad_image + from * (task.channels + 1);
            memory.passing[at] = task.passing[from];
            memory.ends[at] = static_cast<uint32_t>(task.ends[from]);
            end = std::max(end, task.ends[from]);
            for (int64_t c = 0; c <= task.channels; ++c) memory.planes[c * kPlane + at] = pixel[c];
        }
    }
    return end;
}

template <int kPad>
NPCR_BODY void composite_tile_grad(const NpcrCompositeGaussiansGrad& task, const Tile& tile, const Memory& memory,
                                   float* parts) {
    const int64_t channels = task.channels, part_floats = kEllipseGrads + channels;
    const int32_t end = load_tile(task, tile, memory, kPad);
    for (int64_t i = tile.last - 1; i >= tile.first; --i) {
        float* part = parts + task.slots[i] * part_floats;
        if (i - tile.first >= end) {
            std::fill_n(part, part_floats, 0.0f);
            continue;
        }
        const float* ellipse = task.ellipses + kEllipse * task.members[i];
        float value[kPad] = {};
        std::copy_n(task.values + channels * task.members[i], channels, value);
        value[channels] = 1;  // of the coverage
        const uint32_t place = static_cast<uint32_t>(i - tile.first);
        Lanes8 of_value[kPad] = {}, of_ellipse[kEllipseGrads] = {};
        for_covered(tile, ellipse, [&](int at, const Lanes8& dx, const Lanes8& dy, Lanes8& share) {
            Lanes8 passing, other, of_weight = {};
            Words8 ends;
            load(memory.passing + at, passing);
            load(memory.other + at, other);
            load(memory.ends + at, ends);
            share = ends > place ? share : Lanes8{};
            const Lanes8 rest = 1 / (1 - share);
            passing *= rest;
            const Lanes8 weight = passing * share;
            for (int c = 0; c < kPad; ++c) {
                Lanes8 grad;
                load(memory.planes + c * kPlane + at, grad);
                of_weight += grad * value[c];
                of_value[c] += grad * weight;
            }
            ellipse_share_grad<Lanes8>(ellipse, dx, dy, share, passing * of_weight - other * rest, of_ellipse);
            store(passing, memory.passing + at);
            store(other + weight * of_weight, memory.other + at);
        });
        for (int k = 0; k < kEllipseGrads; ++k) part[k] = sum(of_ellipse[k]);
        part[kEllipseGrads - 1] /= ellipse[5];
        for (int64_t c = 0; c < channels; ++c) part[kEllipseGrads + c] = sum(of_value[c]);
    }
}

// Planes of a tile: the channels and one more, of which there are loops of fixed length.
int padded(int64_t channels) {
    for (int pad : {4, 8, 12, 16, 24, 32, 64}) {
        if (channels < pad) return pad;
    }
    return 128;
}

#define NPCR_BY_PAD(body, ...)             \
    switch (padded(task.channels)) {       \
        case 4: return body<4>(__VA_ARGS__);   \
        case 8: return body<8>(__VA_ARGS__);   \
        case 12: return body<12>(__VA_ARGS__); \
        case 16: return body<16>(__VA_ARGS__); \
        case 24: return body<24>(__VA_ARGS__); \
        case 32: return body<32>(__VA_ARGS__); \
        case 64: return body<64>(__VA_ARGS__); \
        default: return body<128>(__VA_ARGS__); \
    }

NPCR_TARGET_CLONES void run_tile(const NpcrCompositeGaussians& task, const Tile& tile, const Memory& memory) {
    NPCR_BY_PAD(composite_tile, task, tile, memory)
}

NPCR_TARGET_CLONES void run_tile_grad(const NpcrCompositeGaussiansGrad& task, const Tile& tile, const Memory& memory,
                                      float* parts) {
    NPCR_BY_PAD(composite_tile_grad, task, tile, memory, parts)
}

// Calls perform(tile, memory) for each tile, with memory of the thread's own.
template <class Task, class Perform>
void for_tiles(const Task& task, Perform perform) {
    const int64_t tiles = tiles_across(task.width) * tiles_across(task.height);
    const int tasks = static_cast<int>(std::min<int64_t>(tiles, ThreadPool::kMaxTasks));
    const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({task.threads, tiles, 256})));
    const int64_t floats = static_cast<int64_t>(Memory::kOthers + padded(task.channels)) * kPlane;
    std::unique_ptr<float[]> memory(new float[static_cast<size_t>(threads * floats)]);
    std::unique_ptr<uint32_t[]> ends(new uint32_t[static_cast<size_t>(threads * kPlane)]);
    ThreadPool::run(threads, tasks, [&](int part, int thread) {
        const Share share(tiles, part, tasks);
        for (int64_t number = share.first; number < share.last; ++number) {
            perform(Tile(task, number), Memory(ends.get() + thread * kPlane, memory.get() + thread * floats));
        }
    });
}

void composite(const NpcrCompositeGaussians& task) {
    for_tiles(task, [&](const Tile& tile, const Memory& memory) { run_tile(task, tile, memory); });
}

void composite_grad(const NpcrCompositeGaussiansGrad& task) {
    float* parts = static_cast<float*>(task.scratch);  // (pairs, 6 + channels)
    for_tiles(task, [&](const Tile& tile, const Memory& memory) { run_tile_grad(task, tile, memory, parts); });
    const int64_t floats = kEllipseGrads + task.channels, blocks = (task.count + kSums - 1) / kSums;
    if (blocks == 0) return;
    ThreadPool::run(static_cast<int>(std::min<int64_t>({task.threads, blocks, 256})), static_cast<int>(blocks),
                    [&](int block, int) {
        for (int64_t i = block * kSums; i < std::min(task.count, (block + 1) * kSums); ++i) {
            float* of_ellipse = task.grad_ellipses + kEllipse * task.order[i];
            float* of_value = task.grad_values + task.channels * task.order[i];
            std::fill_n(of_ellipse, kEllipse, 0.0f);
            std::fill_n(of_value, task.channels, 0.0f);
            for (int64_t pair = task.offsets[i]; pair < task.offsets[i + 1]; ++pair) {
                const float* part = parts + pair * floats;
                for (int k = 0; k < kEllipseGrads; ++k) of_ellipse[k] += part[k];
                for (int64_t c = 0; c < task.channels; ++c) of_value[c] += part[kEllipseGrads + c];
            }
        }
    });
}

}  // namespace
}  // namespace npcr

int32_t npcr_composite_gaussians(const NpcrCompositeGaussians* task) {
    if (!npcr::valid_values(*task)) return NPCR_BAD_ARGUMENT;
    try {
        npcr::composite(*task);
    } catch (const std::bad_alloc&) {
        return NPCR_OUT_OF_MEMORY;
    }
    return NPCR_OK;
}

int64_t npcr_composite_gaussians_grad_scratch(const NpcrCompositeGaussiansGrad* task) {
    if (!npcr::valid_values(*task)) return NPCR_BAD_ARGUMENT;
    return task->pairs * (npcr::kEllipseGrads + task->channels) * static_cast<int64_t>(sizeof(float));
}

int32_t npcr_composite_gaussians_grad(const NpcrCompositeGaussiansGrad* task) {
    const int64_t needed = npcr_composite_gaussians_grad_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    try {
        npcr::composite_grad(*task);
    } catch (const std::bad_alloc&) {
        return NPCR_OUT_OF_MEMORY;
    }
    return NPCR_OK;
}
