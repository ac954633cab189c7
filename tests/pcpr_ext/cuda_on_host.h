// SPDX-License-Identifier: Apache-2.0
// Just enough of CUDA, and of CUB, for a C++17 compiler to build pcpr_ext/csrc/*.cu and run the kernels on a host: blocks
// one after the other, a block's threads in turns, each until it has to wait for others. It checks the kernels' logic
// where there is no GPU; it says nothing about memory on a device, about speed, or about what nvcc makes of the code.
#ifndef NPCR_CUDA_ON_HOST_H
#define NPCR_CUDA_ON_HOST_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
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

struct Barrier {
    unsigned members, arrived = 0;
    uint64_t turn = 0;
};

struct Warp {
    Barrier barrier;
    uint64_t slots[2][32];  // of this exchange, and of the last, which some lanes may not have read yet
};

// A thread of the block, with a stack of its own.
struct Fiber {
    static constexpr size_t kStack = 256 * 1024;
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    dim3 index;
    const Barrier* waits_at = nullptr;
    uint64_t turn = 0;  // at which it came to wait
    bool ended = false;
};

inline dim3 block_index, block_size, grid_size;
inline Barrier block_barrier;
inline unsigned block_votes;
inline std::vector<Warp> warps;
inline std::vector<std::unique_ptr<Fiber>> fibers;  // kept from launch to launch
inline Fiber* running;
inline ucontext_t scheduler;
inline const std::function<void()>* launched;

inline unsigned flat_thread() { return running->index.x + block_size.x * running->index.y; }
inline Warp& warp() { return warps[flat_thread() / 32]; }

inline void wait_at(Barrier& barrier) {
    if (++barrier.arrived == barrier.members) {
        barrier.arrived = 0;
        ++barrier.turn;
        return;
    }
    running->waits_at = &barrier;
    running->turn = barrier.turn;
    swapcontext(&running->context, &scheduler);
}

// Every lane of the warp puts a value down; then each reads what it wants.
template <class Read>
uint64_t exchange(uint64_t value, Read read) {
    uint64_t* slots = warp().slots[warp().barrier.turn % 2];
    slots[flat_thread() % 32] = value;
    wait_at(warp().barrier);
    return read(slots);
}

template <class T>
T shuffle(T value, unsigned lane) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = exchange(bits, [&](const uint64_t* slots) { return slots[lane % 32]; });
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline void run_thread() {
    (*launched)();
    running->ended = true;
}

// Every thread once, in an order that changes from turn to turn; false where all wait for each other.
inline bool take_turns(unsigned count, bool backwards) {
    bool moved = false;
    for (unsigned i = 0; i < count; ++i) {
        running = fibers[backwards ? count - 1 - i : i].get();
        if (running->ended || (running->waits_at && running->waits_at->turn == running->turn)) continue;
        running->waits_at = nullptr;
        swapcontext(&scheduler, &running->context);
        moved = true;
    }
    return moved;
}

inline void launch(dim3 blocks, dim3 threads, const std::function<void()>& kernel) {
    const unsigned count = threads.x * threads.y;
    launched = &kernel;
    block_size = threads;
    grid_size = blocks;
    while (fibers.size() < count) fibers.push_back(std::make_unique<Fiber>());
    for (unsigned block = 0; block < blocks.x; ++block) {
        block_index = dim3(block);
        block_barrier = Barrier{count};
        warps.assign((count + 31) / 32, Warp{});
        for (unsigned i = 0; i < count; ++i) {
            Fiber& fiber = *fibers[i];
            warps[i / 32].barrier.members += 1;
            fiber.index = dim3(i % threads.x, i / threads.x);
            fiber.ended = false;
            fiber.waits_at = nullptr;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = Fiber::kStack;
            fiber.context.uc_link = &scheduler;
            makecontext(&fiber.context, run_thread, 0);
        }
        bool backwards = block % 2 != 0;
        while (take_turns(count, backwards)) backwards = !backwards;
        for (unsigned i = 0; i < count; ++i) {
            if (fibers[i]->ended) continue;
            fprintf(stderr, "thread %u of block %u waits for threads that do not come\n", i, block);
            abort();
        }
    }
}

}  // namespace on_host

#define threadIdx on_host::running->index
#define blockIdx on_host::block_index
#define blockDim on_host::block_size
#define gridDim on_host::grid_size
#define NPCR_LAUNCH(kernel, blocks, threads, stream, ...) \
    on_host::launch(dim3(blocks), dim3(threads), [&] { kernel(__VA_ARGS__); }), (void)(stream)

inline void __syncthreads() { on_host::wait_at(on_host::block_barrier); }
inline int __syncthreads_and(int predicate) {
    if (on_host::block_barrier.arrived == 0) on_host::block_votes = 0;
    on_host::block_votes += predicate != 0;
    __syncthreads();
    const bool all = on_host::block_votes == on_host::block_barrier.members;
    __syncthreads();  // before the next vote
    return all;
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
    return static_cast<unsigned>(on_host::exchange(predicate, [](const uint64_t* slots) {
        uint64_t bits = 0;
        for (int lane = 0; lane < 32; ++lane) bits |= slots[lane] << lane;
        return bits;
    }));
}
inline bool __any_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) != 0; }
inline bool __all_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, !predicate) == 0; }
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return on_host::shuffle(value, static_cast<unsigned>(lane));
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
    return on_host::shuffle(value, on_host::flat_thread() ^ static_cast<unsigned>(lanes));
}
inline int __clz(unsigned value) { return value ? __builtin_clz(value) : 32; }
inline int __ffs(unsigned value) { return __builtin_ffs(static_cast<int>(value)); }
// How many reads past the first cache there were, for tests of what kernels leave out.
extern "C" {
inline __attribute__((used)) unsigned long long on_host_reads;
}
template <class T>
T __ldcg(const T* address) {
    ++on_host_reads;
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

namespace cub {

template <class T>
struct DoubleBuffer {
    T* buffers[2];
    int selector = 0;
    DoubleBuffer(T* current, T* alternate) : buffers{current, alternate} {}
    T* Current() { return buffers[selector]; }
    T* Alternate() { return buffers[1 - selector]; }
};

// As of CUB, a first call without memory asks for its size. The result lies in the other buffers, as it may.
struct DeviceRadixSort {
    template <class Key, class Value>
    static cudaError_t SortPairs(void* memory, size_t& bytes, DoubleBuffer<Key>& keys, DoubleBuffer<Value>& values,
                                 int count, int first_bit, int end_bit, cudaStream_t) {
        bytes = 1;
        if (!memory) return cudaSuccess;
        const uint64_t mask = (uint64_t{1} << end_bit) - (uint64_t{1} << first_bit);
        std::vector<int> order(static_cast<size_t>(count));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
            return (keys.Current()[a] & mask) < (keys.Current()[b] & mask);
        });
        for (int i = 0; i < count; ++i) {
            keys.Alternate()[i] = keys.Current()[order[static_cast<size_t>(i)]];
            values.Alternate()[i] = values.Current()[order[static_cast<size_t>(i)]];
        }
        keys.selector ^= 1;
        values.selector ^= 1;
        return cudaSuccess;
    }
};

struct DeviceScan {
    template <class T>
    static cudaError_t InclusiveSum(void* memory, size_t& bytes, T* from, T* to, int count, cudaStream_t) {
        bytes = 1;
        if (memory) std::partial_sum(from, from + count, to);
        return cudaSuccess;
    }
};

}  // namespace cub

#endif
