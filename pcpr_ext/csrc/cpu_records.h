// SPDX-License-Identifier: Apache-2.0
// Visible points as small records, and their order in depth.
#ifndef NPCR_CPU_RECORDS_H
#define NPCR_CPU_RECORDS_H

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "camera.h"
#include "target_clones.h"

namespace npcr {
namespace {

constexpr int kBlock = 256;        // points projected at a time; the results stay in the first cache
constexpr int kBuckets = 1024;     // of depth
constexpr int64_t kSample = 2048;  // points looked at to place the buckets

struct Record {
    uint32_t depth;  // the bits of a positive float
    uint32_t id;
    uint16_t x0, y0, x1, y1;
};

struct Block {
    uint32_t depth[kBlock];
    int32_t visible[kBlock];
    int32_t x0[kBlock], y0[kBlock], x1[kBlock], y1[kBlock];
};

// Projects `count` <= kBlock points that lie `stride` floats apart.
NPCR_TARGET_CLONES void project_block(const Camera& camera, const float* points, int64_t stride, int count,
                               Block* block) {
    const Camera local = camera;
    for (int i = 0; i < count; ++i) {
        const float* point = points + i * stride;
        const Splat splat = project(local, point[0], point[1], point[2]);
        uint32_t bits;
        memcpy(&bits, &splat.depth, sizeof bits);
        block->depth[i] = bits;
        block->visible[i] = splat.visible;
        block->x0[i] = splat.x0;
        block->y0[i] = splat.y0;
        block->x1[i] = splat.x1;
        block->y1[i] = splat.y1;
    }
}

// Calls visit(block, i, point) for each visible point of first..last, in order.
template <class Visit>
inline void for_each_visible(const Camera& camera, const float* points, int64_t first, int64_t last,
                             Visit visit) {
    Block block;
    for (int64_t start = first; start < last; start += kBlock) {
        const int count = static_cast<int>(std::min<int64_t>(kBlock, last - start));
        project_block(camera, points + 3 * start, 3, count, &block);
        for (int i = 0; i < count; ++i) {
            if (block.visible[i]) visit(block, i, start + i);
        }
    }
}

// Monotone from depth bits to 0..kBuckets-1; only speed depends on where the limits are.
struct Buckets {
    uint32_t low = 0;
    int shift = 32;

    int of(uint32_t depth) const {
        if (depth <= low) return 0;
        const uint64_t bucket = static_cast<uint64_t>(depth - low) >> shift;
        return bucket < kBuckets ? static_cast<int>(bucket) : kBuckets - 1;
    }

    static Buckets from_sample(const Camera& camera, const float* points, int64_t count) {
        const int64_t step = std::max<int64_t>(1, count / kSample);
        uint32_t low = 0xffffffffu, high = 0;
        Block block;
        for (int64_t start = 0; start < count; start += kBlock * step) {
            const int size = static_cast<int>(std::min<int64_t>(kBlock, (count - start + step - 1) / step));
            project_block(camera, points + 3 * start, 3 * step, size, &block);
            for (int i = 0; i < size; ++i) {
                if (!block.visible[i]) continue;
                low = std::min(low, block.depth[i]);
                high = std::max(high, block.depth[i]);
            }
        }
        Buckets buckets;
        if (low > high) return buckets;
        buckets.low = low;
        buckets.shift = 0;
        while (((high - low) >> buckets.shift) >= kBuckets) ++buckets.shift;
        return buckets;
    }
};

// The two sorts are stable and look at the depth alone: records come in the order of their ids, so of two at
// one depth the lower id stays first.
inline void insertion_sort(Record* records, uint32_t count) {
    for (uint32_t i = 1; i < count; ++i) {
        const Record moving = records[i];
        uint32_t at = i;
        for (; at > 0 && records[at - 1].depth > moving.depth; --at) records[at] = records[at - 1];
        records[at] = moving;
    }
}

// By digits of up to 8 bits, as many as the depths differ in. `spare` has room for `count` records.
inline void radix_sort(Record* records, uint32_t count, Record* spare) {
    uint32_t low = records[0].depth, high = low;
    for (uint32_t i = 1; i < count; ++i) {
        low = std::min(low, records[i].depth);
        high = std::max(high, records[i].depth);
    }
    int bits = 0;
    while (bits < 32 && ((high - low) >> bits) != 0) ++bits;
    const int passes = (bits + 7) / 8;
    if (passes == 0) return;
    const int digit = (bits + passes - 1) / passes;
    const uint32_t mask = (1u << digit) - 1;
    Record* from = records;
    Record* to = spare;
    for (int shift = 0; shift < passes * digit; shift += digit) {
        uint32_t place[256] = {0};
        for (uint32_t i = 0; i < count; ++i) ++place[((from[i].depth - low) >> shift) & mask];
        uint32_t total = 0;
        for (uint32_t value = 0; value <= mask; ++value) {
            const uint32_t here = place[value];
            place[value] = total;
            total += here;
        }
        for (uint32_t i = 0; i < count; ++i) to[place[((from[i].depth - low) >> shift) & mask]++] = from[i];
        std::swap(from, to);
    }
    if (from != records) memcpy(records, from, count * sizeof(Record));
}

}  // namespace
}  // namespace npcr

#endif
