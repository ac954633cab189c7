// SPDX-License-Identifier: Apache-2.0
// Ellipses composited front to back on a CPU, and the way back. A task is a tile, over which its ellipses pass in batches,
// near ones first; on the way back in reverse. Sums do not depend on the threads: within a tile the order is fixed, and
// each ellipse's parts of several tiles are added up by one thread, in order.

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "cpu_tile.h"
#include "processor.h"
#include "thread_pool.h"

// Sums are fused here: -ffp-contract=off is for the projection.
#if defined(__clang__)
#pragma clang fp contract(fast)
#else
#pragma GCC optimize("fp-contract=fast")
#endif

namespace npcr {
namespace {

constexpr int64_t kSums = 4096;  // ellipses of a task that adds up gradients

template <class Vector>
NPCR_BODY bool any(const Vector& lanes) {
    uint32_t bits = 0;
    for (int lane = 0; lane < kLanes; ++lane) bits |= static_cast<uint32_t>(lanes[lane]);
    return bits != 0;
}
template <class Number, class Vector>
NPCR_BODY void load(const Number* from, Vector& to) { memcpy(&to, from, sizeof to); }
template <class Number, class Vector>
NPCR_BODY void store(const Vector& from, Number* to) { memcpy(to, &from, sizeof from); }

// Channels and one more, which is depth or coverage, in whole vectors.
int padded(int64_t channels) { return static_cast<int>(channels + kLanes) / kLanes * kLanes; }

// A thread's memory for a tile.
struct Memory {
    const int padded;
    Batch batch;
    uint32_t ends[kBlocks * kLanes];
    float passing[kBlocks * kLanes];
    float other[kBlocks * kLanes];    // of the gradients, what comes from behind
    float weights[kBatch * kLanes];  // of the ellipses of a block's list
    // Of the gradients as well: what they cover, that over what they do not, gradients of weights or shares.
    float shares[kBatch * kLanes], odds[kBatch * kLanes], grads[kBatch * kLanes];
    float *image;   // (kBlocks, padded, 8): of each channel, the block's pixels
    float *pixels;  // (kBlocks, padded / 8, 8 pixels, 8 channels): of the gradients, the same transposed
    float *values;  // (kBatch, padded)
    float *parts;   // (kBatch, 8 + padded): of the gradients, moments and values
    explicit Memory(int64_t channels)
        : padded(npcr::padded(channels)),
          floats_(new Lanes8[static_cast<size_t>(padded * (2 * kBlocks + 2 * kBatch / kLanes) + kBatch)]) {
        image = reinterpret_cast<float*>(floats_.get());
        pixels = image + kBlocks * padded * kLanes;
        values = pixels + kBlocks * padded * kLanes;
        parts = values + kBatch * padded;
    }

private:
    std::unique_ptr<Lanes8[]> floats_;  // aligned for vectors
};

NPCR_BODY void share_of(const TileEllipse& ellipse, const Lanes8& x, const Lanes8& y, Lanes8& share) {
    const Lanes8 a = x * ellipse.xx + (y * ellipse.xy + ellipse.x), b = y * ellipse.yy + ellipse.y;
    share_of_power<Lanes8>(-(a * a + b * b), ellipse.least, ellipse.opacity, share);
}

// The weights of a batch's ellipses in a block's pixels, to `weights`. Returns whether more could be seen behind them.
NPCR_BODY bool weigh(Memory& memory, const Tile& tile, int block) {
    const Batch& batch = memory.batch;
    const uint32_t before = static_cast<uint32_t>(batch.first + 1 - tile.first);
    Lanes8 x, y, passing;
    Words8 ends;
    block_pixels(block, x, y);
    load(memory.passing + block * kLanes, passing);
    load(memory.ends + block * kLanes, ends);
    for (int i = 0; i < batch.lengths[block]; ++i) {
        const uint32_t pair = batch.lists[block][i];
        Lanes8 share;
        share_of(batch.ellipses[pair], x, y, share);
        share = passing >= kPassingStop ? share : Lanes8{};
        store(passing * share, memory.weights + i * kLanes);
        passing *= 1 - share;
        ends = share > 0 ? Words8{} + (before + pair) : ends;
    }
    store(passing, memory.passing + block * kLanes);
    store(ends, memory.ends + block * kLanes);
    return any(passing >= kPassingStop);
}

// Adds the weighted values of a batch's ellipses to a block's pixels.
NPCR_BODY void add_values(Memory& memory, int block) {
    const Batch& batch = memory.batch;
    for (int chunk = 0; chunk < memory.padded; chunk += kLanes) {
        float* image = memory.image + (block * memory.padded + chunk) * kLanes;
        Lanes8 sums[kLanes];
        for (int c = 0; c < kLanes; ++c) load(image + c * kLanes, sums[c]);
        for (int i = 0; i < batch.lengths[block]; ++i) {
            const float* value = memory.values + batch.lists[block][i] * memory.padded + chunk;
            Lanes8 weight;
            load(memory.weights + i * kLanes, weight);
            for (int c = 0; c < kLanes; ++c) sums[c] += weight * value[c];
        }
        for (int c = 0; c < kLanes; ++c) store(sums[c], image + c * kLanes);
    }
}

NPCR_BODY void composite_tile(const NpcrCompositeGaussians& task, const Tile& tile, Memory& memory) {
    const int64_t channels = task.channels;
    std::fill_n(memory.ends, kBlocks * kLanes, 0u);
    std::fill_n(memory.passing, kBlocks * kLanes, 0.0f);
    std::fill_n(memory.image, kBlocks * memory.padded * kLanes, 0.0f);
    uint32_t open = 0;
    for_pixels(tile, task.width, [&](int64_t, int block, int lane) NPCR_LAMBDA {
        memory.passing[block * kLanes + lane] = 1;
        open |= 1u << block;
    });
    for (int64_t first = tile.first; first < tile.last && open != 0; first += kBatch) {
        load_batch(task, tile, first, static_cast<int>(std::min<int64_t>(kBatch, tile.last - first)), memory.padded,
                   [](const float* ellipse) NPCR_LAMBDA { return ellipse[6]; }, memory.batch, memory.values);
        for (int i = 0; i < memory.batch.count; ++i) task.blocks[first + i] = blocks_of(memory.batch.rows[i], tile);
        list_blocks(memory.batch, task.blocks + first, open);
        for (uint32_t rest = open; rest != 0; rest &= rest - 1) {
            const int block = __builtin_ctz(rest);
            if (memory.batch.lengths[block] == 0) continue;
            if (!weigh(memory, tile, block)) open ^= 1u << block;
            add_values(memory, block);
        }
    }
    for_pixels(tile, task.width, [&](int64_t to, int block, int lane) NPCR_LAMBDA {
        const int at = block * kLanes + lane;
        const float* values = memory.image + block * memory.padded * kLanes + lane;
        const float passing = memory.passing[at], covered = 1 - passing;
        float* pixel = task.image + to * (channels + 1);
        for (int64_t c = 0; c < channels; ++c) pixel[c] = values[c * kLanes];
        pixel[channels] = covered;
        task.mean_depth[to] = covered > kMinCovered ? values[channels * kLanes] / covered : 0;
        task.passing[to] = passing;
        task.ends[to] = static_cast<int32_t>(memory.ends[at]);
    });
}

// Returns the largest of the pixels' ends.
NPCR_BODY uint32_t load_tile(const NpcrCompositeGaussiansGrad& task, const Tile& tile, Memory& memory) {
    std::fill_n(memory.ends, kBlocks * kLanes, 0u);
    std::fill_n(memory.passing, kBlocks * kLanes, 1.0f);
    std::fill_n(memory.other, kBlocks * kLanes, 0.0f);
    std::fill_n(memory.image, kBlocks * memory.padded * kLanes, 0.0f);
    std::fill_n(memory.pixels, kBlocks * memory.padded * kLanes, 0.0f);
    uint32_t last = 0;
    for_pixels(tile, task.width, [&](int64_t from, int block, int lane) NPCR_LAMBDA {
        const int at = block * kLanes + lane;
        const float* pixel = task.grad_image + from * (task.channels + 1);
        memory.passing[at] = task.passing[from];
        memory.ends[at] = static_cast<uint32_t>(task.ends[from]);
        last = std::max(last, memory.ends[at]);
        for (int c = 0; c <= task.channels; ++c) {
            memory.image[(block * memory.padded + c) * kLanes + lane] = pixel[c];
            memory.pixels[(block * memory.padded + c / kLanes * kLanes + lane) * kLanes + c % kLanes] = pixel[c];
        }
    });
    return last;
}

// What each ellipse of a block's list covers of the pixels, and its weights: the way back from what passes all. Returns the list's length without those that no pixel shows.
NPCR_BODY int unweigh(Memory& memory, const Tile& tile, int block) {
    const Batch& batch = memory.batch;
    const uint32_t before = static_cast<uint32_t>(batch.first - tile.first);
    const uint32_t* pixel_ends = memory.ends + block * kLanes;
    const uint32_t last = *std::max_element(pixel_ends, pixel_ends + kLanes);
    int length = batch.lengths[block];
    while (length > 0 && before + batch.lists[block][length - 1] >= last) --length;
    if (length == 0) return 0;
    Lanes8 x, y, passing;
    Words8 ends;
    block_pixels(block, x, y);
    load(memory.passing + block * kLanes, passing);
    load(pixel_ends, ends);
    for (int i = length - 1; i >= 0; --i) {
        const uint32_t pair = batch.lists[block][i];
        Lanes8 share;
        share_of(batch.ellipses[pair], x, y, share);
        share = ends > before + pair ? share : Lanes8{};
        const Lanes8 rest = 1 / (1 - share);
        passing *= rest;
        store(share, memory.shares + i * kLanes);
        store(share * rest, memory.odds + i * kLanes);
        store(share * passing, memory.weights + i * kLanes);
    }
    store(passing, memory.passing + block * kLanes);
    return length;
}

// Adds rows[pixel] times the pixel's number to `sums`, a vector each: a matrix times a vector. The numbers are to lie in
// memory: to spread each over a vector from a register is slow on some processors.
NPCR_BODY void add_products(const float* numbers, const float* rows, float* sums) {
    Lanes8 sum, odd = {};
    load(sums, sum);
    for (int pixel = 0; pixel < kLanes; pixel += 2) {
        Lanes8 row, odd_row;
        load(rows + pixel * kLanes, row);
        load(rows + (pixel + 1) * kLanes, odd_row);
        sum += row * numbers[pixel];
        odd += odd_row * numbers[pixel + 1];
    }
    store(sum + odd, sums);
}

// Gradients of the values, to `parts`, and of the weights, to `grads`.
NPCR_BODY void add_values_grad(Memory& memory, int block, int length) {
    const Batch& batch = memory.batch;
    for (int chunk = 0; chunk < memory.padded; chunk += kLanes) {
        const float* image = memory.image + (block * memory.padded + chunk) * kLanes;
        const float* pixels = memory.pixels + (block * memory.padded + chunk) * kLanes;
        Lanes8 grads[kLanes];
        for (int c = 0; c < kLanes; ++c) load(image + c * kLanes, grads[c]);
        for (int i = 0; i < length; ++i) {
            const int pair = batch.lists[block][i];
            const float* value = memory.values + pair * memory.padded + chunk;
            Lanes8 of_weight = {}, odd = {};
            if (chunk > 0) load(memory.grads + i * kLanes, of_weight);
            for (int c = 0; c < kLanes; c += 2) {
                of_weight += grads[c] * value[c];
                odd += grads[c + 1] * value[c + 1];
            }
            store(of_weight + odd, memory.grads + i * kLanes);
            add_products(memory.weights + i * kLanes, pixels,
                         memory.parts + pair * (memory.padded + kLanes) + kLanes + chunk);
        }
    }
}

// From the gradients of the weights those of the shares, times these, and their moments, to `parts`.
NPCR_BODY void add_moments(Memory& memory, int block, int length) {
    const Batch& batch = memory.batch;
    Lanes8 x, y, other;
    block_pixels(block, x, y);
    load(memory.other + block * kLanes, other);
    for (int i = length - 1; i >= 0; --i) {
        Lanes8 share, odds, weight, of_weight, product;
        load(memory.shares + i * kLanes, share);
        load(memory.odds + i * kLanes, odds);
        load(memory.weights + i * kLanes, weight);
        load(memory.grads + i * kLanes, of_weight);
        of_weight *= weight;
        product = of_weight - other * odds;
        share_grad_below_most<Lanes8>(share, product);
        other += of_weight;
        store(product, memory.grads + i * kLanes);
    }
    store(other, memory.other + block * kLanes);
    float rows[kLanes][kLanes];  // as ellipse_grad_from_moments has them
    for (int i = 0; i < kLanes; ++i) {
        const float row[kLanes] = {1, x[i], y[i], x[i] * x[i], x[i] * y[i], y[i] * y[i], 0, 0};
        std::copy_n(row, kLanes, rows[i]);
    }
    for (int i = 0; i < length; ++i) {
        add_products(memory.grads + i * kLanes, rows[0], memory.parts + batch.lists[block][i] * (memory.padded + kLanes));
    }
}

NPCR_BODY void composite_tile_grad(const NpcrCompositeGaussiansGrad& task, const Tile& tile, Memory& memory,
                                   float* parts) {
    const int64_t channels = task.channels, floats = kEllipseGrads + channels;
    const int row = memory.padded + kLanes;
    const double middle_x = static_cast<double>(tile.x) + kMiddle, middle_y = static_cast<double>(tile.y) + kMiddle;
    const int64_t shown = tile.first + load_tile(task, tile, memory);
    for (int64_t i = shown; i < tile.last; ++i) std::fill_n(parts + task.slots[i] * floats, floats, 0.0f);
    for (int64_t last = shown; last > tile.first; last -= kBatch) {
        const int count = static_cast<int>(std::min<int64_t>(kBatch, last - tile.first));
        load_batch(task, tile, last - count, count, memory.padded, [](const float*) NPCR_LAMBDA { return 1.0f; }, memory.batch,
                   memory.values);
        list_blocks(memory.batch, task.blocks + memory.batch.first, ~0u);
        std::fill_n(memory.parts, count * row, 0.0f);
        for (int block = 0; block < kBlocks; ++block) {
            const int length = unweigh(memory, tile, block);
            add_values_grad(memory, block, length);
            add_moments(memory, block, length);
        }
        for (int i = 0; i < count; ++i) {
            const float *ellipse = memory.batch.rows[i], *from = memory.parts + i * row;
            float* part = parts + task.slots[memory.batch.first + i] * floats;
            ellipse_grad_from_moments(ellipse, middle_x - ellipse[0], middle_y - ellipse[1], from, part);
            part[kEllipseGrads - 1] /= ellipse[5];
            copy_few(from + kLanes, channels, part + kEllipseGrads);
        }
    }
}

NPCR_WITH_AVX2(composite_tile, (const NpcrCompositeGaussians& task, const Tile& tile, Memory& memory),
               (task, tile, memory))
NPCR_WITH_AVX2(composite_tile_grad,
               (const NpcrCompositeGaussiansGrad& task, const Tile& tile, Memory& memory, float* parts),
               (task, tile, memory, parts))

// Calls perform(tile, memory) for each tile, with memory of the thread's own.
template <class Task, class Perform>
void for_tiles(const Task& task, Perform perform) {
    const int64_t tiles = tiles_across(task.width) * tiles_across(task.height);
    const int tasks = static_cast<int>(std::min<int64_t>(tiles, ThreadPool::kMaxTasks));
    const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({task.threads, tiles, 256})));
    std::vector<std::unique_ptr<Memory>> memory;
    for (int thread = 0; thread < threads; ++thread) memory.emplace_back(new Memory(task.channels));
    ThreadPool::run(threads, tasks, [&](int part, int thread) {
        const Share share(tiles, part, tasks);
        for (int64_t number = share.first; number < share.last; ++number) {
            perform(Tile(task, number), *memory[static_cast<size_t>(thread)]);
        }
    });
}

void composite(const NpcrCompositeGaussians& task) {
    for_tiles(task, [&](const Tile& tile, Memory& memory) { composite_tile_here(task, tile, memory); });
}

void composite_grad(const NpcrCompositeGaussiansGrad& task) {
    float* parts = static_cast<float*>(task.scratch);  // (pairs, 6 + channels)
    for_tiles(task, [&](const Tile& tile, Memory& memory) { composite_tile_grad_here(task, tile, memory, parts); });
    const int64_t floats = kEllipseGrads + task.channels, blocks = (task.count + kSums - 1) / kSums;
    if (blocks == 0) return;
    ThreadPool::run(static_cast<int>(std::min<int64_t>({task.threads, blocks, 256})), static_cast<int>(blocks),
                    [&](int block, int) {
        float sum[kEllipseGrads + kMaxChannels];
        for (int64_t i = block * kSums; i < std::min(task.count, (block + 1) * kSums); ++i) {
            const int64_t ahead = task.order[std::min(i + kAhead, task.count - 1)], ellipse = task.order[i];
            __builtin_prefetch(task.grad_ellipses + kEllipse * ahead, 1);
            __builtin_prefetch(task.grad_values + task.channels * ahead, 1);
            std::fill_n(sum, floats, 0.0f);
            for (int64_t pair = task.offsets[i]; pair < task.offsets[i + 1]; ++pair) {
                for (int64_t k = 0; k < floats; ++k) sum[k] += parts[pair * floats + k];
            }
            std::copy_n(sum, kEllipseGrads, task.grad_ellipses + kEllipse * ellipse);
            std::fill_n(task.grad_ellipses + kEllipse * ellipse + kEllipseGrads, kEllipse - kEllipseGrads, 0.0f);
            copy_few(sum + kEllipseGrads, task.channels, task.grad_values + task.channels * ellipse);
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
