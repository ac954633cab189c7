// SPDX-License-Identifier: Apache-2.0
// Anti-aliased halving and bilinear doubling of feature maps (height, width, channels), and their gradients. A task is
// a row of the result; every sum has its order, so nothing depends on the number of threads.

#include <string.h>

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "target_clones.h"
#include "arguments.h"
#include "thread_pool.h"
#include "winograd.h"

namespace npcr {
namespace {

int thread_count(const NpcrResample& task) {
    const int64_t values = task.images * task.height * task.width * task.channels;
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({task.threads, 1 + values / 65536, 256})));
}

bool valid(const NpcrResample& task) {
    return task.images >= 1 && task.images <= (1 << 16) && task.height >= 1 && task.height <= kMaxSide && task.width >= 1 && task.width <= kMaxSide &&
           task.channels >= 1 && task.channels <= (1 << 20) && task.target_height >= 1 &&
           task.target_height <= kMaxSide && task.target_width >= 1 && task.target_width <= kMaxSide;
}

bool halves(const NpcrResample& task) {  // the pooled map must have a pixel to reflect
    return valid(task) && task.height >= 3 && task.width >= 3 && task.target_height == task.height / 2 &&
           task.target_width == task.width / 2;
}

bool doubles(const NpcrResample& task) {
    return valid(task) && task.target_height >= 2 * task.height && task.target_width >= 2 * task.width;
}

// Where a reflected index lies in 0..count-1; one step beyond at most.
NPCR_INLINE int64_t reflect(int64_t at, int64_t count) { return at < 0 ? -at : at >= count ? 2 * count - 2 - at : at; }

NPCR_INLINE float larger(float a, float b) { return a > b ? a : b; }

// Pooled row: the largest of 2x2 pixels, times `weight`, added to `out` (width - 1, channels).
NPCR_TARGET_CLONES void add_pooled(const float* __restrict above, const float* __restrict below, int64_t count,
                            int64_t channels, float weight, float* __restrict out) {
    for (int64_t i = 0; i < count; ++i) {
        out[i] += weight * larger(larger(above[i], above[i + channels]), larger(below[i], below[i + channels]));
    }
}

NPCR_TARGET_CLONES void add_scaled(const float* __restrict from, int64_t count, float weight, float* __restrict to) {
    for (int64_t i = 0; i < count; ++i) to[i] += weight * from[i];
}

// Doubling along one axis: result `at` is (1 - weight) input[first] + weight input[second]; float32 as torch has it.
struct Place {
    int64_t first, second;
    float weight;
};

NPCR_INLINE Place place(int64_t at, int64_t count) {
    const float scale = static_cast<float>(count - 1) / static_cast<float>(2 * count - 1);
    const float real = scale * static_cast<float>(at);
    const int64_t first = std::min(static_cast<int64_t>(real), count - 1);
    return {first, std::min(first + 1, count - 1), real - static_cast<float>(first)};
}

// A whole row doubled: pixel by pixel inside, so that the choice of instructions is made once a row.
NPCR_TARGET_CLONES void double_columns(const float* __restrict line, int64_t width, int64_t channels, float* __restrict out) {
    for (int64_t column = 0; column < 2 * width; ++column) {
        const Place x = place(column, width);
        const float* __restrict a = line + x.first * channels;
        const float* __restrict b = line + x.second * channels;
        const float keep = 1.0f - x.weight;
        for (int64_t i = 0; i < channels; ++i) out[column * channels + i] = keep * a[i] + x.weight * b[i];
    }
}

NPCR_TARGET_CLONES void double_columns_grad(const float* __restrict line, int64_t width, int64_t channels,
                                     float* __restrict out) {
    for (int64_t column = 0; column < 2 * width; ++column) {
        const Place x = place(column, width);
        const float* __restrict grad = line + column * channels;
        const float keep = 1.0f - x.weight;
        for (int64_t i = 0; i < channels; ++i) out[x.first * channels + i] += keep * grad[i];
        for (int64_t i = 0; i < channels; ++i) out[x.second * channels + i] += x.weight * grad[i];
    }
}

// Every second column of the blur of `line` (count pixels), reflected.
NPCR_TARGET_CLONES void blur_columns(const float* __restrict line, int64_t count, int64_t channels, int64_t columns,
                              float* __restrict out) {
    for (int64_t column = 0; column < columns; ++column) {
        const float* __restrict left = line + reflect(2 * column - 1, count) * channels;
        const float* __restrict middle = line + 2 * column * channels;
        const float* __restrict right = line + reflect(2 * column + 1, count) * channels;
        for (int64_t i = 0; i < channels; ++i) {
            out[column * channels + i] = (0.25f * left[i] + 0.25f * right[i]) + 0.5f * middle[i];
        }
    }
}

NPCR_TARGET_CLONES void blur_columns_grad(const float* __restrict line, int64_t count, int64_t channels, int64_t columns,
                                   float* __restrict out) {
    for (int64_t column = 0; column < columns; ++column) {
        const float* __restrict grad = line + column * channels;
        float* left = out + reflect(2 * column - 1, count) * channels;
        float* middle = out + 2 * column * channels;
        float* right = out + reflect(2 * column + 1, count) * channels;
        for (int64_t i = 0; i < channels; ++i) left[i] += 0.25f * grad[i];
        for (int64_t i = 0; i < channels; ++i) middle[i] += 0.5f * grad[i];
        for (int64_t i = 0; i < channels; ++i) right[i] += 0.25f * grad[i];
    }
}

void halve_row(const NpcrResample& task, int64_t row, std::vector<float>& blurred) {
    const int64_t channels = task.channels, pooled = task.width - 1, line = task.width * channels;
    blurred.assign(static_cast<size_t>(pooled * channels), 0.0f);
    for (int64_t i = -1; i <= 1; ++i) {
        const float* above = task.input + reflect(2 * row + i, task.height - 1) * line;
        add_pooled(above, above + line, pooled * channels, channels, i == 0 ? 0.5f : 0.25f, blurred.data());
    }
    float* out = task.output + row * task.target_width * channels;
    blur_columns(blurred.data(), pooled, channels, task.target_width, out);
}

// The gradient of row `pooled_row` of the pooled map: the blur's transpose.
void pooled_grad(const NpcrResample& task, int64_t pooled_row, std::vector<float>& line, std::vector<float>& out) {
    const int64_t channels = task.channels, width = task.target_width, pooled = task.width - 1;
    line.assign(static_cast<size_t>(width * channels), 0.0f);
    out.assign(static_cast<size_t>(pooled * channels), 0.0f);
    const int64_t last = std::min(task.target_height - 1, pooled_row / 2 + 1);
    for (int64_t row = std::max<int64_t>(0, pooled_row / 2 - 1); row <= last; ++row) {
        for (int64_t i = -1; i <= 1; ++i) {
            if (reflect(2 * row + i, task.height - 1) != pooled_row) continue;
            add_scaled(task.grad_output + row * width * channels, width * channels, i == 0 ? 0.5f : 0.25f, line.data());
        }
    }
    blur_columns_grad(line.data(), pooled, channels, width, out.data());
}

// To each pixel of a row the gradients of the pooled row below (`lower`: it is the row's own) or above it where the
// pixel was the window's first largest.
NPCR_TARGET_CLONES void route(const float* __restrict own, const float* __restrict other, bool lower, int64_t count,
                       int64_t channels, const float* __restrict grad, float* __restrict out) {
    // Window at i: own[i], own[i + channels] and the same of the other row; the upper row comes first.
    for (int64_t i = 0; i < count; ++i) {
        const float left = own[i], right = own[i + channels];
        const float most = larger(other[i], other[i + channels]);
        const bool wins = lower ? larger(left, right) >= most : larger(left, right) > most;
        out[i] += wins && left >= right ? grad[i] : 0.0f;
    }
    for (int64_t i = 0; i < count; ++i) {
        const float left = own[i], right = own[i + channels];
        const float most = larger(other[i], other[i + channels]);
        const bool wins = lower ? larger(left, right) >= most : larger(left, right) > most;
        out[i + channels] += wins && left < right ? grad[i] : 0.0f;
    }
}

void halve_grad_row(const NpcrResample& task, int64_t row, std::vector<float>& line, std::vector<float>& grad) {
    const int64_t channels = task.channels, width = task.width * channels, count = (task.width - 1) * channels;
    const float* own = task.input + row * width;
    float* out = task.grad_input + row * width;
    std::fill_n(out, width, 0.0f);
    if (row > 0) {
        pooled_grad(task, row - 1, line, grad);
        route(own, own - width, false, count, channels, grad.data(), out);
    }
    if (row + 1 < task.height) {
        pooled_grad(task, row, line, grad);
        route(own, own + width, true, count, channels, grad.data(), out);
    }
}

NPCR_TARGET_CLONES void mix(const float* __restrict a, const float* __restrict b, float weight, int64_t count,
                     float* __restrict out) {
    for (int64_t i = 0; i < count; ++i) out[i] = (1.0f - weight) * a[i] + weight * b[i];
}

void double_row(const NpcrResample& task, int64_t target_row, std::vector<float>& line) {
    const int64_t channels = task.channels, width = task.width * channels;
    const int64_t top = (task.target_height - 2 * task.height) / 2, left = (task.target_width - 2 * task.width) / 2;
    float* out = task.output + target_row * task.target_width * channels;
    const int64_t row = target_row - top;
    std::fill_n(out, task.target_width * channels, 0.0f);
    if (row < 0 || row >= 2 * task.height) return;
    const Place y = place(row, task.height);
    line.resize(static_cast<size_t>(width));
    mix(task.input + y.first * width, task.input + y.second * width, y.weight, width, line.data());
    double_columns(line.data(), task.width, channels, out + left * channels);
}

void double_grad_row(const NpcrResample& task, int64_t row, std::vector<float>& line) {
    const int64_t channels = task.channels, width = 2 * task.width * channels;
    const int64_t top = (task.target_height - 2 * task.height) / 2, left = (task.target_width - 2 * task.width) / 2;
    line.assign(static_cast<size_t>(width), 0.0f);
    // Rows of the result that lie within one of this row: their place is 2 row, give or take 3.
    const int64_t last = std::min(2 * task.height - 1, 2 * row + 4);
    for (int64_t from = std::max<int64_t>(0, 2 * row - 4); from <= last; ++from) {
        const Place y = place(from, task.height);
        const float weight = (y.first == row ? 1.0f - y.weight : 0.0f) + (y.second == row ? y.weight : 0.0f);
        if (weight == 0.0f) continue;
        add_scaled(task.grad_output + ((top + from) * task.target_width + left) * channels, width, weight, line.data());
    }
    float* out = task.grad_input + row * task.width * channels;
    std::fill_n(out, task.width * channels, 0.0f);
    double_columns_grad(line.data(), task.width, channels, out);
}

// One of the images of a task.
NpcrResample one_image(const NpcrResample& task, int64_t image) {
    const int64_t source = image * task.height * task.width * task.channels;
    const int64_t target = image * task.target_height * task.target_width * task.channels;
    NpcrResample one = task;
    if (one.input) one.input += source;
    if (one.output) one.output += target;
    if (one.grad_output) one.grad_output += target;
    if (one.grad_input) one.grad_input += source;
    return one;
}

// work(image, row, two lines of a thread's own) for all rows of all images.
template <class Work>
int32_t over_rows(const NpcrResample& task, int64_t rows, Work work) {
    const int threads = thread_count(task);
    try {
        std::vector<std::vector<float>> lines(2 * threads);
        for (auto& line : lines) line.reserve(static_cast<size_t>(2 * std::max(task.width, task.target_width) *
                                                                  task.channels));
        // Images one after another: a phase has room for about a million tasks.
        for (int64_t image = 0; image < task.images; ++image) {
            const NpcrResample one = one_image(task, image);
            ThreadPool::run(threads, static_cast<int>(rows), [&](int row, int thread) {
                work(one, static_cast<int64_t>(row), lines[2 * thread], lines[2 * thread + 1]);
            });
        }
    } catch (const std::bad_alloc&) {
        return NPCR_OUT_OF_MEMORY;
    }
    return NPCR_OK;
}

using Line = std::vector<float>;

}  // namespace
}  // namespace npcr

int32_t npcr_halve(const NpcrResample* task) {
    using namespace npcr;
    if (!halves(*task)) return NPCR_BAD_ARGUMENT;
    return over_rows(*task, task->target_height,
                     [](const NpcrResample& one, int64_t row, Line& a, Line&) { halve_row(one, row, a); });
}

int32_t npcr_halve_grad(const NpcrResample* task) {
    using namespace npcr;
    if (!halves(*task)) return NPCR_BAD_ARGUMENT;
    return over_rows(*task, task->height,
                     [](const NpcrResample& one, int64_t row, Line& a, Line& b) { halve_grad_row(one, row, a, b); });
}

int32_t npcr_double(const NpcrResample* task) {
    using namespace npcr;
    if (!doubles(*task)) return NPCR_BAD_ARGUMENT;
    return over_rows(*task, task->target_height,
                     [](const NpcrResample& one, int64_t row, Line& a, Line&) { double_row(one, row, a); });
}

int32_t npcr_double_grad(const NpcrResample* task) {
    using namespace npcr;
    if (!doubles(*task)) return NPCR_BAD_ARGUMENT;
    return over_rows(*task, task->height,
                     [](const NpcrResample& one, int64_t row, Line& a, Line&) { double_grad_row(one, row, a); });
}
