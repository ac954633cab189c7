// SPDX-License-Identifier: Apache-2.0
// Ellipses of an image: what rows, tiles and pixels one reaches, what it covers of a pixel, and the gradients of that.
// Host and device compile this same text.
//
// An ellipse (x, y, U, opacity, depth, radius) is the Gaussian exp(-|U d|² / 2) of the distance d to (x, y) in pixels, U
// upper triangular, drawn where |U d| <= radius. The square root of a covariance's inverse has no cancellation where an
// ellipse is long and thin; its terms give all bounds directly.
#ifndef NPCR_ELLIPSE_H
#define NPCR_ELLIPSE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "camera.h"
#include "arguments.h"

namespace npcr {

constexpr int kEllipse = 8;              // numbers of an ellipse: x, y, U (xx, xy, yy), opacity, depth, radius
constexpr int kEllipseGrads = 6;         // of these, the ones that compositing has gradients for: up to the opacity
constexpr float kMaxShare = 0.999f;      // of a pixel that one ellipse covers; these as in npcr.ops.gaussians_reference
constexpr float kPassingStop = 1e-4f;    // less light than this from behind ends a pixel
constexpr float kMinCovered = 1e-3f;     // from which on a pixel has a depth

// The columns that an ellipse reaches, relative to its center; an empty range (first > last) where it reaches none. With
// some room, so that rounding leaves nothing out: `ellipse_share` decides.
struct Span {
    float first, last;
};
constexpr float kRoom = 0.01f;  // pixels

NPCR_HD Span row_span(const float* ellipse, float dy) {
    const float b = ellipse[4] * dy, rest = ellipse[7] * ellipse[7] - b * b;
    const float middle = -ellipse[3] * dy / ellipse[2], half = sqrtf(rest > 0 ? rest : 0) / ellipse[2];
    return {middle - half - kRoom, middle + half + kRoom};
}

// In any of the rows from `top` to `bottom`, relative to the center.
NPCR_HD Span rows_span(const float* ellipse, float top, float bottom) {
    const float half_height = ellipse[7] / ellipse[4], shear = ellipse[3] / ellipse[4];
    if (top > half_height + kRoom || bottom < -half_height - kRoom) return {1, 0};
    // The row in which the ellipse reaches farthest to the right, and in mirror image to the left.
    const float farthest = -half_height * shear / sqrtf(1 + shear * shear);
    return {row_span(ellipse, clamp(-farthest, top, bottom)).first, row_span(ellipse, clamp(farthest, top, bottom)).last};
}

// Pixels from..to of a side of `count`, between two coordinates; from > to where there are none.
struct Pixels {
    int from, to;
};
NPCR_HD Pixels pixels_between(float first, float last, float count) {
    return {static_cast<int>(ceilf(clamp(first, 0, count))), static_cast<int>(floorf(clamp(last, -1, count - 1)))};
}

constexpr int kTile = 16;  // pixels of a tile's side

// The tiles of an ellipse, row by row: calls visit(row, first column, last column). Those of a small one are a rectangle
// around it, since it costs less to draw it in a tile that it only nearly reaches than to find out.
template <class Visit>
NPCR_HD void for_tile_rows(const float* ellipse, int64_t width, int64_t height, Visit visit) {
    if (!(ellipse[7] > 0)) return;
    const float shear = ellipse[3] / ellipse[4], half_height = ellipse[7] / ellipse[4] + kRoom;
    const float half_width = ellipse[7] / ellipse[2] * sqrtf(1 + shear * shear) + kRoom;
    const Pixels rows = pixels_between(ellipse[1] - half_height, ellipse[1] + half_height, static_cast<float>(height));
    const Pixels columns = pixels_between(ellipse[0] - half_width, ellipse[0] + half_width, static_cast<float>(width));
    if (rows.from > rows.to || columns.from > columns.to) return;
    const int first_row = rows.from / kTile, last_row = rows.to / kTile;
    const int first_column = columns.from / kTile, last_column = columns.to / kTile;
    const bool small = (last_row - first_row) * (last_column - first_column) <= 1;
    for (int row = first_row; row <= last_row; ++row) {
        if (small) {
            visit(row, first_column, last_column);
            continue;
        }
        const int top = rows.from > row * kTile ? rows.from : row * kTile;
        const int bottom = rows.to < row * kTile + kTile - 1 ? rows.to : row * kTile + kTile - 1;
        const Span span = rows_span(ellipse, static_cast<float>(top) - ellipse[1], static_cast<float>(bottom) - ellipse[1]);
        const Pixels part = pixels_between(ellipse[0] + span.first, ellipse[0] + span.last, static_cast<float>(width));
        if (part.from <= part.to) visit(row, part.from / kTile, part.to / kTile);
    }
}

NPCR_HD int64_t tiles_across(int64_t side) { return (side + kTile - 1) / kTile; }

// What follows takes a number or a vector of them (F, with the integers I of its size), by reference: how vectors are
// passed depends on the processor.
template <class F>
struct IntegersOf {
    using Type = uint32_t;
};

// 2^power, where power is from -115 to 1, to about 1e-7 of its value; else anything.
template <class F>
NPCR_HD void power_of_two(const F& power, F& result) {
    using I = typename IntegersOf<F>::Type;
    const F shifted = power + 12582912.0f;  // 1.5 * 2^23: the fraction is rounded away
    const F rest = power - (shifted - 12582912.0f);
    I whole;
    memcpy(&whole, &shifted, sizeof whole);
    const F square = rest * rest;  // in pairs, which depend less on each other than one after the other
    const F high = square * 1.32647e-3f + (rest * 9.67151e-3f + 5.550734e-2f);
    const F value = (high * square + (rest * 2.4022242e-1f + 6.9314698e-1f)) * rest + 1.0f;
    whole = (whole + (127u - 0x4b400000u)) << 23;
    F factor;
    memcpy(&factor, &whole, sizeof factor);
    result = value * factor;
}

constexpr float kPowerOfDistance2 = -0.72134752f;  // exp(-d² / 2) is 2 to this times d²

// What an ellipse covers of a pixel whose power, kPowerOfDistance2 |U d|², is at least `least`: that of its radius.
template <class F>
NPCR_HD void share_of_power(const F& power, float least, float opacity, F& share) {
    using I = typename IntegersOf<F>::Type;
    F fall;
    power_of_two<F>(power, fall);
    const F full = fall * opacity, most = F{} + kMaxShare;
    I bits, most_bits;  // which are in the order of the numbers, where these are positive
    memcpy(&bits, &full, sizeof bits);
    memcpy(&most_bits, &most, sizeof most_bits);
    bits = bits < most_bits ? bits : most_bits;
    memcpy(&share, &bits, sizeof share);
    share = power >= least ? share : F{};
}

// What an ellipse covers of the pixel at (dx, dy) from its center; 0 outside of its radius.
NPCR_HD void ellipse_share(const float* ellipse, float dx, float dy, float& share) {
    const float a = dx * ellipse[2] + dy * ellipse[3], b = dy * ellipse[4];
    share_of_power<float>(kPowerOfDistance2 * (a * a + b * b), kPowerOfDistance2 * (ellipse[7] * ellipse[7]), ellipse[5],
                          share);
}

// Leaves of a gradient what is not cut off where the share is capped.
template <class F>
NPCR_HD void share_grad_below_most(const F& share, F& grad) {
    grad = share < kMaxShare ? grad : F{};
}

// From the gradient of the share `share` to those of the ellipse's first six numbers, added to `into`; the opacity's has
// still to be divided by the opacity. Where the share is 0, nothing is added.
NPCR_HD void ellipse_share_grad(const float* ellipse, float dx, float dy, float share, float grad, float* into) {
    float product = grad * share;
    share_grad_below_most(share, product);
    const float a = dx * ellipse[2] + dy * ellipse[3], b = dy * ellipse[4];
    const float of_a = product * a, of_b = product * b;  // less than nothing: the share falls with the distance
    into[0] += of_a * ellipse[2];
    into[1] += of_a * ellipse[3] + of_b * ellipse[4];
    into[2] -= of_a * dx;
    into[3] -= of_a * dy;
    into[4] -= of_b * dy;
    into[5] += product;
}

// The same for many pixels at once, of the sums of gradient times share, and of that times x, y, x², x y and y²: a pixel's
// place relative to any point that lies at (from_x, from_y) from the center.
NPCR_HD void ellipse_grad_from_moments(const float* ellipse, double from_x, double from_y, const float* moments,
                                       float* into) {
    const double m = moments[0], dx = moments[1] + from_x * m, dy = moments[2] + from_y * m;
    const double xx = moments[3] + from_x * (moments[1] + dx), yy = moments[5] + from_y * (moments[2] + dy);
    const double xy = moments[4] + from_x * moments[2] + from_y * dx;
    const double a = dx * ellipse[2] + dy * ellipse[3], b = dy * ellipse[4];
    into[0] = static_cast<float>(a * ellipse[2]);
    into[1] = static_cast<float>(a * ellipse[3] + b * ellipse[4]);
    into[2] = static_cast<float>(-(xx * ellipse[2] + xy * ellipse[3]));
    into[3] = static_cast<float>(-(xy * ellipse[2] + yy * ellipse[3]));
    into[4] = static_cast<float>(-(yy * ellipse[4]));
    into[5] = moments[0];
}

}  // namespace npcr

#endif
