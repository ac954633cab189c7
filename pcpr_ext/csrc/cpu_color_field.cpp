// SPDX-License-Identifier: Apache-2.0
// Colors that splats share, linear between the nodes of a grid (npcr/renderers/color_field.py), and the gradient of the
// nodes' values. The gradient is summed up in parts that do not depend on the number of threads.

#include <math.h>
#include <stdint.h>

#include <algorithm>

#include "arguments.h"
#include "processor.h"
#include "thread_pool.h"

namespace npcr {
namespace {

constexpr int kFunctions = 6;           // of a strand's direction
constexpr int kValues = 3 * kFunctions;  // of a node: a color for each of them
constexpr int64_t kRows = 1024;         // splats of a part, at least
constexpr int64_t kParts = 64;          // at most; each has a gradient of its own
constexpr int kCorners = 8;

#define NPCR_INLINE inline __attribute__((always_inline))

// The nodes around a splat, and what each of them has of it.
struct Corners {
    int64_t nodes[kCorners];
    float weights[kCorners];
};

// Torch's nan_to_num, as the reference has it: of places, infinity is the grid's border; of strands it is 0.
NPCR_INLINE float number(float value) { return isnan(value) ? 0.f : value; }
NPCR_INLINE float finite(float value) { return isfinite(value) ? value : 0.f; }

NPCR_INLINE Corners corners_of(const NpcrColorField& task, const float* place) {
    int64_t first[3];
    float near[3];
    for (int axis = 0; axis < 3; ++axis) {
        const float low = task.box[axis], high = task.box[3 + axis];
        const float share = std::min(1.f, std::max(0.f, (number(place[axis]) - low) / (high - low)));
        const float along = share * static_cast<float>(task.nodes - 1);
        first[axis] = std::min<int64_t>(static_cast<int64_t>(along), std::max(0, task.nodes - 2));
        near[axis] = 1 - (along - static_cast<float>(first[axis]));
    }
    Corners found;
    for (int corner = 0; corner < kCorners; ++corner) {
        int64_t node = 0;
        float weight = 1;
        for (int axis = 2; axis >= 0; --axis) {  // x fastest
            const int beyond = corner >> axis & 1;
            node = node * task.nodes + std::min<int64_t>(first[axis] + beyond, task.nodes - 1);
            weight *= beyond ? 1 - near[axis] : near[axis];
        }
        found.nodes[corner] = node;
        found.weights[corner] = weight;
    }
    return found;
}

// A constant, and the five independent parts of s sᵀ.
NPCR_INLINE void functions_of(const float* strand, float* functions) {
    const float x = finite(strand[0]), y = finite(strand[1]), z = finite(strand[2]);
    const float third = (x * x + y * y + z * z) / 3;
    functions[0] = 1;
    functions[1] = x * x - third;
    functions[2] = y * y - third;
    functions[3] = x * y;
    functions[4] = y * z;
    functions[5] = x * z;
}

NPCR_INLINE void interpolate(const NpcrColorField& task, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
        const Corners corners = corners_of(task, task.places + 3 * i);
        float functions[kFunctions], shared[kValues] = {};
        functions_of(task.strands + 3 * i, functions);
        for (int corner = 0; corner < kCorners; ++corner) {
            const float *values = task.values + kValues * corners.nodes[corner], weight = corners.weights[corner];
            for (int k = 0; k < kValues; ++k) shared[k] += weight * values[k];
        }
        for (int c = 0; c < 3; ++c) {
            float color = 0;
            for (int k = 0; k < kFunctions; ++k) color += functions[k] * shared[3 * k + c];
            task.colors[3 * i + c] = color;
        }
    }
}

NPCR_INLINE void add_gradient(const NpcrColorField& task, int64_t first, int64_t last, float* __restrict sums) {
    for (int64_t i = first; i < last; ++i) {
        const Corners corners = corners_of(task, task.places + 3 * i);
        float functions[kFunctions], shared[kValues];
        functions_of(task.strands + 3 * i, functions);
        for (int k = 0; k < kValues; ++k) shared[k] = functions[k / 3] * task.colors[3 * i + k % 3];
        for (int corner = 0; corner < kCorners; ++corner) {
            float *values = sums + kValues * corners.nodes[corner], weight = corners.weights[corner];
            for (int k = 0; k < kValues; ++k) values[k] += weight * shared[k];
        }
    }
}

NPCR_WITH_AVX2(interpolate, (const NpcrColorField& task, int64_t first, int64_t last), (task, first, last))
NPCR_WITH_AVX2(add_gradient, (const NpcrColorField& task, int64_t first, int64_t last, float* __restrict sums),
               (task, first, last, sums))

bool valid(const NpcrColorField& task) {
    return task.count >= 0 && task.count <= kMaxPoints && task.nodes >= 1 && task.nodes <= kMaxNodes;
}

int64_t parts_of(const NpcrColorField& task) {
    return std::min(kParts, std::max<int64_t>(1, task.count / kRows));
}

int64_t values_of(const NpcrColorField& task) {
    return static_cast<int64_t>(task.nodes) * task.nodes * task.nodes * kValues;
}

// Calls perform(part, first, last) for the splats in parts, on several threads.
template <class Perform>
void for_parts(const NpcrColorField& task, Perform perform) {
    const int64_t parts = parts_of(task), threads = std::min<int64_t>(task.threads, parts);
    ThreadPool::run(static_cast<int>(std::max<int64_t>(1, threads)), static_cast<int>(parts), [&](int part, int) {
        const Share share(task.count, part, parts);
        perform(part, share.first, share.last);
    });
}

}  // namespace
}  // namespace npcr

int32_t npcr_color_field(const NpcrColorField* task) {
    using namespace npcr;
    if (!valid(*task)) return NPCR_BAD_ARGUMENT;
    for_parts(*task, [&](int64_t, int64_t first, int64_t last) { interpolate_here(*task, first, last); });
    return NPCR_OK;
}

int64_t npcr_color_field_grad_scratch(const NpcrColorField* task) {
    using namespace npcr;
    if (!valid(*task)) return NPCR_BAD_ARGUMENT;
    return parts_of(*task) * values_of(*task) * static_cast<int64_t>(sizeof(float));
}

int32_t npcr_color_field_grad(const NpcrColorField* task) {
    using namespace npcr;
    if (!valid(*task)) return NPCR_BAD_ARGUMENT;
    if (task->scratch_bytes < npcr_color_field_grad_scratch(task)) return NPCR_SCRATCH_TOO_SMALL;
    float* const sums = static_cast<float*>(task->scratch);
    const int64_t size = values_of(*task), parts = parts_of(*task);
    for_parts(*task, [&](int64_t part, int64_t first, int64_t last) {
        std::fill_n(sums + size * part, size, 0.f);
        add_gradient_here(*task, first, last, sums + size * part);
    });
    for (int64_t k = 0; k < size; ++k) {
        float sum = 0;
        for (int64_t part = 0; part < parts; ++part) sum += sums[size * part + k];
        task->values[k] = sum;
    }
    return NPCR_OK;
}
