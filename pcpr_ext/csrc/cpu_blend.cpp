// SPDX-License-Identifier: Apache-2.0
// Blending a frame's detail with that of its neighbors on a camera path, and the surface depth that it needs. Every
// value of a pixel is computed by one thread, so results do not depend on their number.

#include <math.h>
#include <stdint.h>

#include <algorithm>
#include <limits>

#include "arguments.h"
#include "processor.h"
#include "thread_pool.h"

namespace npcr {
namespace {

constexpr int64_t kRows = 16;          // of a task
constexpr float kDepthStep = 0.02f;    // DEPTH_STEP of npcr/temporal/reprojection.py
constexpr float kNoConfidence = 103.f;  // exp(-x) of more is 0

// Red, green, blue, alpha; or what is computed of them. As images lie in memory, wherever a tensor begins.
typedef float Pixel __attribute__((vector_size(16), aligned(4), may_alias));

#define NPCR_INLINE inline __attribute__((always_inline))

// Calls perform(row) for the crop's rows, counted from 0, on several threads.
template <class Task, class Perform>
void for_rows(const Task& task, Perform perform) {
    const int64_t blocks = (task.rows + kRows - 1) / kRows;
    const int threads = static_cast<int>(std::max<int64_t>(
        1, std::min<int64_t>({task.threads, blocks, 1 + task.rows * task.columns / 65536, 256})));
    ThreadPool::run(threads, static_cast<int>(blocks), [&](int block, int) {
        for (int64_t row = block * kRows; row < std::min(task.rows, (block + 1) * kRows); ++row) perform(row);
    });
}

template <class Task>
bool valid_crop(const Task& task) {
    return task.height >= 1 && task.height <= kMaxSide && task.width >= 1 && task.width <= kMaxSide && task.top >= 0 &&
           task.left >= 0 && task.rows >= 1 && task.columns >= 1 && task.top + task.rows <= task.height &&
           task.left + task.columns <= task.width;
}

// The weights of the pixels at -1, 0, 1 and 2 from a place `part` beyond 0: Keys' cubic, a = -0.75 as torch has it.
NPCR_INLINE void cubic(float part, float* weights) {
    constexpr float a = -0.75f;
    const auto near = [](float x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
    const auto far = [](float x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
    weights[0] = far(part + 1);
    weights[1] = near(part);
    weights[2] = near(1 - part);
    weights[3] = far(2 - part);
}

NPCR_INLINE int64_t within(int64_t index, int64_t size) { return std::min(std::max<int64_t>(index, 0), size - 1); }

NPCR_INLINE Pixel sample(const Pixel* image, int64_t height, int64_t width, float x, float y) {
    const float left = floorf(x), top = floorf(y);
    float across[4], down[4];
    cubic(x - left, across);
    cubic(y - top, down);
    const int64_t column = static_cast<int64_t>(left) - 1, first = static_cast<int64_t>(top) - 1;
    const bool inside = column >= 0 && column + 4 <= width;
    Pixel sum = {};
    for (int j = 0; j < 4; ++j) {
        const Pixel* row = image + within(first + j, height) * width;
        Pixel of_row;
        if (inside) {
            const Pixel* pixels = row + column;
            of_row = pixels[0] * across[0] + pixels[1] * across[1] + pixels[2] * across[2] + pixels[3] * across[3];
        } else {
            of_row = row[within(column, width)] * across[0] + row[within(column + 1, width)] * across[1] +
                     row[within(column + 2, width)] * across[2] + row[within(column + 3, width)] * across[3];
        }
        sum += of_row * down[j];
    }
    return sum;
}

// What the phases of one neighbor leave for the next: all of the crop's size.
struct Scratch {
    Pixel *difference, *across, *detail;
    float *exponent, *weight;  // confidence is exp(-exponent)

    Scratch(void* memory, int64_t pixels) {
        difference = static_cast<Pixel*>(memory);
        across = difference + pixels;
        detail = across + pixels;
        exponent = reinterpret_cast<float*>(detail + pixels);
        weight = exponent + pixels;
    }
};

constexpr int64_t kScratchBytes = 3 * sizeof(Pixel) + 2 * sizeof(float);  // a pixel

// Where the neighbor shows each point of a row, how far its color there is from the current frame's, and how reliably.
NPCR_INLINE void compare_row(const NpcrBlend& task, int64_t neighbor, int64_t row, const Scratch& scratch) {
    const int64_t width = task.width, height = task.height, y = task.top + row;
    const Pixel* image = reinterpret_cast<const Pixel*>(task.image) + y * width + task.left;
    const float* surface = task.surface + y * width + task.left;
    const Pixel* other = static_cast<const Pixel* const*>(task.images)[neighbor];
    const float* other_surface = static_cast<const float* const*>(task.surfaces)[neighbor];
    const float *m = task.mappings + 12 * neighbor, turn = task.turns[neighbor];
    Pixel* difference = scratch.difference + row * task.columns;
    float* exponent = scratch.exponent + row * task.columns;
    const float from_row[3] = {m[1] * y + m[2], m[5] * y + m[6], m[9] * y + m[10]};
    for (int64_t i = 0; i < task.columns; ++i) {
        difference[i] = Pixel{};
        exponent[i] = std::numeric_limits<float>::infinity();
        const float depth = surface[i];
        if (!(depth > 0)) continue;
        const float x = static_cast<float>(task.left + i);
        const float z = depth * (m[8] * x + from_row[2]) + m[11];
        const float u = (depth * (m[0] * x + from_row[0]) + m[3]) / z, v = (depth * (m[4] * x + from_row[1]) + m[7]) / z;
        if (!(z > 0 && u >= -0.5f && u <= width - 0.5f && v >= -0.5f && v <= height - 0.5f)) continue;
        const float seen = other_surface[within(static_cast<int64_t>(nearbyintf(v)), height) * width +
                                         within(static_cast<int64_t>(nearbyintf(u)), width)];
        const float deviation = (seen - z) / (task.depth_tolerance * z), doubt = deviation * deviation + turn;
        if (!(seen > 0 && doubt < kNoConfidence)) continue;
        difference[i] = sample(other, height, width, u, v) - image[i];
        exponent[i] = doubt;
    }
    Pixel* across = scratch.across + row * task.columns;
    const int64_t inner = std::max<int64_t>(2, task.columns - 2);
    for (int64_t i = 2; i < inner; ++i) {
        across[i] = difference[i - 2] + difference[i - 1] + difference[i] + difference[i + 1] + difference[i + 2];
    }
    for (int64_t i = 0; i < task.columns; i = i == 1 ? inner : i + 1) {  // the others, near the border
        const int64_t last = std::min(task.columns - 1, i + 2);
        across[i] = Pixel{};
        for (int64_t j = std::max<int64_t>(0, i - 2); j <= last; ++j) across[i] += difference[j];
    }
}

// Adds the neighbor's detail, what is left of the difference without its mean over 5x5 pixels, by confidence.
NPCR_INLINE void add_row(const NpcrBlend& task, int64_t neighbor, int64_t row, const Scratch& scratch) {
    const int64_t columns = task.columns;
    const int64_t first = std::max<int64_t>(0, row - 2), last = std::min(task.rows - 1, row + 2);
    for (int64_t i = 0; i < columns; ++i) {
        const int64_t pixel = row * columns + i;
        if (neighbor == 0) {
            scratch.detail[pixel] = Pixel{};
            scratch.weight[pixel] = 0;
        }
        if (!(scratch.exponent[pixel] < kNoConfidence)) continue;
        Pixel mean = Pixel{};
        for (int64_t j = first; j <= last; ++j) mean += scratch.across[j * columns + i];
        mean /= 25.0f;
        const Pixel square = mean * mean;
        const float distance = square[0] + square[1] + square[2] + square[3];
        const float weight = task.shares[neighbor] * expf(-scratch.exponent[pixel] - distance * task.color_factor);
        scratch.detail[pixel] += (scratch.difference[pixel] - mean) * weight;
        scratch.weight[pixel] += weight;
    }
}

NPCR_WITH_AVX2(compare_row, (const NpcrBlend& task, int64_t neighbor, int64_t row, const Scratch& scratch),
               (task, neighbor, row, scratch))
NPCR_WITH_AVX2(add_row, (const NpcrBlend& task, int64_t neighbor, int64_t row, const Scratch& scratch),
               (task, neighbor, row, scratch))

void finish_row(const NpcrBlend& task, int64_t row, const Scratch& scratch) {
    const int64_t plane = task.width * task.height;
    float* blended = task.blended + (task.top + row) * task.width + task.left;
    for (int64_t i = 0; i < task.columns; ++i) {
        const int64_t pixel = row * task.columns + i;
        const Pixel change = scratch.detail[pixel] / (1 + scratch.weight[pixel]);
        for (int c = 0; c < 4; ++c) blended[c * plane + i] += change[c];
    }
}

// The rows of the crop beside one of them, as far as there are any.
struct Rows {
    int64_t first, last;
    Rows(int64_t row, int64_t rows) : first(std::max<int64_t>(0, row - 1)), last(std::min(rows - 1, row + 1)) {}
};

constexpr float kEmpty = std::numeric_limits<float>::infinity();

// The nearest of the 3x3 depths around each pixel of a row; infinity where all are empty.
NPCR_INLINE void nearest_depths(const NpcrSurfaceDepth& task, int64_t row) {
    const int64_t columns = task.columns;
    float column[kMaxSide + 2];  // with one more on each side
    std::fill_n(column, columns + 2, kEmpty);
    const Rows around(row, task.rows);
    for (int64_t y = around.first; y <= around.last; ++y) {
        const float* depth = task.depth + (task.top + y) * task.width + task.left;
        for (int64_t i = 0; i < columns; ++i) {
            const float value = depth[i] > 0 ? depth[i] : kEmpty;
            column[i + 1] = value < column[i + 1] ? value : column[i + 1];
        }
    }
    float* nearest = task.nearest + row * columns;
    for (int64_t i = 0; i < columns; ++i) {
        const float beside = column[i] < column[i + 2] ? column[i] : column[i + 2];
        nearest[i] = beside < column[i + 1] ? beside : column[i + 1];
    }
}

// The mean of 3x3 of these, or the nearest itself at a step.
NPCR_INLINE void mean_depths(const NpcrSurfaceDepth& task, int64_t row) {
    const int64_t columns = task.columns;
    float sums[kMaxSide + 2], counts[kMaxSide + 2];
    std::fill_n(sums, columns + 2, 0.0f);
    std::fill_n(counts, columns + 2, 0.0f);
    const Rows around(row, task.rows);
    for (int64_t y = around.first; y <= around.last; ++y) {
        const float* nearest = task.nearest + y * columns;
        for (int64_t i = 0; i < columns; ++i) {
            sums[i + 1] += nearest[i] < kEmpty ? nearest[i] : 0.0f;
            counts[i + 1] += nearest[i] < kEmpty ? 1.0f : 0.0f;
        }
    }
    const float* nearest = task.nearest + row * columns;
    float* surface = task.surface + (task.top + row) * task.width + task.left;
    for (int64_t i = 0; i < columns; ++i) {
        const float here = nearest[i];
        const float mean = (sums[i] + sums[i + 1] + sums[i + 2]) / (counts[i] + counts[i + 1] + counts[i + 2]);
        const float chosen = fabsf(mean - here) > kDepthStep * here ? here : mean;
        surface[i] = here < kEmpty ? chosen : 0.0f;
    }
}

NPCR_WITH_AVX2(nearest_depths, (const NpcrSurfaceDepth& task, int64_t row), (task, row))
NPCR_WITH_AVX2(mean_depths, (const NpcrSurfaceDepth& task, int64_t row), (task, row))

}  // namespace
}  // namespace npcr

int32_t npcr_surface_depth(const NpcrSurfaceDepth* task) {
    using namespace npcr;
    if (!valid_crop(*task)) return NPCR_BAD_ARGUMENT;
    for_rows(*task, [&](int64_t row) { nearest_depths_here(*task, row); });
    for_rows(*task, [&](int64_t row) { mean_depths_here(*task, row); });
    return NPCR_OK;
}

int64_t npcr_blend_scratch(const NpcrBlend* task) {
    if (!npcr::valid_crop(*task)) return NPCR_BAD_ARGUMENT;
    return task->rows * task->columns * npcr::kScratchBytes;
}

int32_t npcr_blend(const NpcrBlend* task) {
    using namespace npcr;
    if (!valid_crop(*task) || task->neighbors < 1 || !(task->depth_tolerance > 0)) return NPCR_BAD_ARGUMENT;
    if (task->scratch_bytes < npcr_blend_scratch(task)) return NPCR_SCRATCH_TOO_SMALL;
    const Scratch scratch(task->scratch, task->rows * task->columns);
    for (int64_t neighbor = 0; neighbor < task->neighbors; ++neighbor) {
        for_rows(*task, [&](int64_t row) { compare_row_here(*task, neighbor, row, scratch); });
        for_rows(*task, [&](int64_t row) { add_row_here(*task, neighbor, row, scratch); });
    }
    for_rows(*task, [&](int64_t row) { finish_row(*task, row, scratch); });
    return NPCR_OK;
}
