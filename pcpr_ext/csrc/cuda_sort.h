// SPDX-License-Identifier: Apache-2.0
// Sorting and summing up on a GPU, by CUB, which comes with the toolkit. A first call with null memory asks for its size
// and does nothing on the device.
#ifndef NPCR_CUDA_SORT_H
#define NPCR_CUDA_SORT_H

#include <stdint.h>

#include "cuda_launch.h"
#ifdef __CUDACC__  // else the tests' host stands in for it
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#endif

namespace npcr {

using Keys = cub::DoubleBuffer<uint32_t>;
using Rows = cub::DoubleBuffer<int32_t>;

// Stable, by the lowest `bits` of the keys. What is sorted lies in Current() of both.
inline cudaError_t sort_by_key(void* memory, size_t& bytes, Keys& keys, Rows& rows, int64_t count, int bits,
                               cudaStream_t stream) {
    return cub::DeviceRadixSort::SortPairs(memory, bytes, keys, rows, static_cast<int>(count), 0, bits, stream);
}

// Each entry becomes the sum of those up to it.
inline cudaError_t sum_up(void* memory, size_t& bytes, int64_t* numbers, int64_t count, cudaStream_t stream) {
    return cub::DeviceScan::InclusiveSum(memory, bytes, numbers, numbers, static_cast<int>(count), stream);
}

// The caller's scratch memory, cut up; while its size is asked for, the addresses mean nothing.
class Scratch {
  public:
    explicit Scratch(void* memory) : base_((reinterpret_cast<uintptr_t>(memory) + 255) / 256 * 256), end_(base_) {}
    template <class T>
    T* take(int64_t count) {
        const uintptr_t begin = end_;
        end_ += (static_cast<uintptr_t>(count) * sizeof(T) + 255) / 256 * 256;
        return reinterpret_cast<T*>(begin);
    }
    int64_t bytes() const { return static_cast<int64_t>(end_ - base_) + 256; }  // 256: for the memory's alignment

  private:
    uintptr_t base_, end_;
};

}  // namespace npcr

#endif
