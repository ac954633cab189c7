// SPDX-License-Identifier: Apache-2.0
#ifndef NPCR_TARGET_CLONES_H
#define NPCR_TARGET_CLONES_H

// Copies of a function for newer processors; the loader chooses. Needs glibc's indirect functions.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute) && !defined(NPCR_NO_TARGET_CLONES)
#if __has_attribute(target_clones)
#define NPCR_TARGET_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#endif
#ifndef NPCR_TARGET_CLONES
#define NPCR_TARGET_CLONES
#endif

#endif
