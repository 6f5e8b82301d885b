/* RMSNorm over rows, one pass over memory each way. See reference.py for the meaning. */
#include "../native.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    const void *x, *added, *weight; /* added: to x before the norm; NULL for nothing */
    const void *gradient, *beside;  /* of the output; of x by another way than the norm, NULL for none */
    void *sum, *out;                /* x + added, if there is any; the output, or x's gradient */
    float *inverse, *partials;      /* [rows] 1 / rms, NULL if not wanted; [chunks, width] the weight's gradient */
    int64_t x_type, added_type, weight_type, gradient_type, beside_type, rows, width;
    float eps;
} Norm;

/* The row that is normed, as float32. Its sum is read as it was written, so that both passes see the same numbers. */
static const float *summed_row(const Norm *norm, int64_t at, float *x_room, float *added_room) {
    int64_t width = norm->width;
    const float *x = read_row(norm->x, norm->x_type, at, width, x_room);
    if (!norm->added)
        return x;
    const float *added = read_row(norm->added, norm->added_type, at, width, added_room);
    float *sum = row_to_write(norm->sum, norm->x_type, at, x_room);
#pragma omp simd
    for (int64_t i = 0; i < width; i++)
        sum[i] = x[i] + added[i];
    write_row(norm->sum, norm->x_type, at, width, sum);
    return read_row(norm->sum, norm->x_type, at, width, x_room);
}

static void forward_chunk(void *arguments, int64_t chunk) {
    const Norm *norm = arguments;
    int64_t width = norm->width;
    float *room = malloc(3 * (size_t)width * sizeof *room);
    const float *weight = read_row(norm->weight, norm->weight_type, 0, width, room);
    for (int64_t row = chunk * CHUNK_ROWS; row < chunk_end(chunk, CHUNK_ROWS, norm->rows); row++) {
        const float *x = summed_row(norm, row * width, room + width, room + 2 * width);
        float *out = row_to_write(norm->out, norm->x_type, row * width, room + 2 * width);
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; i++)
            squares += x[i] * x[i];
        float inverse = 1 / sqrtf(squares / (float)width + norm->eps);
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            out[i] = x[i] * inverse * weight[i];
        write_row(norm->out, norm->x_type, row * width, width, out);
        if (norm->inverse)
            norm->inverse[row] = inverse;
    }
    free(room);
}

static void backward_chunk(void *arguments, int64_t chunk) {
    const Norm *norm = arguments;
    int64_t width = norm->width;
    float *room = malloc(6 * (size_t)width * sizeof *room);
    float *scaled = room + 3 * width, *of_weight = norm->partials + chunk * width;
    const float *weight = read_row(norm->weight, norm->weight_type, 0, width, room);
    memset(of_weight, 0, (size_t)width * sizeof *of_weight);
    for (int64_t row = chunk * CHUNK_ROWS; row < chunk_end(chunk, CHUNK_ROWS, norm->rows); row++) {
        const float *x = read_row(norm->x, norm->x_type, row * width, width, room + width);
        const float *gradient = read_row(norm->gradient, norm->gradient_type, row * width, width, room + 2 * width);
        float *of_x = row_to_write(norm->out, norm->x_type, row * width, room + 4 * width);
        float inverse = norm->inverse[row], dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < width; i++) {
            scaled[i] = gradient[i] * weight[i];
            of_weight[i] += gradient[i] * x[i] * inverse;
            dot += scaled[i] * x[i];
        }
        float pull = dot * inverse * inverse / (float)width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            of_x[i] = inverse * (scaled[i] - x[i] * pull);
        if (norm->beside) {
            const float *beside = read_row(norm->beside, norm->beside_type, row * width, width, room + 5 * width);
#pragma omp simd
            for (int64_t i = 0; i < width; i++)
                of_x[i] += beside[i];
        }
        write_row(norm->out, norm->x_type, row * width, width, of_x);
    }
    free(room);
}

/* added and sum: NULL where nothing is added. x has the type of the sum. */
void rms_norm_forward(const void *x, int64_t x_type, const void *added, int64_t added_type, const void *weight,
                      int64_t weight_type, int64_t rows, int64_t width, float eps, void *sum, void *out,
                      float *inverse) {
    Norm norm = {.x = x, .added = added, .weight = weight, .sum = sum, .out = out, .inverse = inverse,
                 .x_type = x_type, .added_type = added_type, .weight_type = weight_type, .rows = rows, .width = width,
                 .eps = eps};
    for_chunks(forward_chunk, &norm, chunks_of(rows, CHUNK_ROWS), rows * width);
}

/* of_weight: [width]. */
void rms_norm_backward(const void *gradient, int64_t gradient_type, const void *beside, int64_t beside_type,
                       const void *x, int64_t x_type, const void *weight, int64_t weight_type, float *inverse,
                       int64_t rows, int64_t width, void *of_x, float *of_weight) {
    int64_t chunks = chunks_of(rows, CHUNK_ROWS);
    float *partials = malloc((size_t)(chunks * width) * sizeof *partials);
    Norm norm = {.x = x, .weight = weight, .gradient = gradient, .beside = beside, .out = of_x, .inverse = inverse,
                 .partials = partials, .x_type = x_type, .weight_type = weight_type, .gradient_type = gradient_type,
                 .beside_type = beside_type, .rows = rows, .width = width};
    for_chunks(backward_chunk, &norm, chunks, rows * width);
    sum_partials(partials, chunks, width, of_weight);
    free(partials);
}
