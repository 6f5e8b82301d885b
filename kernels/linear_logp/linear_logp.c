/* Passes over a chunk of logits, each one over memory. See chunked.py for what they are part of. */
#include "../attention.h"

enum { PIECE = 1024 }; /* Logits of a row at a time: the scratch stays in the first-level cache. */

typedef struct {
    const void *logits; /* [rows, width] */
    void *out;
    const float *shift, *factor;
    float *peak, *total, *moment;
    int64_t type, rows, width;
} Logits;

static int64_t lines_of(int64_t width) { return width < CHUNK_ELEMENTS ? CHUNK_ELEMENTS / width : 1; }

static void sums_of_row(const Logits *op, int64_t row) {
    float room[PIECE], lanes[LANES], totals[LANES] = {0}, moments[LANES] = {0}, peak = -INFINITY;
    for (int l = 0; l < LANES; l++)
        lanes[l] = -INFINITY;
    for (int64_t at = 0; at < op->width; at += PIECE) {
        int64_t n = chunk_end(at / PIECE, PIECE, op->width) - at, whole = n / LANES * LANES;
        const float *logit = read_row(op->logits, op->type, row * op->width + at, n, room);
        for (int64_t i = 0; i < whole; i += LANES)
#pragma omp simd
            for (int l = 0; l < LANES; l++)
                lanes[l] = logit[i + l] > lanes[l] ? logit[i + l] : lanes[l];
        for (int64_t i = whole; i < n; i++)
            peak = logit[i] > peak ? logit[i] : peak;
    }
    for (int l = 0; l < LANES; l++)
        peak = lanes[l] > peak ? lanes[l] : peak;
    float total = 0, moment = 0;
    for (int64_t at = 0; at < op->width; at += PIECE) {
        int64_t n = chunk_end(at / PIECE, PIECE, op->width) - at, whole = n / LANES * LANES;
        const float *logit = read_row(op->logits, op->type, row * op->width + at, n, room);
        for (int64_t i = 0; i < whole; i += LANES)
#pragma omp simd
            for (int l = 0; l < LANES; l++) {
                float lag = at_least(logit[i + l] - peak), weight = exponential(lag);
                totals[l] += weight;
                moments[l] += lag * weight;
            }
        for (int64_t i = whole; i < n; i++) {
            float lag = at_least(logit[i] - peak), weight = exponential(lag);
            total += weight;
            moment += lag * weight;
        }
    }
    op->peak[row] = peak;
    op->total[row] = total + sum_of(totals);
    op->moment[row] = moment + sum_of(moments);
}

static void sums_chunk(void *arguments, int64_t chunk) {
    const Logits *op = arguments;
    int64_t lines = lines_of(op->width), end = chunk_end(chunk, lines, op->rows);
    for (int64_t row = chunk * lines; row < end; row++)
        sums_of_row(op, row);
}

static void shares_chunk(void *arguments, int64_t chunk) {
    const Logits *op = arguments;
    float read_room[PIECE], write_room[PIECE];
    int64_t lines = lines_of(op->width), end = chunk_end(chunk, lines, op->rows);
    for (int64_t row = chunk * lines; row < end; row++)
        for (int64_t at = 0; at < op->width; at += PIECE) {
            int64_t n = chunk_end(at / PIECE, PIECE, op->width) - at, place = row * op->width + at;
            float shift = op->shift[row], factor = op->factor[row];
            const float *logit = read_row(op->logits, op->type, place, n, read_room);
            float *out = row_to_write(op->out, op->type, place, write_room);
#pragma omp simd simdlen(16)
            for (int64_t i = 0; i < n; i++)
                out[i] = factor * exponential(at_least(logit[i] - shift));
            write_row(op->out, op->type, place, n, out);
        }
}

/* Of every row the maximum, the sum of exp(x - maximum) and the sum of (x - maximum) exp(x - maximum). */
void logit_sums(const void *logits, int64_t type, int64_t rows, int64_t width, float *peak, float *total,
                float *moment) {
    Logits op = {.logits = logits, .type = type, .rows = rows, .width = width, .peak = peak, .total = total,
                 .moment = moment};
    for_chunks(sums_chunk, &op, chunks_of(rows, lines_of(width)), rows * width);
}

/* factor * exp(logits - shift), row by row; `out` has the logits' type and may be the logits. No logit is above its
   row's shift by more than a rounding. */
void logit_shares(const void *logits, int64_t type, int64_t rows, int64_t width, const float *shift,
                  const float *factor, void *out) {
    Logits op = {.logits = logits, .type = type, .rows = rows, .width = width, .shift = shift, .factor = factor,
                 .out = out};
    for_chunks(shares_chunk, &op, chunks_of(rows, lines_of(width)), rows * width);
}
