// SPDX-License-Identifier: Apache-2.0
// Colors by view direction on a GPU, and the gradients of their coefficients: a thread for each of a point's three numbers.

#include <stdint.h>

#include "cuda_launch.h"
#include "harmonics.h"
#include "interface.h"

namespace npcr {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) evaluate(NpcrHarmonics task) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    const int others = harmonics_of(task.degree) - 1;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < 3 * task.count; i += step) {
        const int64_t point = i / 3;
        float basis[kHarmonics];
        harmonics_toward(task.points + 3 * point, task.origin, task.degree, basis);
        const float* other = task.others + 3 * others * point + i % 3;
        float color = kConstantHarmonic * task.constant[i];
        for (int k = 0; k < others; ++k) color += basis[k] * other[3 * k];
        task.colors[i] = color;
    }
}

__global__ void __launch_bounds__(kThreads) evaluate_grad(NpcrHarmonicsGrad task) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    const int others = harmonics_of(task.degree) - 1;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < 3 * task.count; i += step) {
        const int64_t point = i / 3;
        float basis[kHarmonics];
        harmonics_toward(task.points + 3 * point, task.origin, task.degree, basis);
        const float grad = task.grad_colors[i];
        float* other = task.grad_others + 3 * others * point + i % 3;
        task.grad_constant[i] = kConstantHarmonic * grad;
        for (int k = 0; k < others; ++k) other[3 * k] = basis[k] * grad;
    }
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
