// SPDX-License-Identifier: Apache-2.0
// Gate, norm and ReLU pixel by pixel: the way back, and the norm. Sums are made of fixed groups of
// pixels and added up in order, so they do not depend on the number of threads.

#include <algorithm>
#include <memory>
#include <new>

#include "clones.h"
#include "interface.h"
#include "team.h"

namespace npcr {
namespace {

constexpr int64_t kGroup = 1024;  // pixels

template <class Task>
bool valid(const Task& task) {
    return task.pixels >= 0 && task.pixels <= kMaxSide * kMaxSide && task.channels >= 1 && task.channels <= (1 << 20);
}

int team_size(int64_t threads, int64_t values) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, 1 + values / 65536, 256})));
}

NPCR_CLONES void sums_of_pixels(const NpcrGate& task, int64_t first, int64_t last, float* __restrict sums) {
    const int64_t channels = task.channels;
    // In locals, so that the compiler knows that no store below changes them.
    const float* __restrict scale = task.scale;
    const float* __restrict shift = task.shift;
    float* __restrict value_sums = sums + channels;
    for (int64_t pixel = first; pixel < last; ++pixel) {
        const float* __restrict y = task.values + pixel * channels;
        const float* __restrict grad = task.grad + pixel * channels;
#pragma GCC ivdep
        for (int64_t i = 0; i < channels; ++i) {
            const float given = grad[i];
            const float du = y[i] * scale[i] + shift[i] > 0.0f ? given : 0.0f;
            sums[i] += du;
            value_sums[i] += du * y[i];
        }
    }
}

NPCR_CLONES void grad_of_pixels(const NpcrGate& task, int64_t first, int64_t last, float* __restrict sums) {
    const int64_t channels = task.channels;
    const float* __restrict scale = task.scale;
    const float* __restrict shift = task.shift;
    const float* __restrict of_grad = task.of_grad;
    const float* __restrict of_value = task.of_value;
    const float* __restrict constant = task.constant;
    float* __restrict gate_sums = sums + channels;
    for (int64_t pixel = first; pixel < last; ++pixel) {
        const float* __restrict y = task.values + pixel * channels;
        const float* __restrict open = task.open + pixel * channels;
        const float* __restrict grad = task.grad + pixel * channels;
        float* __restrict out = task.grad_raw + pixel * 2 * channels;
        float* __restrict gate_out = out + channels;
#pragma GCC ivdep
        for (int64_t i = 0; i < channels; ++i) {
            const float given = grad[i];
            const float du = y[i] * scale[i] + shift[i] > 0.0f ? given : 0.0f;
            const float dy = (of_grad[i] * du + of_value[i] * y[i]) + constant[i];
            const float dconv = dy * open[i], dgate = dy * y[i] * (1.0f - open[i]);
            out[i] = dconv;
            gate_out[i] = dgate;
            sums[i] += dconv;
            gate_sums[i] += dgate;
        }
    }
}

NPCR_CLONES void normalise_pixels(const NpcrNormalise& task, int64_t first, int64_t last) {
    const int64_t channels = task.channels;
    const float* __restrict scale = task.scale;
    const float* __restrict shift = task.shift;
    for (int64_t pixel = first; pixel < last; ++pixel) {
        const float* values = task.values + pixel * channels;  // may be the output
        float* output = task.output + pixel * channels;
#pragma GCC ivdep
        for (int64_t i = 0; i < channels; ++i) {
            const float value = values[i] * scale[i] + shift[i];
            output[i] = value > 0.0f ? value : 0.0f;
        }
    }
}

using PixelSums = void (*)(const NpcrGate&, int64_t, int64_t, float*);

int32_t over_groups(const NpcrGate& task, PixelSums work) {
    const int64_t groups = (task.pixels + kGroup - 1) / kGroup, width = 2 * task.channels;
    std::unique_ptr<float[]> sums(new (std::nothrow) float[static_cast<size_t>(groups * width)]());
    if (!sums) return NPCR_OUT_OF_MEMORY;
    Team::run(team_size(task.threads, task.pixels * width), static_cast<int>(groups), [&](int group, int) {
        work(task, group * kGroup, std::min(task.pixels, (group + 1) * kGroup), sums.get() + group * width);
    });
    std::fill_n(task.sums, width, 0.0);
    for (int64_t group = 0; group < groups; ++group) {
        for (int64_t i = 0; i < width; ++i) task.sums[i] += sums[group * width + i];
    }
    return NPCR_OK;
}

}  // namespace
}  // namespace npcr

int32_t npcr_gate_sums(const NpcrGate* task) {
    using namespace npcr;
    return valid(*task) ? over_groups(*task, sums_of_pixels) : NPCR_BAD_ARGUMENT;
}

int32_t npcr_gate_grad(const NpcrGate* task) {
    using namespace npcr;
    return valid(*task) ? over_groups(*task, grad_of_pixels) : NPCR_BAD_ARGUMENT;
}

int32_t npcr_normalise(const NpcrNormalise* task) {
    using namespace npcr;
    if (!valid(*task)) return NPCR_BAD_ARGUMENT;
    const int64_t groups = (task->pixels + kGroup - 1) / kGroup;
    Team::run(team_size(task->threads, task->pixels * task->channels), static_cast<int>(groups), [&](int group, int) {
        normalise_pixels(*task, group * kGroup, std::min(task->pixels, (group + 1) * kGroup));
    });
    return NPCR_OK;
}
