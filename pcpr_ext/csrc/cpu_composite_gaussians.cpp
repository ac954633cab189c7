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

#define NPCR_BODY static inline __attribute__((always_inline))

namespace npcr {
namespace {

constexpr int kTilePixels = kTile * kTile;
constexpr int64_t kSums = 4096;  // ellipses of a task that adds up gradients

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

// Calls perform(pixel of the tile, dx, dy, share) for each pixel of which an ellipse covers something.
template <class Perform>
NPCR_BODY void for_covered(const Tile& tile, const float* ellipse, Perform perform) {
    const float x = ellipse[0] - static_cast<float>(tile.x), y = ellipse[1] - static_cast<float>(tile.y);
    const float half_height = ellipse[7] / ellipse[4] + kRoom;
    const Pixels rows = pixels_between(y - half_height, y + half_height, static_cast<float>(tile.rows));
    for (int row = rows.from; row <= rows.to; ++row) {
        const float dy = static_cast<float>(row) - y;
        const Span span = row_span(ellipse, dy);
        const Pixels columns = pixels_between(x + span.first, x + span.last, static_cast<float>(tile.columns));
        float shares[kTile];
        for (int column = columns.from; column <= columns.to; ++column) {
            shares[column] = ellipse_share(ellipse, static_cast<float>(column) - x, dy);
        }
        for (int column = columns.from; column <= columns.to; ++column) {
            if (shares[column] > 0) perform(row * kTile + column, static_cast<float>(column) - x, dy, shares[column]);
        }
    }
}

// A thread's memory for a tile, `pad` floats a pixel.
struct Pixel {
    float passing, other;  // other: of the gradients, what comes from behind
    int32_t end;
};

template <int kPad>
NPCR_BODY void composite_tile(const NpcrCompositeGaussians& task, const Tile& tile, Pixel* pixels, float* sums) {
    const int64_t channels = task.channels;
    std::fill_n(pixels, kTilePixels, Pixel{1, 0, 0});
    std::fill_n(sums, kTilePixels * kPad, 0.0f);
    int open = tile.rows * tile.columns;
    for (int64_t i = tile.first; i < tile.last && open > 0; ++i) {
        const float* ellipse = task.ellipses + kEllipse * task.members[i];
        float value[kPad] = {};
        memcpy(value, task.values + channels * task.members[i], static_cast<size_t>(channels) * sizeof(float));
        value[channels] = ellipse[6];
        for_covered(tile, ellipse, [&](int at, float, float, float share) {
            Pixel& pixel = pixels[at];
            if (pixel.passing < kPassingStop) return;
            const float weight = pixel.passing * share;
            float* sum = sums + at * kPad;
            for (int c = 0; c < kPad; ++c) sum[c] += weight * value[c];
            pixel.passing *= 1 - share;
            pixel.end = static_cast<int32_t>(i + 1 - tile.first);
            if (pixel.passing < kPassingStop) --open;
        });
    }
    for (int row = 0; row < tile.rows; ++row) {
        for (int column = 0; column < tile.columns; ++column) {
            const int64_t to = (tile.y + row) * task.width + tile.x + column;
            const Pixel& pixel = pixels[row * kTile + column];
            const float *sum = sums + (row * kTile + column) * kPad, covered = 1 - pixel.passing;
            std::copy_n(sum, channels, task.image + to * (channels + 1));
            task.image[to * (channels + 1) + channels] = covered;
            task.mean_depth[to] = covered > kMinCovered ? sum[channels] / covered : 0;
            task.passing[to] = pixel.passing;
            task.ends[to] = pixel.end;
        }
    }
}

template <int kPad>
NPCR_BODY void composite_tile_grad(const NpcrCompositeGaussiansGrad& task, const Tile& tile, Pixel* pixels,
                                   float* grads, float* parts) {
    const int64_t channels = task.channels, part_floats = kEllipseGrads + channels;
    std::fill_n(pixels, kTilePixels, Pixel{1, 0, 0});
    std::fill_n(grads, kTilePixels * kPad, 0.0f);
    int32_t end = 0;
    for (int row = 0; row < tile.rows; ++row) {
        for (int column = 0; column < tile.columns; ++column) {
            const int64_t from = (tile.y + row) * task.width + tile.x + column;
            const int at = row * kTile + column;
            pixels[at] = {task.passing[from], 0, task.ends[from]};
            end = std::max(end, task.ends[from]);
            std::copy_n(task.grad_image + from * (channels + 1), channels + 1, grads + at * kPad);
        }
    }
    for (int64_t i = tile.last - 1; i >= tile.first; --i) {
        float* part = parts + task.slots[i] * part_floats;
        if (i - tile.first >= end) {
            std::fill_n(part, part_floats, 0.0f);
            continue;
        }
        const float* ellipse = task.ellipses + kEllipse * task.members[i];
        float value[kPad] = {}, of_value[kPad] = {}, of_ellipse[kEllipseGrads] = {};
        memcpy(value, task.values + channels * task.members[i], static_cast<size_t>(channels) * sizeof(float));
        value[channels] = 1;  // of the coverage
        for_covered(tile, ellipse, [&](int at, float dx, float dy, float share) {
            Pixel& pixel = pixels[at];
            if (i - tile.first >= pixel.end) return;
            const float* grad = grads + at * kPad;
            const float rest = 1 / (1 - share);
            pixel.passing *= rest;
            const float weight = pixel.passing * share;
            float of_weight = 0;
            for (int c = 0; c < kPad; ++c) of_weight += value[c] * grad[c];
            for (int c = 0; c < kPad; ++c) of_value[c] += weight * grad[c];
            ellipse_share_grad(ellipse, dx, dy, share, pixel.passing * of_weight - pixel.other * rest, of_ellipse);
            pixel.other += weight * of_weight;
        });
        std::copy_n(of_ellipse, kEllipseGrads, part);
        std::copy_n(of_value, channels, part + kEllipseGrads);
    }
}

// Floats of a pixel: the channels and one more, in whole vectors.
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

NPCR_TARGET_CLONES void run_tile(const NpcrCompositeGaussians& task, const Tile& tile, Pixel* pixels, float* sums) {
    NPCR_BY_PAD(composite_tile, task, tile, pixels, sums)
}

NPCR_TARGET_CLONES void run_tile_grad(const NpcrCompositeGaussiansGrad& task, const Tile& tile, Pixel* pixels,
                                      float* grads, float* parts) {
    NPCR_BY_PAD(composite_tile_grad, task, tile, pixels, grads, parts)
}

// Calls perform(tile, pixels, floats) for each tile, with memory of the thread's own.
template <class Task, class Perform>
void for_tiles(const Task& task, Perform perform) {
    const int64_t tiles = tiles_across(task.width) * tiles_across(task.height);
    const int tasks = static_cast<int>(std::min<int64_t>(tiles, ThreadPool::kMaxTasks));
    const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({task.threads, tiles, 256})));
    const int64_t floats = static_cast<int64_t>(kTilePixels) * padded(task.channels);
    std::unique_ptr<Pixel[]> pixels(new Pixel[static_cast<size_t>(threads * kTilePixels)]);
    std::unique_ptr<float[]> memory(new float[static_cast<size_t>(threads * floats)]);
    ThreadPool::run(threads, tasks, [&](int part, int thread) {
        const Share share(tiles, part, tasks);
        for (int64_t number = share.first; number < share.last; ++number) {
            perform(Tile(task, number), pixels.get() + thread * kTilePixels, memory.get() + thread * floats);
        }
    });
}

void composite(const NpcrCompositeGaussians& task) {
    for_tiles(task, [&](const Tile& tile, Pixel* pixels, float* sums) { run_tile(task, tile, pixels, sums); });
}

void composite_grad(const NpcrCompositeGaussiansGrad& task) {
    float* parts = static_cast<float*>(task.scratch);  // (pairs, 6 + channels)
    for_tiles(task, [&](const Tile& tile, Pixel* pixels, float* grads) {
        run_tile_grad(task, tile, pixels, grads, parts);
    });
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
