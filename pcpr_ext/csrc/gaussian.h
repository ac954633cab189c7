// SPDX-License-Identifier: Apache-2.0
// Gaussians stretched along strands: their projection to ellipses of an image, what an ellipse covers of a pixel, and
// the gradients of both. Host and device compile this same text; npcr.ops.gaussians_reference says the same in torch.
//
// A Gaussian has the covariance w² I + s sᵀ, w being its width and s half of its strand. Its image is an ellipse
// (x, y, U, opacity, depth, radius): the Gaussian exp(-|U d|² / 2) of the distance d to (x, y) in pixels, U upper
// triangular with Uᵀ U the inverse of the image's covariance, and drawn where |U d| <= radius. The square root of the
// inverse has no cancellation where an ellipse is long and thin; its terms give all bounds directly.
#ifndef NPCR_GAUSSIAN_H
#define NPCR_GAUSSIAN_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "camera.h"
#include "interface.h"

namespace npcr {

constexpr int kEllipse = 8;              // numbers of an ellipse: x, y, U (xx, xy, yy), opacity, depth, radius
constexpr int kEllipseGrads = 6;         // of these, the ones that compositing has gradients for: up to the opacity
constexpr int kCameraGrads = 21;         // cam_to_world's upper three rows, then the intrinsics
constexpr float kMaxShare = 0.999f;      // of a pixel that one ellipse covers; these as in npcr.ops.gaussians_reference
constexpr float kPassingStop = 1e-4f;    // less light than this from behind ends a pixel
constexpr float kMinCovered = 1e-3f;     // from which on a pixel has a depth
constexpr float kMaxRadius = 12;         // of an ellipse: beyond, nobody sees it, and power_of_two gives anything
constexpr float kBorder = 0.15f;         // of the image, beyond which a projection's slope is no longer followed

struct Vec3 {
    float x, y, z;
};
NPCR_HD Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
NPCR_HD Vec3 operator-(Vec3 a, Vec3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
NPCR_HD Vec3 operator*(float a, Vec3 b) { return {a * b.x, a * b.y, a * b.z}; }
NPCR_HD float dot(Vec3 a, Vec3 b) { return (a.x * b.x + a.y * b.y) + a.z * b.z; }
NPCR_HD Vec3 cross(Vec3 a, Vec3 b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
NPCR_HD Vec3 load3(const float* from) { return {from[0], from[1], from[2]}; }
NPCR_HD void store3(float* to, Vec3 a) { to[0] = a.x, to[1] = a.y, to[2] = a.z; }

struct GaussianCamera {
    Vec3 right, down, forward;  // of the camera, world axes: the columns of cam_to_world
    Vec3 position;
    Vec3 row_u, row_v, row_w;  // of the intrinsics
    float width, height;
};

NPCR_HD GaussianCamera load_camera(const float* pose, const float* intrinsics, int64_t width, int64_t height) {
    return {{pose[0], pose[4], pose[8]}, {pose[1], pose[5], pose[9]}, {pose[2], pose[6], pose[10]},
            {pose[3], pose[7], pose[11]}, load3(intrinsics), load3(intrinsics + 3), load3(intrinsics + 6),
            static_cast<float>(width), static_cast<float>(height)};
}

NPCR_HD Vec3 to_camera(const GaussianCamera& camera, Vec3 a) {
    return {dot(camera.right, a), dot(camera.down, a), dot(camera.forward, a)};
}
NPCR_HD Vec3 to_world(const GaussianCamera& camera, Vec3 a) {
    return a.x * camera.right + a.y * camera.down + a.z * camera.forward;
}

// What projecting one Gaussian computes on the way, of which its gradient needs most.
struct Projection {
    Vec3 offset, strand_world;     // from the camera, world axes
    Vec3 at, strand;               // camera axes
    float u, v, w;                 // pixels, and what their homogeneous coordinates are divided by
    bool follows_u, follows_v;     // the slope is that at (u, v), not at the border
    float slope_u, slope_v;        // where it is taken
    Vec3 du, dv;                   // gradients of u and v by the place
    float tu, tv;                  // the strand in the image
    float variance, uu, uv, vv;    // w², and the products of du and dv
    float area, across;            // |du x dv|², |tu dv - tv du|²
    float sharp, trace;            // determinant and trace of the covariance, unfiltered
    float cov_uv, cov_vv, det;     // the covariance, filtered
    float root_vv, root_det;       // 1 / sqrt of these
    float fading;                  // of the opacity, as much as the filter widens
    bool visible;
};

NPCR_HD float clamp_slope(float u, float side) {
    return clamp(u, -kBorder * side - 0.5f, (1 + kBorder) * side - 0.5f);  // a NaN becomes a border
}

NPCR_HD Projection project_gaussian(const GaussianCamera& camera, Vec3 mean, Vec3 strand, float width, float opacity,
                                    float filter) {
    Projection p;
    p.offset = mean - camera.position;
    p.strand_world = strand;
    p.at = to_camera(camera, p.offset);
    p.strand = to_camera(camera, strand);
    p.w = dot(camera.row_w, p.at);
    const float inverse = 1 / p.w;
    p.u = inverse * dot(camera.row_u, p.at);
    p.v = inverse * dot(camera.row_v, p.at);
    p.slope_u = clamp_slope(p.u, camera.width);
    p.slope_v = clamp_slope(p.v, camera.height);
    p.follows_u = p.slope_u == p.u;
    p.follows_v = p.slope_v == p.v;
    p.du = inverse * (camera.row_u - p.slope_u * camera.row_w);
    p.dv = inverse * (camera.row_v - p.slope_v * camera.row_w);
    p.tu = dot(p.du, p.strand);
    p.tv = dot(p.dv, p.strand);
    p.variance = width * width;
    p.uu = dot(p.du, p.du);
    p.uv = dot(p.du, p.dv);
    p.vv = dot(p.dv, p.dv);
    const Vec3 normal = cross(p.du, p.dv), across = p.tu * p.dv - p.tv * p.du;
    p.area = dot(normal, normal);
    p.across = dot(across, across);
    p.sharp = p.variance * (p.variance * p.area + p.across);
    p.trace = p.variance * (p.uu + p.vv) + (p.tu * p.tu + p.tv * p.tv);
    p.cov_uv = p.variance * p.uv + p.tu * p.tv;
    p.cov_vv = (p.variance * p.vv + p.tv * p.tv) + filter;
    p.det = (p.sharp + filter * p.trace) + filter * filter;
    p.root_vv = 1 / sqrtf(p.cov_vv);
    p.root_det = 1 / sqrtf(p.det);
    p.fading = sqrtf(p.sharp) * p.root_det;
    // Linear projection means nothing for what reaches the camera's plane.
    p.visible = p.at.z > width + fabsf(p.strand.z) && width >= 0 && opacity > 0 && is_finite(p.u) && is_finite(p.v) &&
                is_finite(p.det) && p.det > 0 && is_finite(p.cov_uv) && is_finite(opacity) && p.fading > 0;
    return p;
}

// Of one Gaussian with the opacity `opacity`; a radius of 0 where nothing is drawn.
NPCR_HD void write_ellipse(const Projection& p, float opacity, float min_share, float* ellipse) {
    for (int i = 0; i < kEllipse; ++i) ellipse[i] = 0;
    const float share = opacity * p.fading;
    if (!p.visible || !(share > min_share)) return;
    ellipse[0] = p.u;
    ellipse[1] = p.v;
    ellipse[2] = p.cov_vv * p.root_vv * p.root_det;
    ellipse[3] = -p.cov_uv * p.root_vv * p.root_det;
    ellipse[4] = p.root_vv;
    ellipse[5] = share;
    ellipse[6] = p.at.z;
    const float radius = sqrtf(2 * logf(share / min_share));
    ellipse[7] = radius < kMaxRadius ? radius : kMaxRadius;
}

struct GaussianGrad {
    Vec3 mean, strand;
    float width, opacity;
};

// From the gradient of an ellipse (its first seven numbers), for one that is drawn. Adds to `of_camera`
// (kCameraGrads, or null).
template <class Sum>
NPCR_HD GaussianGrad project_gaussian_grad(const GaussianCamera& camera, const Projection& p, float width, float opacity,
                                           float filter, const float* grad, Sum* of_camera) {
    // The ellipse's numbers, from covariance and determinant.
    const float rc = p.root_vv, rd = p.root_det;
    const float of_cov_uv = -grad[3] * rc * rd;
    float of_cov_vv = 0.5f * rc * (grad[2] * rd + rc * rc * (p.cov_uv * rd * grad[3] - grad[4]));
    float of_det = 0.5f * rd * rd * rd * (p.cov_uv * rc * grad[3] - grad[2] / rc);
    const float of_fading = 0.5f * grad[5] * opacity * p.fading;
    of_det -= of_fading / p.det;
    const float of_sharp = of_fading / p.sharp + of_det, of_trace = filter * of_det;
    of_cov_vv += of_trace;  // of both, what is common: variance vv + tv²

    // Covariance and determinant, from the slopes and the strand's image.
    const float v = p.variance;
    const float of_variance = (2 * v * p.area + p.across) * of_sharp + p.uu * of_trace + p.vv * of_cov_vv +
                              p.uv * of_cov_uv;
    const float of_uu = v * (v * p.vv + p.tv * p.tv) * of_sharp + v * of_trace;
    const float of_vv = v * (v * p.uu + p.tu * p.tu) * of_sharp + v * of_cov_vv;
    const float of_uv = -2 * v * (v * p.uv + p.tu * p.tv) * of_sharp + v * of_cov_uv;
    const float of_tu = 2 * v * (p.tu * p.vv - p.tv * p.uv) * of_sharp + 2 * p.tu * of_trace + p.tv * of_cov_uv;
    const float of_tv = 2 * v * (p.tv * p.uu - p.tu * p.uv) * of_sharp + 2 * p.tv * of_cov_vv + p.tu * of_cov_uv;
    const Vec3 of_du = 2 * of_uu * p.du + of_uv * p.dv + of_tu * p.strand;
    const Vec3 of_dv = 2 * of_vv * p.dv + of_uv * p.du + of_tv * p.strand;
    const Vec3 of_strand = of_tu * p.du + of_tv * p.dv;

    // Slopes and pixels, from the place and the intrinsics.
    const float inverse = 1 / p.w;
    const float of_u = grad[0] - (p.follows_u ? inverse * dot(of_du, camera.row_w) : 0);
    const float of_v = grad[1] - (p.follows_v ? inverse * dot(of_dv, camera.row_w) : 0);
    const float of_w = -inverse * (((of_u * p.u + of_v * p.v) + dot(of_du, p.du)) + dot(of_dv, p.dv));
    const Vec3 of_at = inverse * of_u * camera.row_u + inverse * of_v * camera.row_v + of_w * camera.row_w +
                       Vec3{0, 0, grad[6]};
    if (of_camera) {
        const Vec3 row_u = inverse * (of_u * p.at + of_du), row_v = inverse * (of_v * p.at + of_dv);
        const Vec3 row_w = of_w * p.at - inverse * (p.slope_u * of_du + p.slope_v * of_dv);
        const Vec3 of_position = to_world(camera, of_at);
        const float place[3] = {of_at.x, of_at.y, of_at.z}, along[3] = {of_strand.x, of_strand.y, of_strand.z};
        const float offset[3] = {p.offset.x, p.offset.y, p.offset.z};
        const float strand[3] = {p.strand_world.x, p.strand_world.y, p.strand_world.z};
        const float position[3] = {-of_position.x, -of_position.y, -of_position.z};
        for (int row = 0; row < 3; ++row) {
            for (int column = 0; column < 3; ++column) {
                of_camera[4 * row + column] += place[column] * offset[row] + along[column] * strand[row];
            }
            of_camera[4 * row + 3] += position[row];
        }
        const float rows[9] = {row_u.x, row_u.y, row_u.z, row_v.x, row_v.y, row_v.z, row_w.x, row_w.y, row_w.z};
        for (int i = 0; i < 9; ++i) of_camera[12 + i] += rows[i];
    }
    return {to_world(camera, of_at), to_world(camera, of_strand), 2 * width * of_variance, grad[5] * p.fading};
}

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
