// SPDX-License-Identifier: Apache-2.0
// Blending a frame's detail with that of its neighbors on a camera path, and the surface depth that it needs. Every
// value of a pixel is computed by one thread, so results do not depend on their number.

#include <math.h>
#include <stdint.h>

#include <algorithm>
#include <limits>

#include "arguments.h"
#include "ellipse.h"
#include "processor.h"
#include "thread_pool.h"

namespace npcr {
namespace {

constexpr int64_t kRows = 16;          // of a task
constexpr int64_t kPixels = 16384;     // of a thread, at least: starting one takes as long as some of them
constexpr int kChunk = 64;             // pixels of a row at a time, whose numbers stay in the cache
constexpr float kDepthStep = 0.02f;    // DEPTH_STEP of npcr/temporal/reprojection.py
constexpr float kLog2E = 1.44269504f;
constexpr float kLeastPower = -115.f;  // 2 to less than this is 0, to `power_of_two` anything
constexpr float kNoConfidence = -kLeastPower / kLog2E;  // exp(-x) of more is 0

// Red, green, blue, alpha; or what is computed of them. As images lie in memory, wherever a tensor begins.
typedef float Pixel __attribute__((vector_size(16), aligned(4), may_alias));
typedef float TwoPixels __attribute__((vector_size(32), aligned(4), may_alias));

#define NPCR_INLINE inline __attribute__((always_inline))

// Calls first(row) for all of the crop's rows, counted from 0, then second(row) likewise, on several threads.
template <class Task, class First, class Second>
void for_rows_twice(const Task& task, int64_t pixels, First first, Second second) {
    const int64_t blocks = (task.rows + kRows - 1) / kRows;
    const int threads = static_cast<int>(
        std::max<int64_t>(1, std::min<int64_t>({task.threads, blocks, 1 + pixels / kPixels, 256})));
    int phase = 0;
    const auto perform = [&](int block, int) {
        for (int64_t row = block * kRows; row < std::min(task.rows, (block + 1) * kRows); ++row) {
            if (phase == 1) {
                first(row);
            } else {
                second(row);
            }
        }
    };
    ThreadPool::run(threads, perform, [&] { return ++phase <= 2 ? static_cast<int>(blocks) : 0; });
}

template <class Task>
bool valid_crop(const Task& task) {
    return task.height >= 1 && task.height <= kMaxSide && task.width >= 1 && task.width <= kMaxSide && task.top >= 0 &&
           task.left >= 0 && task.rows >= 1 && task.columns >= 1 && task.top + task.rows <= task.height &&
           task.left + task.columns <= task.width;
}

// The weights of the pixels at -1, 0, 1 and 2 from a place `part` beyond 0: Keys' cubic, a = -0.75 as torch has it.
NPCR_INLINE void cubic(float part, float& before, float& here, float& next, float& last) {
    constexpr float a = -0.75f;
    const auto near = [](float x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
    const auto far = [](float x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
    before = far(part + 1);
    here = near(part);
    next = near(1 - part);
    last = far(2 - part);
}

NPCR_INLINE int64_t within(int64_t index, int64_t size) { return std::min(std::max<int64_t>(index, 0), size - 1); }

// Up to `kChunk` pixels of a row: where the neighbor shows their points, and how reliably.
struct Places {
    float u[kChunk], v[kChunk], z[kChunk], seen[kChunk];
    int32_t pixel[kChunk];  // of the neighbor, the nearest to (u, v)
    int32_t column[kChunk], row[kChunk];  // of the first of 4x4 pixels around it
    float across[4][kChunk], down[4][kChunk];  // their weights
};

// Fills `places` and `exponents`; confidence is exp(-exponent), 0 where the exponent is infinite. Loops without branches,
// which the compiler makes vectors of.
NPCR_INLINE void find_places(const NpcrBlend& task, int64_t neighbor, int64_t y, int64_t left, int count, Places& places,
                             float* __restrict exponents) {
    const float* surface = task.surface + y * task.width + left;
    const float* other_surface = static_cast<const float* const*>(task.surfaces)[neighbor];
    const float *m = task.mappings + 12 * neighbor, turn = task.turns[neighbor];
    const float from_row[3] = {m[1] * y + m[2], m[5] * y + m[6], m[9] * y + m[10]};
    const float right = task.width - 0.5f, bottom = task.height - 0.5f;
    const int32_t width = static_cast<int32_t>(task.width), height = static_cast<int32_t>(task.height);
    const int32_t first = static_cast<int32_t>(left);
    for (int i = 0; i < count; ++i) {
        const float depth = surface[i], x = static_cast<float>(first + i);
        const float z = depth * (m[8] * x + from_row[2]) + m[11];
        const float u = (depth * (m[0] * x + from_row[0]) + m[3]) / z, v = (depth * (m[4] * x + from_row[1]) + m[7]) / z;
        const bool found = (depth > 0) & (z > 0) & (u >= -0.5f) & (u <= right) & (v >= -0.5f) & (v <= bottom);
        places.u[i] = found ? u : 0.f;
        places.v[i] = found ? v : 0.f;
        places.z[i] = found ? z : 0.f;
    }
    for (int i = 0; i < count; ++i) {
        const int32_t column = static_cast<int32_t>(nearbyintf(places.u[i])), row = static_cast<int32_t>(nearbyintf(places.v[i]));
        places.pixel[i] = std::min(std::max(row, 0), height - 1) * width + std::min(std::max(column, 0), width - 1);
    }
    for (int i = 0; i < count; ++i) places.seen[i] = other_surface[places.pixel[i]];
    const float tolerance = task.depth_tolerance;
    for (int i = 0; i < count; ++i) {
        const float z = places.z[i], deviation = (places.seen[i] - z) / (tolerance * z), doubt = deviation * deviation + turn;
        const bool counts = (z > 0) & (places.seen[i] > 0) & (doubt < kNoConfidence);
        exponents[i] = counts ? doubt : std::numeric_limits<float>::infinity();
    }
    for (int i = 0; i < count; ++i) {
        const float x = floorf(places.u[i]), y = floorf(places.v[i]);
        places.column[i] = static_cast<int32_t>(x) - 1;
        places.row[i] = static_cast<int32_t>(y) - 1;
        cubic(places.u[i] - x, places.across[0][i], places.across[1][i], places.across[2][i], places.across[3][i]);
        cubic(places.v[i] - y, places.down[0][i], places.down[1][i], places.down[2][i], places.down[3][i]);
    }
}

NPCR_INLINE TwoPixels twice(float first, float second) {
    return TwoPixels{first, first, first, first, second, second, second, second};
}

// The image at the place of pixel i.
NPCR_INLINE Pixel sample(const Pixel* image, int64_t height, int64_t width, const Places& places, int i) {
    const int64_t column = places.column[i], first = places.row[i];
    const float across[4] = {places.across[0][i], places.across[1][i], places.across[2][i], places.across[3][i]};
    if (column >= 0 && column + 4 <= width && first >= 0 && first + 4 <= height) {
        const TwoPixels before = twice(across[0], across[1]), after = twice(across[2], across[3]);
        TwoPixels sum = {};
        for (int j = 0; j < 4; ++j) {
            const Pixel* row = image + (first + j) * width + column;
            const TwoPixels of_row = *reinterpret_cast<const TwoPixels*>(row) * before +
                                     *reinterpret_cast<const TwoPixels*>(row + 2) * after;
            sum += of_row * places.down[j][i];
        }
        return Pixel{sum[0] + sum[4], sum[1] + sum[5], sum[2] + sum[6], sum[3] + sum[7]};
    }
    Pixel sum = {};
    for (int j = 0; j < 4; ++j) {
        const Pixel* row = image + within(first + j, height) * width;
        Pixel of_row = {};
        for (int k = 0; k < 4; ++k) of_row += row[within(column + k, width)] * across[k];
        sum += of_row * places.down[j][i];
    }
    return sum;
}

// What comparing with the neighbors leaves for averaging, of the crop's size each.
struct Scratch {
    Pixel *difference, *across;  // (neighbors, rows, columns): from the current frame's color; sums of five in a row
    float* exponent;             // likewise

    Scratch(void* memory, int64_t pixels) {
        difference = static_cast<Pixel*>(memory);
        across = difference + pixels;
        exponent = reinterpret_cast<float*>(across + pixels);
    }
};

constexpr int64_t kScratchBytes = 2 * sizeof(Pixel) + sizeof(float);  // a pixel and a neighbor

// How far a neighbor's colors are from the current frame's at the points of a row, and how reliable they are.
NPCR_INLINE void compare_row(const NpcrBlend& task, int64_t neighbor, int64_t row, const Scratch& scratch) {
    const int64_t columns = task.columns, y = task.top + row, start = (neighbor * task.rows + row) * columns;
    const Pixel* image = reinterpret_cast<const Pixel*>(task.image) + y * task.width + task.left;
    const Pixel* other = static_cast<const Pixel* const*>(task.images)[neighbor];
    Pixel* difference = scratch.difference + start;
    float* exponent = scratch.exponent + start;
    for (int64_t from = 0; from < columns; from += kChunk) {
        const int count = static_cast<int>(std::min<int64_t>(kChunk, columns - from));
        Places places;
        find_places(task, neighbor, y, task.left + from, count, places, exponent + from);
        for (int i = 0; i < count; ++i) {
            const bool counts = exponent[from + i] < kNoConfidence;
            difference[from + i] = counts ? sample(other, task.height, task.width, places, i) - image[from + i] : Pixel{};
        }
    }
    Pixel* across = scratch.across + start;
    const int64_t inner = std::max<int64_t>(2, columns - 2);
    const float* numbers = reinterpret_cast<const float*>(difference);
    float* __restrict sums = reinterpret_cast<float*>(across);
    for (int64_t i = 8; i < 4 * inner; ++i) {
        sums[i] = numbers[i - 8] + numbers[i - 4] + numbers[i] + numbers[i + 4] + numbers[i + 8];
    }
    for (int64_t i = 0; i < columns; i = i == 1 ? inner : i + 1) {  // the others, near the border
        const int64_t last = std::min(columns - 1, i + 2);
        across[i] = Pixel{};
        for (int64_t j = std::max<int64_t>(0, i - 2); j <= last; ++j) across[i] += difference[j];
    }
}

// Adds to part of a row the neighbors' details, what is left of the difference without its mean over 5x5 pixels, by
// confidence.
NPCR_INLINE void add_details(const NpcrBlend& task, int64_t row, int64_t from, int count, const Scratch& scratch) {
    const int64_t columns = task.columns, plane = task.width * task.height;
    const int64_t first = std::max<int64_t>(0, row - 2), last = std::min(task.rows - 1, row + 2);
    float detail[4 * kChunk] = {}, total[kChunk], mean[4 * kChunk], distance[kChunk], weight[kChunk];
    std::fill_n(total, count, 1.f);  // the frame's own
    for (int64_t neighbor = 0; neighbor < task.neighbors; ++neighbor) {
        const int64_t start = neighbor * task.rows * columns + from;
        std::fill_n(mean, 4 * count, 0.f);
        for (int64_t j = first; j <= last; ++j) {
            const float* across = reinterpret_cast<const float*>(scratch.across + start + j * columns);
            for (int i = 0; i < 4 * count; ++i) mean[i] += across[i];
        }
        for (int i = 0; i < 4 * count; ++i) mean[i] *= 1 / 25.f;
        for (int i = 0; i < count; ++i) {
            const float *of = mean + 4 * i;
            distance[i] = of[0] * of[0] + of[1] * of[1] + of[2] * of[2] + of[3] * of[3];
        }
        const float* exponent = scratch.exponent + start + row * columns;
        const float share = task.shares[neighbor], factor = task.color_factor;
        for (int i = 0; i < count; ++i) {
            const float power = -kLog2E * (exponent[i] + distance[i] * factor);
            float confidence;
            power_of_two<float>(power, confidence);
            weight[i] = power >= kLeastPower ? share * confidence : 0.f;
            total[i] += weight[i];
        }
        const float* difference = reinterpret_cast<const float*>(scratch.difference + start + row * columns);
        for (int i = 0; i < 4 * count; ++i) detail[i] += (difference[i] - mean[i]) * weight[i / 4];
    }
    float* blended = task.blended + (task.top + row) * task.width + task.left + from;
    for (int c = 0; c < 4; ++c) {
        for (int i = 0; i < count; ++i) blended[c * plane + i] += detail[4 * i + c] / total[i];
    }
}

NPCR_INLINE void add_row(const NpcrBlend& task, int64_t row, const Scratch& scratch) {
    for (int64_t from = 0; from < task.columns; from += kChunk) {
        add_details(task, row, from, static_cast<int>(std::min<int64_t>(kChunk, task.columns - from)), scratch);
    }
}

NPCR_WITH_AVX2(compare_row, (const NpcrBlend& task, int64_t neighbor, int64_t row, const Scratch& scratch),
               (task, neighbor, row, scratch))
NPCR_WITH_AVX2(add_row, (const NpcrBlend& task, int64_t row, const Scratch& scratch), (task, row, scratch))

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
    for_rows_twice(*task, task->rows * task->columns / 4, [&](int64_t row) { nearest_depths_here(*task, row); },
                   [&](int64_t row) { mean_depths_here(*task, row); });
    return NPCR_OK;
}

int64_t npcr_blend_scratch(const NpcrBlend* task) {
    if (!npcr::valid_crop(*task) || task->neighbors < 1) return NPCR_BAD_ARGUMENT;
    return task->neighbors * task->rows * task->columns * npcr::kScratchBytes;
}

int32_t npcr_blend(const NpcrBlend* task) {
    using namespace npcr;
    if (!valid_crop(*task) || task->neighbors < 1 || !(task->depth_tolerance > 0)) return NPCR_BAD_ARGUMENT;
    if (task->scratch_bytes < npcr_blend_scratch(task)) return NPCR_SCRATCH_TOO_SMALL;
    const int64_t pixels = task->neighbors * task->rows * task->columns;
    const Scratch scratch(task->scratch, pixels);
    const auto compare = [&](int64_t row) {
        for (int64_t neighbor = 0; neighbor < task->neighbors; ++neighbor) {
            compare_row_here(*task, neighbor, row, scratch);
        }
    };
    for_rows_twice(*task, pixels, compare, [&](int64_t row) { add_row_here(*task, row, scratch); });
    return NPCR_OK;
}
