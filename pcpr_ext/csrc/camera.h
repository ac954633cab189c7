// SPDX-License-Identifier: Apache-2.0
// One point through one camera: the only place where the projection's arithmetic is written in C++.
// Host and device compile this same text, without fused multiply-adds (-ffp-contract=off, --fmad=false),
// every sum from left to right, so that all backends agree bit for bit where a coordinate falls on a tie.
#ifndef NPCR_CAMERA_H
#define NPCR_CAMERA_H

#include <stdint.h>

#ifdef __CUDACC__
#define NPCR_HD __host__ __device__ __forceinline__
#else
#define NPCR_HD inline __attribute__((always_inline))
#endif

namespace npcr {

constexpr float kLargestFloat = 3.402823466e+38f;

struct Camera {
    float rotation[9];     // world to camera, row-major: the transpose of the pose's rotation
    float translation[3];  // -(R^T t)
    float intrinsics[9];
    float near_depth, depth_range, max_size;
    float width, height;
};

// What one point covers: the pixels x0..x1 by y0..y1, already clipped to the image.
struct Splat {
    float depth;
    int x0, y0, x1, y1;
    bool visible;  // false: skipped or outside; the other members then mean nothing
};

// a . b, summed left to right.
NPCR_HD float dot3(const float* a, float x, float y, float z) { return (a[0] * x + a[1] * y) + a[2] * z; }

// cam_to_world is a row-major 4x4 matrix, intrinsics a row-major 3x3 one.
NPCR_HD Camera make_camera(const float* cam_to_world, const float* intrinsics, float near_depth,
                           float far_depth, float max_size, int64_t width, int64_t height) {
    Camera camera;
    for (int row = 0; row < 3; ++row) {
        for (int column = 0; column < 3; ++column) {
            camera.rotation[3 * row + column] = cam_to_world[4 * column + row];
            camera.intrinsics[3 * row + column] = intrinsics[3 * row + column];
        }
    }
    for (int row = 0; row < 3; ++row) {
        camera.translation[row] =
            -dot3(camera.rotation + 3 * row, cam_to_world[3], cam_to_world[7], cam_to_world[11]);
    }
    camera.near_depth = near_depth;
    camera.depth_range = far_depth - near_depth;
    camera.max_size = max_size;
    camera.width = static_cast<float>(width);
    camera.height = static_cast<float>(height);
    return camera;
}

// A NaN becomes `low`, so that the result can always be cast to int.
NPCR_HD float clamp(float value, float low, float high) {
    const float raised = value > low ? value : low;
    return raised < high ? raised : high;
}

// To the nearest integer, halves away from zero; |value| < 2^24.
NPCR_HD int round_half_away(float value) {
    const int whole = static_cast<int>(value);
    const float rest = value - static_cast<float>(whole);
    return whole + static_cast<int>(rest >= 0.5f) - static_cast<int>(rest <= -0.5f);
}

NPCR_HD bool is_finite(float value) { return (value <= kLargestFloat) & (value >= -kLargestFloat); }

// Without branches, so that a loop over points can be vectorized.
NPCR_HD Splat project(const Camera& camera, float px, float py, float pz) {
    const float x = dot3(camera.rotation, px, py, pz) + camera.translation[0];
    const float y = dot3(camera.rotation + 3, px, py, pz) + camera.translation[1];
    const float z = dot3(camera.rotation + 6, px, py, pz) + camera.translation[2];
    const float a = dot3(camera.intrinsics, x, y, z);
    const float b = dot3(camera.intrinsics + 3, x, y, z);
    const float c = dot3(camera.intrinsics + 6, x, y, z);
    const float u = a / c;
    const float v = b / c;
    const float nearness = 1.0f - (z - camera.near_depth) / camera.depth_range;
    const float radius = camera.max_size * clamp(nearness, 0.0f, 1.0f);
    // Clamping to one pixel outside the image first keeps the casts defined and changes no visible pixel.
    const int left = round_half_away(clamp(u - radius, -1.0f, camera.width));
    const int right = round_half_away(clamp(u + radius, -1.0f, camera.width));
    const int top = round_half_away(clamp(v - radius, -1.0f, camera.height));
    const int bottom = round_half_away(clamp(v + radius, -1.0f, camera.height));
    const int last_column = static_cast<int>(camera.width) - 1;
    const int last_row = static_cast<int>(camera.height) - 1;
    Splat splat;
    splat.depth = z;
    splat.x0 = left > 0 ? left : 0;
    splat.y0 = top > 0 ? top : 0;
    splat.x1 = right < last_column ? right : last_column;
    splat.y1 = bottom < last_row ? bottom : last_row;
    splat.visible = (z > 0.0f) & is_finite(z) & is_finite(u) & is_finite(v) & (splat.x0 <= splat.x1) &
                    (splat.y0 <= splat.y1);
    return splat;
}

// Depth bits above, point index below: the smaller key is the nearer point, or of two at one depth the
// one with the lower index. Depths are positive, so their bits sort as the numbers do.
NPCR_HD uint64_t make_key(uint32_t depth_bits, uint32_t index) {
    return (static_cast<uint64_t>(depth_bits) << 32) | index;
}

}  // namespace npcr

#endif
