/* What the C files of this folder share. The interface is C's alone: ctypes calls it, and lets go of the GIL. */
#ifndef TARMAC_NATIVE_H
#define TARMAC_NATIVE_H

#include <stdint.h>

#define TARMAC_EXPORT __attribute__((visibility("default")))

/* Of the functions' arguments; `pipeline/native/__init__.py` has the same number. Both grow when an argument
   changes or a function comes. */
#define TARMAC_INTERFACE 3

/* A function with this before it is compiled twice, and the processor decides at the first call which one runs. Where
   that is not to be had the compiler's default serves: SSE2 on x86-64, NEON on 64-bit ARM. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define TARMAC_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define TARMAC_CLONES
#endif

#endif
