// SPDX-License-Identifier: Apache-2.0
// Real spherical harmonics up to degree 3, orthonormal over the sphere. Host and device compile this same text;
// npcr.ops.spherical_harmonics says the same in torch.
#ifndef NPCR_HARMONICS_H
#define NPCR_HARMONICS_H

#include <math.h>

#include "camera.h"

namespace npcr {

constexpr int kHarmonics = 16;  // of degree 3
constexpr float kConstantHarmonic = 0.28209479f;

NPCR_HD int harmonics_of(int degree) { return (degree + 1) * (degree + 1); }

// In the direction from `origin` to `point`, into `basis`, from the first of degree 1 on.
NPCR_HD void harmonics_toward(const float* point, const float* origin, int degree, float* basis) {
    float x = point[0] - origin[0], y = point[1] - origin[1], z = point[2] - origin[2];
    const float length = sqrtf(x * x + y * y + z * z), inverse = 1 / (length > 1e-12f ? length : 1e-12f);
    x *= inverse, y *= inverse, z *= inverse;
    if (degree >= 1) {
        basis[0] = -0.48860251f * y;
        basis[1] = 0.48860251f * z;
        basis[2] = -0.48860251f * x;
    }
    if (degree >= 2) {
        basis[3] = 1.09254843f * x * y;
        basis[4] = -1.09254843f * y * z;
        basis[5] = 0.31539157f * (2 * z * z - x * x - y * y);
        basis[6] = -1.09254843f * x * z;
        basis[7] = 0.54627422f * (x * x - y * y);
    }
    if (degree >= 3) {
        basis[8] = -0.59004359f * y * (3 * x * x - y * y);
        basis[9] = 2.89061144f * x * y * z;
        basis[10] = -0.45704580f * y * (5 * z * z - 1);
        basis[11] = 0.37317633f * z * (5 * z * z - 3);
        basis[12] = -0.45704580f * x * (5 * z * z - 1);
        basis[13] = 1.44530572f * z * (x * x - y * y);
        basis[14] = -0.59004359f * x * (x * x - 3 * y * y);
    }
}

}  // namespace npcr

#endif
