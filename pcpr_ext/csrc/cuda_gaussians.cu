// SPDX-License-Identifier: Apache-2.0
// Projection of Gaussians on a GPU, and the lists of the ellipses in each tile of the image: the numbers, and the order,
// of the CPU's kernels. No atomics; the sums over all Gaussians are taken by blocks of a fixed size, in a fixed order.

#include <stdint.h>

#include "cuda_launch.h"
#include "cuda_sort.h"
#include "cuda_warp.h"
#include "gaussian.h"
#include "arguments.h"

namespace npcr {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlock = 2048;  // Gaussians whose part of the camera's gradient a block adds up

int64_t blocks_of(int64_t count) { return (count + kBlock - 1) / kBlock; }

template <class Task>
__device__ __forceinline__ Projection<float> project_one(const Task& task, const GaussianCamera& camera, int64_t i) {
    return project_gaussian(camera, load3(task.means + 3 * i), load3(task.strands + 3 * i), task.widths[i],
                            task.opacities[i], task.filter_variance);
}

template <class Task>
__device__ __forceinline__ GaussianCamera camera_of(const Task& task) {
    return load_camera(task.cam_to_world, task.intrinsics, task.width, task.height);
}

__global__ void __launch_bounds__(kThreads) project_all(NpcrProjectGaussians task) {
    const GaussianCamera camera = camera_of(task);
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < task.count; i += step) {
        float ellipse[kEllipse];
        write_ellipse(project_one(task, camera, i), task.opacities[i], task.min_share, ellipse);
        for (int k = 0; k < kEllipse; ++k) task.ellipses[kEllipse * i + k] = ellipse[k];
    }
}

// `partial`: the sums of each block of Gaussians for the camera, kCameraGrads each; without a camera unused.
template <bool with_camera>
__global__ void __launch_bounds__(kThreads) project_all_grad(NpcrProjectGaussiansGrad task, double* partial) {
    const GaussianCamera camera = camera_of(task);
    const int thread = threadIdx.x;
    double of_camera[kCameraGrads] = {};
    const int64_t block = blockIdx.x, end = (block + 1) * kBlock, last = end < task.count ? end : task.count;
    for (int64_t i = block * kBlock + thread; i < last; i += kThreads) {
        GaussianGrad<float> grad = {{0, 0, 0}, {0, 0, 0}, 0, 0};
        if (task.ellipses[kEllipse * i + 7] > 0) {
            grad = project_gaussian_grad(camera, project_one(task, camera, i), task.widths[i], task.opacities[i],
                                         task.filter_variance, task.grad_ellipses + kEllipse * i,
                                         with_camera ? of_camera : nullptr);
        }
        store3(task.grad_means + 3 * i, grad.mean);
        store3(task.grad_strands + 3 * i, grad.strand);
        task.grad_widths[i] = grad.width;
        task.grad_opacities[i] = grad.opacity;
    }
    if constexpr (with_camera) {
        __shared__ double sums[kThreads / kWarp][kCameraGrads];
        sum_over_warp<kCameraGrads>(of_camera, thread % kWarp, sums[thread / kWarp]);
        __syncthreads();
        if (thread < kCameraGrads) {
            double sum = 0;
            for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += sums[warp][thread];
            partial[block * kCameraGrads + thread] = sum;
        }
    }
}

// A warp for each number.
__global__ void sum_camera(int64_t blocks, const double* partial, float* grad_camera) {
    const int lane = threadIdx.x, k = threadIdx.y;
    double sum = 0, total;
    for (int64_t block = lane; block < blocks; block += kWarp) sum += partial[block * kCameraGrads + k];
    sum_over_warp<1>(&sum, lane, &total);
    if (lane == 0) grad_camera[k] = static_cast<float>(total);
}

// What is not drawn gets the last of all keys.
__global__ void __launch_bounds__(kThreads) write_depths(NpcrTilePairs task, uint32_t* keys, int32_t* rows) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < task.count; i += step) {
        const float* ellipse = task.ellipses + kEllipse * i;
        keys[i] = ellipse[7] > 0 ? __float_as_uint(ellipse[6]) : 0xffffffffu;
        rows[i] = static_cast<int32_t>(i);
    }
}

// offsets[i + 1] becomes the tiles of the i-th ellipse alone.
__global__ void __launch_bounds__(kThreads) count_tiles(NpcrTilePairs task, const int32_t* sorted) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    const int64_t start = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (start == 0) task.offsets[0] = 0;
    for (int64_t i = start; i < task.count; i += step) {
        const int32_t member = sorted[i];
        int64_t tiles = 0;
        for_tile_rows(task.ellipses + kEllipse * static_cast<int64_t>(member), task.width, task.height,
                      [&](int, int from, int to) { tiles += to - from + 1; });
        task.order[i] = member;
        task.offsets[i + 1] = tiles;
    }
}

// The pairs in the order of `offsets`: the tile of each, its number, and its ellipse.
__global__ void __launch_bounds__(kThreads)
    write_pairs(NpcrTilePairs task, uint32_t* tiles, int32_t* numbers, int32_t* owners) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads, across = tiles_across(task.width);
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < task.count; i += step) {
        const int32_t member = task.order[i];
        int64_t pair = task.offsets[i];
        if (pair == task.offsets[i + 1]) continue;
        for_tile_rows(task.ellipses + kEllipse * static_cast<int64_t>(member), task.width, task.height,
                      [&](int row, int from, int to) {
                          for (int column = from; column <= to; ++column, ++pair) {
                              tiles[pair] = static_cast<uint32_t>(row * across + column);
                              numbers[pair] = static_cast<int32_t>(pair);
                              owners[pair] = member;
                          }
                      });
    }
}

__global__ void __launch_bounds__(kThreads)
    write_members(NpcrTilePairs task, const int32_t* sorted, const int32_t* owners) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < task.pairs; i += step) {
        const int32_t pair = sorted[i];
        task.members[i] = owners[pair];
        task.slots[i] = pair;  // where it may lie already
    }
}

// `tiles` ascend; a tile begins at the first pair that is not before it.
__global__ void __launch_bounds__(kThreads) write_starts(NpcrTilePairs task, int64_t count, const uint32_t* tiles) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t tile = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; tile <= count; tile += step) {
        int64_t first = 0, last = task.pairs;
        while (first < last) {
            const int64_t middle = (first + last) / 2;
            if (tiles[middle] < tile) {
                first = middle + 1;
            } else {
                last = middle;
            }
        }
        task.starts[tile] = first;
    }
}

// Where CUB cannot be asked (`error`) the sizes are too small; whoever runs it returns the error.
struct CountScratch {
    Keys keys;
    Rows rows;
    size_t temporary_bytes;
    void* temporary;
    int64_t bytes;
    cudaError_t error;

    explicit CountScratch(const NpcrTilePairs& task) : keys(nullptr, nullptr), rows(nullptr, nullptr) {
        Scratch scratch(task.scratch);
        uint32_t *some_keys = scratch.take<uint32_t>(task.count), *other_keys = scratch.take<uint32_t>(task.count);
        keys = Keys(some_keys, other_keys);
        rows = Rows(task.order, scratch.take<int32_t>(task.count));
        size_t to_sort = 0, to_sum = 0;
        error = sort_by_key(nullptr, to_sort, keys, rows, task.count, 32, nullptr);
        if (error == cudaSuccess) error = sum_up(nullptr, to_sum, task.offsets, task.count, nullptr);
        temporary_bytes = to_sort > to_sum ? to_sort : to_sum;
        temporary = scratch.take<char>(static_cast<int64_t>(temporary_bytes));
        bytes = scratch.bytes();
    }
};

int32_t count_pairs(const NpcrTilePairs& task, CountScratch& scratch) {
    cudaStream_t stream = static_cast<cudaStream_t>(task.stream);
    const unsigned blocks = blocks_for(task.count, kThreads);
    NPCR_LAUNCH(write_depths, blocks, kThreads, stream, task, scratch.keys.Current(), scratch.rows.Current());
    NPCR_CHECK(cudaGetLastError());
    if (task.count > 0) {
        NPCR_CHECK(sort_by_key(scratch.temporary, scratch.temporary_bytes, scratch.keys, scratch.rows, task.count, 32,
                               stream));
    }
    NPCR_LAUNCH(count_tiles, blocks, kThreads, stream, task, scratch.rows.Current());
    NPCR_CHECK(cudaGetLastError());
    if (task.count > 0) {
        NPCR_CHECK(sum_up(scratch.temporary, scratch.temporary_bytes, task.offsets + 1, task.count, stream));
    }
    return NPCR_OK;
}

struct ListScratch {
    Keys tiles;
    Rows numbers;
    int32_t* owners;
    int bits;  // of a tile's number
    size_t temporary_bytes = 0;
    void* temporary;
    int64_t bytes;
    cudaError_t error;

    explicit ListScratch(const NpcrTilePairs& task) : tiles(nullptr, nullptr), numbers(nullptr, nullptr), bits(1) {
        while (tile_count(task) > int64_t{1} << bits) ++bits;
        Scratch scratch(task.scratch);
        uint32_t *some_tiles = scratch.take<uint32_t>(task.pairs), *other_tiles = scratch.take<uint32_t>(task.pairs);
        tiles = Keys(some_tiles, other_tiles);
        numbers = Rows(task.slots, scratch.take<int32_t>(task.pairs));
        owners = scratch.take<int32_t>(task.pairs);
        error = sort_by_key(nullptr, temporary_bytes, tiles, numbers, task.pairs, bits, nullptr);
        temporary = scratch.take<char>(static_cast<int64_t>(temporary_bytes));
        bytes = scratch.bytes();
    }
    static int64_t tile_count(const NpcrTilePairs& task) { return tiles_across(task.width) * tiles_across(task.height); }
};

int32_t list_pairs(const NpcrTilePairs& task, ListScratch& scratch) {
    cudaStream_t stream = static_cast<cudaStream_t>(task.stream);
    const int64_t tiles = ListScratch::tile_count(task);
    if (task.pairs > 0) {
        NPCR_LAUNCH(write_pairs, blocks_for(task.count, kThreads), kThreads, stream, task, scratch.tiles.Current(),
                    scratch.numbers.Current(), scratch.owners);
        NPCR_CHECK(cudaGetLastError());
        NPCR_CHECK(sort_by_key(scratch.temporary, scratch.temporary_bytes, scratch.tiles, scratch.numbers, task.pairs,
                               scratch.bits, stream));
        NPCR_LAUNCH(write_members, blocks_for(task.pairs, kThreads), kThreads, stream, task, scratch.numbers.Current(),
                    scratch.owners);
        NPCR_CHECK(cudaGetLastError());
    }
    NPCR_LAUNCH(write_starts, blocks_for(tiles + 1, kThreads), kThreads, stream, task, tiles, scratch.tiles.Current());
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

int32_t project_grad(const NpcrProjectGaussiansGrad& task) {
    cudaStream_t stream = static_cast<cudaStream_t>(task.stream);
    double* partial = Scratch(task.scratch).take<double>(0);
    const int64_t blocks = blocks_of(task.count);
    if (blocks > 0 && task.grad_camera) {
        NPCR_LAUNCH((project_all_grad<true>), static_cast<unsigned>(blocks), kThreads, stream, task, partial);
    } else if (blocks > 0) {
        NPCR_LAUNCH((project_all_grad<false>), static_cast<unsigned>(blocks), kThreads, stream, task, partial);
    }
    NPCR_CHECK(cudaGetLastError());
    if (!task.grad_camera) return NPCR_OK;
    NPCR_LAUNCH(sum_camera, 1, dim3(kWarp, kCameraGrads), stream, blocks, partial, task.grad_camera);
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

}  // namespace
}  // namespace npcr

int32_t npcr_project_gaussians(const NpcrProjectGaussians* task) {
    if (!npcr::valid_gaussians(*task)) return NPCR_BAD_ARGUMENT;
    NPCR_LAUNCH(npcr::project_all, npcr::blocks_for(task->count, npcr::kThreads), npcr::kThreads,
                static_cast<cudaStream_t>(task->stream), *task);
    NPCR_CHECK(cudaGetLastError());
    return NPCR_OK;
}

int64_t npcr_project_gaussians_grad_scratch(const NpcrProjectGaussiansGrad* task) {
    if (!npcr::valid_gaussians(*task)) return NPCR_BAD_ARGUMENT;
    npcr::Scratch scratch(nullptr);
    scratch.take<double>(npcr::blocks_of(task->count) * npcr::kCameraGrads);
    return scratch.bytes();
}

int32_t npcr_project_gaussians_grad(const NpcrProjectGaussiansGrad* task) {
    const int64_t needed = npcr_project_gaussians_grad_scratch(task);
    if (needed < 0) return static_cast<int32_t>(needed);
    if (task->scratch_bytes < needed) return NPCR_SCRATCH_TOO_SMALL;
    return npcr::project_grad(*task);
}

int64_t npcr_count_pairs_scratch(const NpcrTilePairs* task) {
    if (!npcr::valid_gaussians(*task)) return NPCR_BAD_ARGUMENT;
    return npcr::CountScratch(*task).bytes;
}

int32_t npcr_count_pairs(const NpcrTilePairs* task) {
    if (!npcr::valid_gaussians(*task)) return NPCR_BAD_ARGUMENT;
    npcr::CountScratch scratch(*task);
    NPCR_CHECK(scratch.error);
    if (task->scratch_bytes < scratch.bytes) return NPCR_SCRATCH_TOO_SMALL;
    return npcr::count_pairs(*task, scratch);
}

int64_t npcr_list_pairs_scratch(const NpcrTilePairs* task) {
    if (!npcr::valid_pairs(*task)) return NPCR_BAD_ARGUMENT;
    return npcr::ListScratch(*task).bytes;
}

int32_t npcr_list_pairs(const NpcrTilePairs* task) {
    if (!npcr::valid_pairs(*task)) return NPCR_BAD_ARGUMENT;
    npcr::ListScratch scratch(*task);
    NPCR_CHECK(scratch.error);
    if (task->scratch_bytes < scratch.bytes) return NPCR_SCRATCH_TOO_SMALL;
    return npcr::list_pairs(*task, scratch);
}
