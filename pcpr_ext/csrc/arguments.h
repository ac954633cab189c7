// SPDX-License-Identifier: Apache-2.0
// What both native libraries accept: limits, and checks of the structures of interface.h.
#ifndef NPCR_ARGUMENTS_H
#define NPCR_ARGUMENTS_H

#include "interface.h"

namespace npcr {

constexpr int64_t kMaxSide = 32767;          // a splat's rectangle is kept in 16 bits per side
constexpr int64_t kMaxPoints = 0xffffffffLL;  // depth and index share 64 bits
constexpr int64_t kMaxLayers = 65535;
constexpr int64_t kMaxChannels = 127;  // of Gaussians
constexpr int32_t kMaxNodes = 64;  // of a grid along each axis

inline bool valid(const NpcrRasterize& task) {
    return task.point_count >= 0 && task.point_count <= kMaxPoints && task.cameras >= 0 && task.width >= 1 &&
           task.width <= kMaxSide && task.height >= 1 && task.height <= kMaxSide && task.layers >= 1 &&
           task.layers <= kMaxLayers && (task.index_bytes == 4 || task.index_bytes == 8) &&
           (task.index_bytes == 8 || task.point_count <= 0x7fffffffLL) && task.far_depth > task.near_depth;
}

template <class Task>  // NpcrGather, NpcrScatter
inline bool valid_features(const Task& task) {
    return task.point_count >= 0 && task.channels >= 1 && task.fragments >= 0 &&
           (task.index_bytes == 4 || task.index_bytes == 8);
}

template <class Task>  // NpcrComposite, NpcrCompositeGrad
inline bool valid_composite(const Task& task) {
    return task.point_count >= 1 && task.dot_count >= task.point_count && task.dot_count % task.point_count == 0 &&
           task.channels >= 1 && task.layers >= 1 && task.layers <= kMaxLayers && task.height >= 1 &&
           task.height <= kMaxSide && task.width >= 1 && task.width <= kMaxSide &&
           (task.index_bytes == 4 || task.index_bytes == 8);
}

template <class Task>  // all that take Gaussians
inline bool valid_gaussians(const Task& task) {
    return task.count >= 0 && task.count <= 0x7fffffffLL && task.height >= 1 && task.height <= kMaxSide &&
           task.width >= 1 && task.width <= kMaxSide;
}

template <class Task>  // NpcrTilePairs, and those below
inline bool valid_pairs(const Task& task) {
    return valid_gaussians(task) && task.pairs >= 0 && task.pairs <= 0x7fffffffLL;
}

template <class Task>  // NpcrCompositeGaussians, NpcrCompositeGaussiansGrad
inline bool valid_values(const Task& task) {
    return valid_pairs(task) && task.channels >= 0 && task.channels <= kMaxChannels;
}

template <class Task>  // NpcrHarmonics, NpcrHarmonicsGrad
inline bool valid_harmonics(const Task& task) {
    return task.count >= 0 && task.count <= kMaxPoints && task.degree >= 0 && task.degree <= 3;
}

}  // namespace npcr

#endif
