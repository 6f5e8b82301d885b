/* RMSNorm over rows, one pass over memory each way. See reference.py for the meaning. */
#include "../native.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    const void *x, *weight, *gradient; /* gradient: of the output */
    void *out;                         /* the output, or x's gradient */
    float *inverse, *partials;         /* [rows] 1 / rms; [chunks, width] the weight's gradient */
    int64_t x_type, weight_type, gradient_type, rows, width;
    float eps;
} Norm;

static void forward_chunk(void *arguments, int64_t chunk) {
    const Norm *norm = arguments;
    int64_t width = norm->width;
    float *room = malloc(3 * (size_t)width * sizeof *room);
    const float *weight = read_row(norm->weight, norm->weight_type, 0, width, room);
    for (int64_t row = chunk * CHUNK_ROWS; row < chunk_end(chunk, CHUNK_ROWS, norm->rows); row++) {
        const float *x = read_row(norm->x, norm->x_type, row * width, width, room + width);
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
        norm->inverse[row] = inverse;
    }
    free(room);
}

static void backward_chunk(void *arguments, int64_t chunk) {
    const Norm *norm = arguments;
    int64_t width = norm->width;
    float *room = malloc(5 * (size_t)width * sizeof *room);
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
        write_row(norm->out, norm->x_type, row * width, width, of_x);
    }
    free(room);
}

void rms_norm_forward(const void *x, int64_t x_type, const void *weight, int64_t weight_type, int64_t rows, int64_t width,
                      float eps, void *out, float *inverse) {
    Norm norm = {.x = x, .weight = weight, .out = out, .inverse = inverse, .x_type = x_type,
                 .weight_type = weight_type, .rows = rows, .width = width, .eps = eps};
    for_chunks(forward_chunk, &norm, chunks_of(rows, CHUNK_ROWS), rows * width);
}

/* of_weight: [width]. */
void rms_norm_backward(const void *gradient, int64_t gradient_type, const void *x, int64_t x_type, const void *weight,
                       int64_t weight_type, float *inverse, int64_t rows, int64_t width, void *of_x,
                       float *of_weight) {
    int64_t chunks = chunks_of(rows, CHUNK_ROWS);
    float *partials = malloc((size_t)(chunks * width) * sizeof *partials);
    Norm norm = {.x = x, .weight = weight, .gradient = gradient, .out = of_x, .inverse = inverse,
                 .partials = partials, .x_type = x_type, .weight_type = weight_type, .gradient_type = gradient_type,
                 .rows = rows, .width = width};
    for_chunks(backward_chunk, &norm, chunks, rows * width);
    sum_partials(partials, chunks, width, of_weight);
    free(partials);
}
