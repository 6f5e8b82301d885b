/* What the native ops share: rows of either element type as float32, and loops on torch's own threads. */
#ifndef RECRL_NATIVE_H
#define RECRL_NATIVE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { FLOAT32 = 0, BFLOAT16 = 1 }; /* Element types; native.py numbers them alike. */

enum { CHUNK_ROWS = 64, CHUNK_ELEMENTS = 16384 }; /* Work that one thread takes at a time. */

typedef void (*Chunk)(void *arguments, int64_t chunk);

/* Calls body for every chunk from 0 to count - 1, in parallel where `elements` of work are worth it. What a chunk
   computes must not depend on the thread that runs it: results are then the same for any number of threads. */
void for_chunks(Chunk body, void *arguments, int64_t count, int64_t elements);

/* Sums [count, width] partial results over the first axis, in order. */
void sum_partials(const float *partials, int64_t count, int64_t width, float *total);

static inline int64_t chunks_of(int64_t rows, int64_t size) { return (rows + size - 1) / size; }

static inline int64_t chunk_end(int64_t chunk, int64_t size, int64_t rows) {
    int64_t end = (chunk + 1) * size;
    return end < rows ? end : rows;
}

static inline float widened(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* Rounds to the nearest, ties to even; a NaN stays one. */
static inline uint16_t narrowed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (uint16_t)rounded;
}

/* n elements from `at` on, as float32: the data themselves, or widened into `room` ([n]). */
static inline const float *read_row(const void *data, int64_t type, int64_t at, int64_t n, float *room) {
    if (type == FLOAT32)
        return (const float *)data + at;
    const uint16_t *source = (const uint16_t *)data + at;
#pragma omp simd simdlen(16)
    for (int64_t i = 0; i < n; i++)
        room[i] = widened(source[i]);
    return room;
}

/* Where to compute n elements that belong at `at`: in place, or in `room` ([n]) until write_row narrows them. */
static inline float *row_to_write(void *data, int64_t type, int64_t at, float *room) {
    return type == FLOAT32 ? (float *)data + at : room;
}

static inline void write_row(void *data, int64_t type, int64_t at, int64_t n, const float *row) {
    if (type == FLOAT32)
        return;
    uint16_t *target = (uint16_t *)data + at;
#pragma omp simd simdlen(16)
    for (int64_t i = 0; i < n; i++)
        target[i] = narrowed(row[i]);
}

/* exp(x) for |x| <= 87 to a relative 4e-7: 2^n * exp(r), |r| <= ln(2) / 2. Written out because a call into the maths
   library would keep the loop around it from being vectorised. */
static inline float exponential(float x) {
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f; /* ln(2) in two parts, the first with so few bits that n times it is exact */
    r -= n * -2.12194440e-4f;
    float square = r * r; /* Taylor's series to r^6, its terms in pairs so that they don't wait for each other */
    float low = (1 + r) + square * (0.5f + r * 1.66666667e-1f);
    float high = (4.16666667e-2f + r * 8.33333333e-3f) + square * 1.38888889e-3f;
    float series = low + square * square * high;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

#endif
