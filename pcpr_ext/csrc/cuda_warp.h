// SPDX-License-Identifier: Apache-2.0
// Sums over a warp's lanes, of many numbers at a time and always in the same order.
#ifndef NPCR_CUDA_WARP_H
#define NPCR_CUDA_WARP_H

#include "cuda_launch.h"

namespace npcr {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Which of the sums a lane ends up with: `count` (0, or some) from `first` on.
struct LaneSums {
    int first, count;
};

// Halves what each lane holds in every step, handing the other half to a lane that keeps that one: for n numbers some
// n + 5 exchanges rather than 5 n.
template <int kCount, int kDistance, class Number>
__device__ __forceinline__ void sum_halves(Number* numbers, int lane, LaneSums& sums) {
    constexpr int kHalf = (kCount + 1) / 2;
    const bool upper = lane & kDistance;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
        const Number lower_one = numbers[i], upper_one = i + kHalf < kCount ? numbers[i + kHalf] : Number(0);
        const Number kept = upper ? upper_one : lower_one, given = upper ? lower_one : upper_one;
        numbers[i] = kept + __shfl_xor_sync(kAllLanes, given, kDistance);
    }
    const int below = sums.count < kHalf ? sums.count : kHalf;
    sums = upper ? LaneSums{sums.first + kHalf, sums.count - below} : LaneSums{sums.first, below};
    if constexpr (kDistance > 1) sum_halves<kHalf, kDistance / 2>(numbers, lane, sums);
}

// Adds up each of `numbers` over the warp, whose lanes all call this, and puts the sums to `to`; `numbers` is used up.
template <int kCount, class Number>
__device__ __forceinline__ void sum_over_warp(Number* numbers, int lane, Number* to) {
    LaneSums sums = {0, kCount};
    sum_halves<kCount, kWarp / 2>(numbers, lane, sums);
#pragma unroll
    for (int i = 0; i < (kCount + kWarp - 1) / kWarp; ++i) {
        if (i < sums.count) to[sums.first + i] = numbers[i];
    }
}

}  // namespace npcr

#endif
