/* What the attention ops share: small matrix products, sums over a row, rows of a head.
   Rows are padded with zeros to a multiple of LANES, so that every loop over one is whole vectors. */
#ifndef RECRL_ATTENTION_H
#define RECRL_ATTENTION_H

#include "native.h"

enum { LANES = 16 }; /* floats side by side */

typedef float Lane __attribute__((vector_size(64), aligned(4), may_alias));

static inline int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

/* A tile of C = A B (+ C): `rows` by `lanes` * LANES. Constants after inlining, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void tile(int rows, int lanes, const float *a, int64_t a_row,
                                                       int64_t a_column, const float *b, int64_t b_row, float *c,
                                                       int64_t c_row, int64_t depth, int add) {
    Lane sum[8][4];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int l = 0; l < lanes; l++)
            sum[r][l] = add ? *(const Lane *)(c + r * c_row + l * LANES) : (Lane){0};
    for (int64_t k = 0; k < depth; k++)
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int l = 0; l < lanes; l++)
                sum[r][l] += a[r * a_row + k * a_column] * *(const Lane *)(b + k * b_row + l * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int l = 0; l < lanes; l++)
            *(Lane *)(c + r * c_row + l * LANES) = sum[r][l];
}

/* All m rows of C, `lanes` * LANES columns of it. Where a tile is narrow it has more rows: a sum waits for the one
   before it, and 8 of them keep a CPU's two multipliers busy meanwhile. */
static inline __attribute__((always_inline)) void strip(int lanes, const float *a, int64_t a_row, int64_t a_column,
                                                        const float *b, int64_t b_row, float *c, int64_t c_row,
                                                        int64_t m, int64_t k, int add) {
    int64_t i = 0;
    for (; lanes < 4 && i + 8 <= m; i += 8)
        tile(8, lanes, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, k, add);
    for (; i + 4 <= m; i += 4)
        tile(4, lanes, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, k, add);
    for (; i < m; i++)
        tile(1, lanes, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, k, add);
}

/* C [m, n] = A [m, k] B [k, n] (+ C); n is a multiple of LANES. */
static inline void multiply(const float *a, int64_t a_row, int64_t a_column, const float *b, int64_t b_row, float *c,
                            int64_t c_row, int64_t m, int64_t k, int64_t n, int add) {
    int64_t j = 0;
    for (; j + 4 * LANES <= n; j += 4 * LANES)
        strip(4, a, a_row, a_column, b + j, b_row, c + j, c_row, m, k, add);
    for (; j + 2 * LANES <= n; j += 2 * LANES)
        strip(2, a, a_row, a_column, b + j, b_row, c + j, c_row, m, k, add);
    for (; j < n; j += LANES)
        strip(1, a, a_row, a_column, b + j, b_row, c + j, c_row, m, k, add);
}

/* By halves: one after the other, every addition would wait for the one before it. */
static inline float sum_of(const float *lanes) {
    float eight[8], four[4];
#pragma omp simd
    for (int l = 0; l < 8; l++)
        eight[l] = lanes[l] + lanes[l + 8];
#pragma omp simd
    for (int l = 0; l < 4; l++)
        four[l] = eight[l] + eight[l + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* n is a multiple of LANES here and below. */
static inline float dot(const float *left, const float *right, int64_t n) {
    Lane lanes = {0};
    for (int64_t i = 0; i < n; i += LANES)
        lanes += *(const Lane *)(left + i) * *(const Lane *)(right + i);
    return sum_of((const float *)&lanes);
}

static inline void add_scaled(float *to, float factor, const float *from, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES)
        *(Lane *)(to + i) += factor * *(const Lane *)(from + i);
}

static inline void scale(float *row, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES)
        *(Lane *)(row + i) *= factor;
}

/* `size` floats times `factor`, padded to `depth`. */
static inline void copy_row(const float *from, int64_t size, int64_t depth, float factor, float *to) {
    int64_t d = 0;
    for (; d + LANES <= size; d += LANES)
        *(Lane *)(to + d) = *(const Lane *)(from + d) * factor;
    for (; d < size; d++)
        to[d] = from[d] * factor;
    for (; d < depth; d++)
        to[d] = 0;
}

/* [count, depth] rows -> [depth, width]; the padding is 0. */
static inline void turn(const float *rows, int64_t count, int64_t depth, int64_t width, float *turned) {
    for (int64_t d = 0; d < depth; d++) {
        for (int64_t i = 0; i < count; i++)
            turned[d * width + i] = rows[i * depth + d];
        for (int64_t i = count; i < width; i++)
            turned[d * width + i] = 0;
    }
}

/* Weights below exp(-87) come out as that: exponential needs a normal number. */
static inline float at_least(float x) { return x < -87 ? -87 : x; }

#endif
