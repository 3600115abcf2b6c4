/* What the kernels for raw pixels share: writing rows of a batch, past the cache where it is large, on some threads. */
#ifndef TARMAC_PIXELS_H
#define TARMAC_PIXELS_H

#include <pthread.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))
/* A batch from this size on is written past the cache. */
#define BYPASS_BYTES (8 << 20)
#define MAX_THREADS 64

/* Images first to end - 1, of one thread. */
struct part {
    const void *all;
    int64_t first, end;
    int failed;
};

static inline int may_bypass(const void *out, int64_t row_bytes, int64_t total_bytes) {
#ifdef __SSE2__
    return total_bytes >= BYPASS_BYTES && row_bytes % 16 == 0 && (uintptr_t)out % 16 == 0;
#else
    (void)out, (void)row_bytes, (void)total_bytes;
    return 0;
#endif
}

/* Copies bytes, a multiple of 16 to a multiple of 16 where the cache is bypassed. */
ALWAYS_INLINE void copy(uint8_t *out, const uint8_t *in, int64_t num_bytes, int bypass) {
#ifdef __SSE2__
    if (bypass) {
        for (int64_t at = 0; at < num_bytes; at += 16)
            _mm_stream_si128((__m128i *)(out + at), _mm_loadu_si128((const __m128i *)(in + at)));
        return;
    }
#endif
    (void)bypass;
    memcpy(out, in, (size_t)num_bytes);
}

static inline void finish_bypass(int bypass) {
#ifdef __SSE2__
    if (bypass)
        _mm_sfence();
#endif
    (void)bypass;
}

/* Where pixels have 16 bits: from a table of (channels, 256). */
ALWAYS_INLINE void look_up(uint16_t *restrict out, const uint8_t *restrict in, int64_t width, int64_t channels,
                           const uint16_t *restrict table) {
    for (int64_t x = 0; x < width; x++)
        for (int64_t c = 0; c < channels; c++)
            out[x * channels + c] = table[c * 256 + in[x * channels + c]];
}

/* A true division, not a product with 1/std: the same floats as torch's, bit for bit. */
ALWAYS_INLINE void normalise(float *restrict out, const uint8_t *restrict in, int64_t num_values,
                             const float *restrict mean, const float *restrict std) {
    for (int64_t i = 0; i < num_values; i++)
        out[i] = ((float)in[i] - mean[i]) / std[i];
}

/* Runs `work` on parts of all images, on this thread and others; returns 0, or -1 where a part failed. */
static inline int run_parts(void *(*work)(void *), const void *all, int64_t num_images, int64_t num_threads) {
    struct part parts[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    int started[MAX_THREADS] = {0}, failed = 0;
    const int64_t num_parts = num_threads < 1 ? 1 : num_threads > MAX_THREADS ? MAX_THREADS : num_threads;
    for (int64_t k = num_parts - 1; k >= 0; k--) {
        parts[k] = (struct part){all, k * num_images / num_parts, (k + 1) * num_images / num_parts, 0};
        started[k] = k > 0 && pthread_create(&threads[k], NULL, work, &parts[k]) == 0;
        if (!started[k])
            work(&parts[k]);
    }
    for (int64_t k = 0; k < num_parts; k++) {
        if (started[k])
            pthread_join(threads[k], NULL);
        failed |= parts[k].failed;
    }
    return failed ? -1 : 0;
}

#endif
