// SPDX-License-Identifier: Apache-2.0
// A tile of the image on a CPU, in blocks of eight pixels, and its ellipses in batches: which of a batch may cover which
// block. A block's pixels then stay in registers while the ellipses pass over them.
#ifndef NPCR_CPU_TILE_H
#define NPCR_CPU_TILE_H

#include <stdint.h>
#include <string.h>

#include <algorithm>

#include "arguments.h"
#include "lanes.h"

namespace npcr {
namespace {

// Strands are thin and run in all directions, so a block is four pixels of two rows. Lanes are columns of two.
constexpr int kColumns = 4, kRows = 2;
constexpr int kBlocksAcross = kTile / kColumns, kBlocks = kTile / kRows * kBlocksAcross;
constexpr float kMiddle = 0.5f * (kTile - 1);  // of a tile, from its first pixel
static_assert(kTile / kRows == kLanes, "list_blocks has a lane for each row of blocks");
static_assert(kBlocks == 32, "a set of blocks is a word's bits");

constexpr int kBatch = 256;  // pairs whose numbers are in the cache at a time
constexpr int kAhead = 8;    // pairs whose numbers are asked for ahead

constexpr int lane_of(int row, int column) { return column % kColumns * kRows + row % kRows; }
constexpr int block_of(int row, int column) { return row / kRows * kBlocksAcross + column / kColumns; }

// Places of a block's pixels, relative to the tile's middle.
NPCR_BODY void block_pixels(int block, Lanes8& x, Lanes8& y) {
    x = Lanes8{0, 0, 1, 1, 2, 2, 3, 3} + (static_cast<float>(block % kBlocksAcross * kColumns) - kMiddle);
    y = Lanes8{0, 1, 0, 1, 0, 1, 0, 1} + (static_cast<float>(block / kBlocksAcross * kRows) - kMiddle);
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

// Calls visit(pixel of the image, block, lane) for each pixel of a tile.
template <class Visit>
NPCR_BODY void for_pixels(const Tile& tile, int64_t width, Visit visit) {
    for (int row = 0; row < tile.rows; ++row) {
        for (int column = 0; column < tile.columns; ++column) {
            visit((tile.y + row) * width + tile.x + column, block_of(row, column), lane_of(row, column));
        }
    }
}

// An ellipse of a tile, as its pixels need it: with U scaled, so that x² + y² of U d is minus a power of two.
struct TileEllipse {
    float xx, xy, yy, x, y;  // U d = (xx dx + xy dy + x, yy dy + y), of the distance d from the tile's middle
    float least;             // power that is drawn
    float opacity, padding;
};

// Pairs of a tile that follow each other: their ellipses, and the blocks that these may cover.
struct Batch {
    int64_t first;  // pair
    int count;
    const float* rows[kBatch];  // the ellipses as the caller has them
    TileEllipse ellipses[kBatch];
    int lengths[kBlocks];
    uint8_t lists[kBlocks][kBatch];  // of each block, the pairs whose ellipses may cover it, in order
};
static_assert(kBatch <= 256, "a list's entries are bytes");

// Some ten numbers, for which a library's function takes longer to call than to copy.
NPCR_BODY void copy_few(const float* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// Copies ellipses and values; row i of `values` gets what `channels` values pair i has, then last(ellipse), then zeros up
// to `padded`. They come from anywhere in memory: asks for those of the pairs to come.
template <class Task, class Last>
NPCR_BODY void load_batch(const Task& task, const Tile& tile, int64_t first, int count, int padded, Last last, Batch& batch,
                          float* values) {
    const int channels = static_cast<int>(task.channels);
    const float x = static_cast<float>(tile.x) + kMiddle, y = static_cast<float>(tile.y) + kMiddle;
    const float scale = sqrtf(-kPowerOfDistance2);
    batch.first = first;
    batch.count = count;
    for (int i = 0; i < count; ++i) {
        const int64_t ahead = task.members[std::min(first + i + kAhead, tile.last - 1)];
        __builtin_prefetch(task.ellipses + kEllipse * ahead);
        __builtin_prefetch(task.values + channels * ahead);
        if (channels > 0) __builtin_prefetch(task.values + channels * ahead + channels - 1);  // a row may lie in two lines
        const int64_t member = task.members[first + i];
        const float* ellipse = task.ellipses + kEllipse * member;
        const float left = ellipse[0] - x, top = ellipse[1] - y;
        const float xx = scale * ellipse[2], xy = scale * ellipse[3], yy = scale * ellipse[4];
        batch.ellipses[i] = {xx, xy, yy, -(xx * left + xy * top), -(yy * top),
                             kPowerOfDistance2 * (ellipse[7] * ellipse[7]), ellipse[5], 0};
        batch.rows[i] = ellipse;
        float* value = values + i * padded;
        copy_few(task.values + channels * member, channels, value);
        value[channels] = last(ellipse);
        for (int c = channels + 1; c < padded; ++c) value[c] = 0;
    }
}

// The blocks that an ellipse may cover, a bit each.
NPCR_BODY uint32_t blocks_of(const float* ellipse, const Tile& tile) {
    const float inverse = 1 / ellipse[2], slope = -ellipse[3] * inverse;  // of the middles of rows
    const float radius2 = ellipse[7] * ellipse[7];
    // A lane for each row of blocks; of its rows of pixels, the columns in which they begin and end.
    const Lanes8 first_row = Lanes8{0, 2, 4, 6, 8, 10, 12, 14} - (ellipse[1] - static_cast<float>(tile.y));
    Lanes8 left = Lanes8{} + static_cast<float>(kTile), right = Lanes8{} - 1;
    for (int row = 0; row < kRows; ++row) {
        const Lanes8 down = first_row + static_cast<float>(row), b = down * ellipse[4], rest = radius2 - b * b;
        Lanes8 half;
        for (int lane = 0; lane < kLanes; ++lane) half[lane] = sqrtf(rest[lane]);
        half = half * inverse + kRoom;
        const Lanes8 middle = down * slope + (ellipse[0] - static_cast<float>(tile.x));
        const Lanes8 from = rest >= 0 ? middle - half : left, to = rest >= 0 ? middle + half : right;
        left = from < left ? from : left;
        right = to > right ? to : right;
    }
    Words8 covered = {};
    for (int column = 0; column < kBlocksAcross; ++column) {
        const float from = static_cast<float>(column * kColumns), to = from + (kColumns - 1);
        covered |= (Words8)(left <= to) & (Words8)(right >= from) & (1u << column);
    }
    covered <<= Words8{0, 4, 8, 12, 16, 20, 24, 28};
    uint64_t parts[kLanes / 2];
    memcpy(parts, &covered, sizeof parts);
    const uint64_t all = (parts[0] | parts[1]) | (parts[2] | parts[3]);
    return static_cast<uint32_t>(all | all >> 32);
}

// Lists for each block of `open` the pairs that may cover it.
NPCR_BODY void list_blocks(Batch& batch, const uint32_t* blocks, uint32_t open) {
    for (int block = 0; block < kBlocks; ++block) batch.lengths[block] = 0;
    for (int i = 0; i < batch.count; ++i) {
        for (uint32_t rest = blocks[i] & open; rest != 0; rest &= rest - 1) {
            const int block = __builtin_ctz(rest);
            batch.lists[block][batch.lengths[block]++] = static_cast<uint8_t>(i);
        }
    }
}

}  // namespace
}  // namespace npcr

#endif
