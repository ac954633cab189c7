// SPDX-License-Identifier: Apache-2.0
// Just enough of CUDA for a C++20 compiler to build pcpr_ext/csrc/*.cu and run the kernels on a host: blocks
// one after the other, a block's threads as real threads. It checks the kernels' logic where there is no
// GPU; it says nothing about memory on a device, about speed, or about what nvcc makes of the code.
#ifndef NPCR_CUDA_ON_HOST_H
#define NPCR_CUDA_ON_HOST_H

#include <stdint.h>
#include <string.h>

#include <barrier>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static  // one block at a time

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint2 {
    unsigned x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
struct cudaFuncAttributes {};
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error can occur here"; }
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
    memset(memory, value, bytes);
    return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
    return cudaSuccess;
}

namespace on_host {

struct Warp {
    std::barrier<> barrier{32};
    uint64_t slots[32];
};

inline std::unique_ptr<std::barrier<>> block_barrier;
inline std::vector<std::unique_ptr<Warp>> warps;
inline thread_local dim3 thread_index, block_index, block_size, grid_size;

inline unsigned flat_thread() { return thread_index.x + block_size.x * thread_index.y; }
inline Warp& warp() { return *warps[flat_thread() / 32]; }

// Every lane of the warp puts a value down; then each reads what it wants.
template <class Read>
uint64_t exchange(uint64_t value, Read read) {
    warp().slots[flat_thread() % 32] = value;
    warp().barrier.arrive_and_wait();
    const uint64_t result = read(warp().slots);
    warp().barrier.arrive_and_wait();
    return result;
}

inline void launch(dim3 blocks, dim3 threads, const std::function<void()>& kernel) {
    const unsigned count = threads.x * threads.y;
    block_barrier = std::make_unique<std::barrier<>>(count);
    warps.clear();
    for (unsigned i = 0; i < (count + 31) / 32; ++i) warps.push_back(std::make_unique<Warp>());
    std::vector<std::thread> members;
    for (unsigned thread = 0; thread < count; ++thread) {
        members.emplace_back([&, thread] {
            thread_index = dim3(thread % threads.x, thread / threads.x);
            block_size = threads;
            grid_size = blocks;
            for (unsigned block = 0; block < blocks.x; ++block) {
                block_index = dim3(block);
                kernel();
                block_barrier->arrive_and_wait();
            }
        });
    }
    for (std::thread& member : members) member.join();
}

}  // namespace on_host

#define threadIdx on_host::thread_index
#define blockIdx on_host::block_index
#define blockDim on_host::block_size
#define gridDim on_host::grid_size
#define NPCR_LAUNCH(kernel, blocks, threads, stream, ...) \
    on_host::launch(dim3(blocks), dim3(threads), [&] { kernel(__VA_ARGS__); }), (void)(stream)

inline void __syncthreads() { on_host::block_barrier->arrive_and_wait(); }
inline unsigned __ballot_sync(unsigned, bool predicate) {
    return static_cast<unsigned>(on_host::exchange(predicate, [](const uint64_t* slots) {
        uint64_t bits = 0;
        for (int lane = 0; lane < 32; ++lane) bits |= slots[lane] << lane;
        return bits;
    }));
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return static_cast<T>(on_host::exchange(static_cast<uint64_t>(value),
                                            [&](const uint64_t* slots) { return slots[lane]; }));
}
inline int __ffs(unsigned value) { return __builtin_ffs(static_cast<int>(value)); }
template <class T>
T __ldcg(const T* address) {
    return __atomic_load_n(address, __ATOMIC_RELAXED);
}
inline unsigned long long atomicMin(unsigned long long* address, unsigned long long value) {
    unsigned long long seen = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (value < seen && !__atomic_compare_exchange_n(address, &seen, value, false, __ATOMIC_RELAXED,
                                                        __ATOMIC_RELAXED)) {
    }
    return seen;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
