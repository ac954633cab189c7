// SPDX-License-Identifier: Apache-2.0
// Colors by view direction on a GPU, and the gradients of their coefficients: a thread for each of a point's three numbers.

#include <stdint.h>

#include "cuda_launch.h"
#include "harmonics.h"
#include "arguments.h"

namespace npcr {
namespace {

constexpr int kThreads = 256;

// Calls perform(number, basis, how many, where the number's first coefficient but the constant one lies).
template <class Task, class Perform>
__device__ __forceinline__ void for_numbers(const Task& task, Perform perform) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    const int others = harmonics_of(task.degree) - 1;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < 3 * task.count; i += step) {
        const int64_t point = i / 3;
        float basis[kHarmonics];
        harmonics_toward(task.points + 3 * point, task.origin, task.degree, basis);
        perform(i, basis, others, 3 * others * point + i % 3);
    }
}

__global__ void __launch_bounds__(kThreads) evaluate(NpcrHarmonics task) {
    for_numbers(task, [&](int64_t i, const float* basis, int others, int64_t first) {
        float color = kConstantHarmonic * task.constant[i];
        for (int k = 0; k < others; ++k) color += basis[k] * task.others[first + 3 * k];
        task.colors[i] = color;
    });
}

__global__ void __launch_bounds__(kThreads) evaluate_grad(NpcrHarmonicsGrad task) {
    for_numbers(task, [&](int64_t i, const float* basis, int others, int64_t first) {
        const float grad = task.grad_colors[i];
        task.grad_constant[i] = kConstantHarmonic * grad;
        for (int k = 0; k < others; ++k) task.grad_others[first + 3 * k] = basis[k] * grad;
    });
}

}  // namespace
}  // namespace npcr

int32_t npcr_harmonics(const NpcrHarmonics* task) {
    if (!npcr::valid_harmonics(*task)) return NPCR_BAD_ARGUMENT;
    NPCR_LAUNCH(npcr::evaluate, npcr::blocks_for(3 * task->count, npcr::kThreads), npcr::kThreads,
                static_cast<cudaStream_t>(task->stream), *task);
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

int32_t npcr_harmonics_grad(const NpcrHarmonicsGrad* task) {
    if (!npcr::valid_harmonics(*task)) return NPCR_BAD_ARGUMENT;
    NPCR_LAUNCH(npcr::evaluate_grad, npcr::blocks_for(3 * task->count, npcr::kThreads), npcr::kThreads,
                static_cast<cudaStream_t>(task->stream), *task);
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}
