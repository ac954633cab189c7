// SPDX-License-Identifier: Apache-2.0
// Eight numbers at a time on a CPU, in whatever vectors the processor has.
#ifndef NPCR_LANES_H
#define NPCR_LANES_H

#include <stdint.h>

#include "ellipse.h"

// What is compiled for each processor has to be part of one function.
#define NPCR_BODY static inline __attribute__((always_inline))
#define NPCR_LAMBDA __attribute__((always_inline))

namespace npcr {

typedef float Lanes8 __attribute__((vector_size(32)));
typedef uint32_t Words8 __attribute__((vector_size(32)));
template <>
struct IntegersOf<Lanes8> {
    using Type = Words8;
};
constexpr int kLanes = 8;

}  // namespace npcr

#endif
