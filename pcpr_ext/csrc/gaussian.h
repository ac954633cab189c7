// SPDX-License-Identifier: Apache-2.0
// Gaussians stretched along strands: their projection to ellipses of an image (ellipse.h), and its gradients. Host and
// device compile this same text, for one Gaussian or, with F a vector, for several at once; npcr.ops.gaussians_reference
// says the same in torch.
//
// A Gaussian has the covariance w² I + s sᵀ, w being its width and s half of its strand. Of its image's ellipse, Uᵀ U is
// the inverse of the covariance.
#ifndef NPCR_GAUSSIAN_H
#define NPCR_GAUSSIAN_H

#include "ellipse.h"

namespace npcr {

constexpr int kCameraGrads = 21;         // cam_to_world's upper three rows, then the intrinsics
constexpr float kMaxRadius = 12;         // of an ellipse: beyond, nobody sees it, and power_of_two gives anything
constexpr float kBorder = 0.15f;         // of the image, beyond which a projection's slope is no longer followed

template <class F>
struct Vec3 {
    F x, y, z;
};
template <class A, class B>
NPCR_HD auto operator+(const Vec3<A>& a, const Vec3<B>& b) -> Vec3<decltype(a.x + b.x)> {
    return {a.x + b.x, a.y + b.y, a.z + b.z};
}
template <class A, class B>
NPCR_HD auto operator-(const Vec3<A>& a, const Vec3<B>& b) -> Vec3<decltype(a.x - b.x)> {
    return {a.x - b.x, a.y - b.y, a.z - b.z};
}
template <class A, class B>
NPCR_HD auto operator*(const A& a, const Vec3<B>& b) -> Vec3<decltype(a * b.x)> {
    return {a * b.x, a * b.y, a * b.z};
}
template <class A, class B>
NPCR_HD auto dot(const Vec3<A>& a, const Vec3<B>& b) -> decltype(a.x * b.x) {
    return (a.x * b.x + a.y * b.y) + a.z * b.z;
}
template <class F>
NPCR_HD Vec3<F> cross(const Vec3<F>& a, const Vec3<F>& b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
NPCR_HD Vec3<float> load3(const float* from) { return {from[0], from[1], from[2]}; }
NPCR_HD void store3(float* to, const Vec3<float>& a) { to[0] = a.x, to[1] = a.y, to[2] = a.z; }

template <class F>
using MaskOf = decltype(F{} < F{});
NPCR_HD float root(float a) { return sqrtf(a); }
template <class F>
NPCR_HD F root(const F& a) {
    F result;
    for (unsigned lane = 0; lane < sizeof(F) / sizeof(float); ++lane) result[lane] = sqrtf(a[lane]);
    return result;
}
template <class F>
NPCR_HD F magnitude(const F& a) { return a < 0 ? -a : a; }
template <class F>
NPCR_HD MaskOf<F> finite(const F& a) { return a - a == 0; }

// The natural logarithm of a normal positive number, to about 2e-7 of it or of 1.
template <class F>
NPCR_HD F logarithm(const F& a) {
    using I = typename IntegersOf<F>::Type;
    I bits, exponent_bits;
    memcpy(&bits, &a, sizeof bits);
    const I shifted = bits - 0x3f3504f3u;  // of the root of 1/2: the rest lies between that and the root of 2
    bits = (shifted & 0x007fffffu) + 0x3f3504f3u;
    exponent_bits = (((shifted >> 23) + 0x100u) & 0x1ffu) | 0x4b000000u;  // 2^23 + exponent + 256
    F rest, exponent;
    memcpy(&rest, &bits, sizeof rest);
    memcpy(&exponent, &exponent_bits, sizeof exponent);
    exponent = exponent - 8388864.0f;
    const F ratio = (rest - 1) / (rest + 1), square = ratio * ratio;
    const F series = ((square * 0.14285714f + 0.2f) * square + 0.33333333f) * square + 1;
    return exponent * 0.69314718f + 2 * ratio * series;
}

struct GaussianCamera {
    Vec3<float> right, down, forward;  // of the camera, world axes: the columns of cam_to_world
    Vec3<float> position;
    Vec3<float> row_u, row_v, row_w;  // of the intrinsics
    float width, height;
};

NPCR_HD GaussianCamera load_camera(const float* pose, const float* intrinsics, int64_t width, int64_t height) {
    return {{pose[0], pose[4], pose[8]}, {pose[1], pose[5], pose[9]}, {pose[2], pose[6], pose[10]},
            {pose[3], pose[7], pose[11]}, load3(intrinsics), load3(intrinsics + 3), load3(intrinsics + 6),
            static_cast<float>(width), static_cast<float>(height)};
}

template <class F>
NPCR_HD Vec3<F> to_camera(const GaussianCamera& camera, const Vec3<F>& a) {
    return {dot(camera.right, a), dot(camera.down, a), dot(camera.forward, a)};
}
template <class F>
NPCR_HD Vec3<F> to_world(const GaussianCamera& camera, const Vec3<F>& a) {
    return a.x * camera.right + a.y * camera.down + a.z * camera.forward;
}

// What projecting one Gaussian computes on the way, of which its gradient needs most.
template <class F>
struct Projection {
    Vec3<F> offset, strand_world;     // from the camera, world axes
    Vec3<F> at, strand;               // camera axes
    F u, v, w;                 // pixels, and what their homogeneous coordinates are divided by
    MaskOf<F> follows_u, follows_v;     // the slope is that at (u, v), not at the border
    F slope_u, slope_v;        // where it is taken
    Vec3<F> du, dv;                   // gradients of u and v by the place
    F tu, tv;                  // the strand in the image
    F variance, uu, uv, vv;    // w², and the products of du and dv
    F area, across;            // |du x dv|², |tu dv - tv du|²
    F sharp, trace;            // determinant and trace of the covariance, unfiltered
    F cov_uv, cov_vv, det;     // the covariance, filtered
    F root_vv, root_det;       // 1 / sqrt of these
    F fading;                  // of the opacity, as much as the filter widens
    MaskOf<F> visible;
};

// A NaN becomes a border.
template <class F>
NPCR_HD F clamp_slope(const F& u, float side) {
    const F low = F{} + (-kBorder * side - 0.5f), high = F{} + ((1 + kBorder) * side - 0.5f), below = u < high ? u : high;
    return below > low ? below : low;
}

template <class F>
NPCR_HD Projection<F> project_gaussian(const GaussianCamera& camera, const Vec3<F>& mean, const Vec3<F>& strand,
                                       const F& width, const F& opacity, float filter) {
    Projection<F> p;
    p.offset = mean - camera.position;
    p.strand_world = strand;
    p.at = to_camera(camera, p.offset);
    p.strand = to_camera(camera, strand);
    p.w = dot(camera.row_w, p.at);
    const F inverse = 1 / p.w;
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
    const Vec3<F> normal = cross(p.du, p.dv), across = p.tu * p.dv - p.tv * p.du;
    p.area = dot(normal, normal);
    p.across = dot(across, across);
    p.sharp = p.variance * (p.variance * p.area + p.across);
    p.trace = p.variance * (p.uu + p.vv) + (p.tu * p.tu + p.tv * p.tv);
    p.cov_uv = p.variance * p.uv + p.tu * p.tv;
    p.cov_vv = (p.variance * p.vv + p.tv * p.tv) + filter;
    p.det = (p.sharp + filter * p.trace) + filter * filter;
    p.root_vv = 1 / root(p.cov_vv);
    p.root_det = 1 / root(p.det);
    p.fading = root(p.sharp) * p.root_det;
    // Linear projection means nothing for what reaches the camera's plane.
    p.visible = (p.at.z > width + magnitude(p.strand.z)) & (width >= 0) & (opacity > 0) & finite(p.u) & finite(p.v) &
                finite(p.det) & (p.det > 0) & finite(p.cov_uv) & finite(opacity) & (p.fading > 0);
    return p;
}

// The ellipse of a Gaussian with the opacity `opacity`; 0 throughout where nothing is drawn.
template <class F>
NPCR_HD void write_ellipse(const Projection<F>& p, const F& opacity, float min_share, F* ellipse) {
    const F share = opacity * p.fading;
    const MaskOf<F> drawn = p.visible & (share > min_share);
    const F radius = root(2 * logarithm(F(drawn ? share / min_share : F{} + 1)));
    const F numbers[kEllipse] = {p.u, p.v, p.cov_vv * p.root_vv * p.root_det, -p.cov_uv * p.root_vv * p.root_det,
                                 p.root_vv, share, p.at.z, radius < kMaxRadius ? radius : F{} + kMaxRadius};
    for (int i = 0; i < kEllipse; ++i) ellipse[i] = drawn ? numbers[i] : F{};
}

template <class F>
struct GaussianGrad {
    Vec3<F> mean, strand;
    F width, opacity;
};

// From the gradient of an ellipse (its first seven numbers), for one that is drawn. Adds to `of_camera`
// (kCameraGrads, or null).
template <class F, class Sum>
NPCR_HD GaussianGrad<F> project_gaussian_grad(const GaussianCamera& camera, const Projection<F>& p, const F& width,
                                              const F& opacity, float filter, const F* grad, Sum* of_camera) {
    // The ellipse's numbers, from covariance and determinant.
    const F rc = p.root_vv, rd = p.root_det;
    const F of_cov_uv = -grad[3] * rc * rd;
    F of_cov_vv = 0.5f * rc * (grad[2] * rd + rc * rc * (p.cov_uv * rd * grad[3] - grad[4]));
    F of_det = 0.5f * rd * rd * rd * (p.cov_uv * rc * grad[3] - grad[2] / rc);
    const F of_fading = 0.5f * grad[5] * opacity * p.fading;
    of_det -= of_fading / p.det;
    const F of_sharp = of_fading / p.sharp + of_det, of_trace = filter * of_det;
    of_cov_vv += of_trace;  // of both, what is common: variance vv + tv²

    // Covariance and determinant, from the slopes and the strand's image.
    const F v = p.variance;
    const F of_variance = (2 * v * p.area + p.across) * of_sharp + p.uu * of_trace + p.vv * of_cov_vv +
                          p.uv * of_cov_uv;
    const F of_uu = v * (v * p.vv + p.tv * p.tv) * of_sharp + v * of_trace;
    const F of_vv = v * (v * p.uu + p.tu * p.tu) * of_sharp + v * of_cov_vv;
    const F of_uv = -2 * v * (v * p.uv + p.tu * p.tv) * of_sharp + v * of_cov_uv;
    const F of_tu = 2 * v * (p.tu * p.vv - p.tv * p.uv) * of_sharp + 2 * p.tu * of_trace + p.tv * of_cov_uv;
    const F of_tv = 2 * v * (p.tv * p.uu - p.tu * p.uv) * of_sharp + 2 * p.tv * of_cov_vv + p.tu * of_cov_uv;
    const Vec3<F> of_du = 2 * of_uu * p.du + of_uv * p.dv + of_tu * p.strand;
    const Vec3<F> of_dv = 2 * of_vv * p.dv + of_uv * p.du + of_tv * p.strand;
    const Vec3<F> of_strand = of_tu * p.du + of_tv * p.dv;

    // Slopes and pixels, from the place and the intrinsics.
    const F inverse = 1 / p.w;
    const F of_u = grad[0] - (p.follows_u ? inverse * dot(of_du, camera.row_w) : F{});
    const F of_v = grad[1] - (p.follows_v ? inverse * dot(of_dv, camera.row_w) : F{});
    const F of_w = -inverse * (((of_u * p.u + of_v * p.v) + dot(of_du, p.du)) + dot(of_dv, p.dv));
    const Vec3<F> of_at = inverse * of_u * camera.row_u + inverse * of_v * camera.row_v + of_w * camera.row_w +
                          Vec3<F>{F{}, F{}, grad[6]};
    if (of_camera) {
        const Vec3<F> row_u = inverse * (of_u * p.at + of_du), row_v = inverse * (of_v * p.at + of_dv);
        const Vec3<F> row_w = of_w * p.at - inverse * (p.slope_u * of_du + p.slope_v * of_dv);
        const Vec3<F> of_position = to_world(camera, of_at);
        const F place[3] = {of_at.x, of_at.y, of_at.z}, along[3] = {of_strand.x, of_strand.y, of_strand.z};
        const F offset[3] = {p.offset.x, p.offset.y, p.offset.z};
        const F strand[3] = {p.strand_world.x, p.strand_world.y, p.strand_world.z};
        const F position[3] = {-of_position.x, -of_position.y, -of_position.z};
        for (int row = 0; row < 3; ++row) {
            for (int column = 0; column < 3; ++column) {
                of_camera[4 * row + column] += place[column] * offset[row] + along[column] * strand[row];
            }
            of_camera[4 * row + 3] += position[row];
        }
        const F rows[9] = {row_u.x, row_u.y, row_u.z, row_v.x, row_v.y, row_v.z, row_w.x, row_w.y, row_w.z};
        for (int i = 0; i < 9; ++i) of_camera[12 + i] += rows[i];
    }
    return {to_world(camera, of_at), to_world(camera, of_strand), 2 * width * of_variance, grad[5] * p.fading};
}

}  // namespace npcr

#endif
