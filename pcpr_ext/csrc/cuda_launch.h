// SPDX-License-Identifier: Apache-2.0
// How the CUDA sources launch a kernel: one place, so that the tests can run the same sources on a host.
#ifndef NPCR_CUDA_LAUNCH_H
#define NPCR_CUDA_LAUNCH_H

#include <stdint.h>

#ifndef NPCR_LAUNCH
#include <cuda_runtime.h>
#define NPCR_LAUNCH(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#endif

namespace npcr {

// Leaves the calling function with the error's number where a launch or copy was refused.
#define NPCR_CHECK(call)                                              \
    do {                                                              \
        const cudaError_t error = (call);                             \
        if (error != cudaSuccess) return static_cast<int32_t>(error); \
    } while (0)

// Blocks for so many items, `per_block` at a time; kernels stride over the grid, so a cap only saves
// starting blocks. It fills the largest GPUs several times over.
inline unsigned blocks_for(int64_t items, int64_t per_block) {
    const int64_t blocks = (items + per_block - 1) / per_block;
    return static_cast<unsigned>(blocks < 1 ? 1 : blocks > 4096 ? 4096 : blocks);
}

}  // namespace npcr

#endif
