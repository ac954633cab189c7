// SPDX-License-Identifier: Apache-2.0
// Colors by view direction on a CPU, and the gradients of their coefficients.

#include <stdint.h>

#include <algorithm>
#include <type_traits>

#include "harmonics.h"
#include "arguments.h"
#include "thread_pool.h"

namespace npcr {
namespace {

constexpr int64_t kRows = 2048;  // points of a task

// Calls perform(first, last) for parts of the points, on several threads.
template <class Task, class Perform>
void for_points(const Task& task, Perform perform) {
    const int64_t blocks = (task.count + kRows - 1) / kRows;
    const int tasks = static_cast<int>(std::min<int64_t>(blocks, ThreadPool::kMaxTasks));
    if (tasks == 0) return;
    ThreadPool::run(static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({task.threads, blocks, 256}))), tasks,
                    [&](int part, int) {
        const Share share(task.count, part, tasks);
        perform(share.first, share.last);
    });
}

template <int kDegree>
void evaluate(const NpcrHarmonics& task) {
    constexpr int others = (kDegree + 1) * (kDegree + 1) - 1;
    for_points(task, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            float basis[others + 1];
            harmonics_toward(task.points + 3 * i, task.origin, kDegree, basis);
            const float *constant = task.constant + 3 * i, *other = task.others + 3 * others * i;
            float color[3];
            for (int c = 0; c < 3; ++c) color[c] = kConstantHarmonic * constant[c];
            for (int k = 0; k < others; ++k) {
                for (int c = 0; c < 3; ++c) color[c] += basis[k] * other[3 * k + c];
            }
            std::copy_n(color, 3, task.colors + 3 * i);
        }
    });
}

template <int kDegree>
void evaluate_grad(const NpcrHarmonicsGrad& task) {
    constexpr int others = (kDegree + 1) * (kDegree + 1) - 1;
    for_points(task, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            float basis[others + 1];
            harmonics_toward(task.points + 3 * i, task.origin, kDegree, basis);
            const float* grad = task.grad_colors + 3 * i;
            float* other = task.grad_others + 3 * others * i;
            for (int c = 0; c < 3; ++c) task.grad_constant[3 * i + c] = kConstantHarmonic * grad[c];
            for (int k = 0; k < others; ++k) {
                for (int c = 0; c < 3; ++c) other[3 * k + c] = basis[k] * grad[c];
            }
        }
    });
}

// Calls perform(degree), the degree being known to the compiler.
template <class Task, class Perform>
int32_t by_degree(const Task& task, Perform perform) {
    if (!valid_harmonics(task)) return NPCR_BAD_ARGUMENT;
    switch (task.degree) {
        case 0: perform(std::integral_constant<int, 0>()); break;
        case 1: perform(std::integral_constant<int, 1>()); break;
        case 2: perform(std::integral_constant<int, 2>()); break;
        default: perform(std::integral_constant<int, 3>());
    }
    return NPCR_OK;
}

}  // namespace
}  // namespace npcr

int32_t npcr_harmonics(const NpcrHarmonics* task) {
    return npcr::by_degree(*task, [&](auto degree) { npcr::evaluate<degree()>(*task); });
}

int32_t npcr_harmonics_grad(const NpcrHarmonicsGrad* task) {
    return npcr::by_degree(*task, [&](auto degree) { npcr::evaluate_grad<degree()>(*task); });
}
