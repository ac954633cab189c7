// SPDX-License-Identifier: Apache-2.0
// What this processor can do beyond the least of its kind. target_clones.h is for functions that the loader chooses; its
// copies have no fused multiply-add, since a copy is named by one instruction set.
#ifndef NPCR_PROCESSOR_H
#define NPCR_PROCESSOR_H

#ifndef NPCR_MOST_LANES
#define NPCR_MOST_LANES 16  // fewer in tests, to run what older processors run
#endif

#if defined(__x86_64__)
inline bool npcr_use_avx512() {
    static const bool has = NPCR_MOST_LANES >= 16 && __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("fma");
    return has;
}
inline bool npcr_use_avx2() {
    static const bool has = NPCR_MOST_LANES >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return has;
}
// Defines the function NAME_here, which runs NAME, forced inline into one function for each instruction set.
#define NPCR_WITH_AVX2(NAME, PARAMETERS, ARGUMENTS)                                            \
    __attribute__((target("avx2,fma"))) void NAME##_avx2 PARAMETERS { NAME ARGUMENTS; }        \
    void NAME##_any PARAMETERS { NAME ARGUMENTS; }                                             \
    void NAME##_here PARAMETERS {                                                              \
        if (npcr_use_avx2()) return NAME##_avx2 ARGUMENTS;                                     \
        NAME##_any ARGUMENTS;                                                                  \
    }
#else
#define NPCR_WITH_AVX2(NAME, PARAMETERS, ARGUMENTS) \
    void NAME##_here PARAMETERS { NAME ARGUMENTS; }
#endif

#endif
