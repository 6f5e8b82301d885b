/* RMSNorm over a head and the rotary turn, one pass over memory each way. See reference.py for the meaning.
   Letters: B rows of tokens, S tokens of a row, H heads, D head size. */
#include "../native.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    const void *data;
    int64_t type, of_batch, of_token, of_head; /* elements from one to the next; those of a head are side by side */
} Heads;

typedef struct {
    Heads x, gradient;                  /* gradient: of the output */
    const void *weight, *cosine, *sine; /* [D], NULL for no norm; [B, S, D], or [1, S, D] for all rows */
    void *out;                          /* [B, S, H, D] the output, or x's gradient */
    float *inverse, *partials;          /* [B, S, H] 1 / rms, NULL if not wanted; [chunks, D] the weight's gradient */
    int64_t weight_type, angle_type, angles_of_batch, rows, tokens, heads, size; /* rows: B * S */
    float eps;
} NormRotary;

/* What a chunk needs beside its rows; the fields after `room` point into it or into the tensors. */
typedef struct {
    float *room, *x_room, *gradient_room, *out_room, *turned;
    const float *weight, *cosine, *sine;
} Scratch;

static Scratch scratch_for(const NormRotary *op) {
    int64_t size = op->size;
    float *room = malloc(7 * (size_t)size * sizeof *room);
    Scratch scratch = {.room = room, .x_room = room + 3 * size, .gradient_room = room + 4 * size,
                       .out_room = room + 5 * size, .turned = room + 6 * size, .weight = room};
    if (op->weight)
        scratch.weight = read_row(op->weight, op->weight_type, 0, size, room);
    else
        for (int64_t i = 0; i < size; i++)
            room[i] = 1;
    return scratch;
}

static void read_angles(const NormRotary *op, int64_t row, Scratch *scratch) {
    int64_t size = op->size, at = row / op->tokens * op->angles_of_batch + row % op->tokens * size;
    scratch->cosine = read_row(op->cosine, op->angle_type, at, size, scratch->room + size);
    scratch->sine = read_row(op->sine, op->angle_type, at, size, scratch->room + 2 * size);
}

static inline const float *read_head(const Heads *heads, const NormRotary *op, int64_t row, int64_t head, float *room) {
    int64_t batch = row / op->tokens, token = row % op->tokens;
    int64_t at = batch * heads->of_batch + token * heads->of_token + head * heads->of_head;
    return read_row(heads->data, heads->type, at, op->size, room);
}

static void forward_head(const NormRotary *op, const Scratch *scratch, int64_t row, int64_t head) {
    int64_t size = op->size, half = size / 2, number = row * op->heads + head;
    const float *x = read_head(&op->x, op, row, head, scratch->x_room);
    const float *weight = scratch->weight, *cosine = scratch->cosine, *sine = scratch->sine;
    float *out = row_to_write(op->out, op->x.type, number * size, scratch->out_room);
    float inverse = 1;
    if (op->weight) {
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < size; i++)
            squares += x[i] * x[i];
        inverse = 1 / sqrtf(squares / (float)size + op->eps);
        if (op->inverse)
            op->inverse[number] = inverse;
    }
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float left = x[i] * inverse * weight[i], right = x[i + half] * inverse * weight[i + half];
        out[i] = left * cosine[i] - right * sine[i];
        out[i + half] = right * cosine[i + half] + left * sine[i + half];
    }
    write_row(op->out, op->x.type, number * size, size, out);
}

/* Adds to of_weight ([D]) what the head gives to the weight's gradient. */
static void backward_head(const NormRotary *op, const Scratch *scratch, int64_t row, int64_t head, float *of_weight) {
    int64_t size = op->size, half = size / 2, number = row * op->heads + head;
    const float *gradient = read_head(&op->gradient, op, row, head, scratch->gradient_room);
    const float *weight = scratch->weight, *cosine = scratch->cosine, *sine = scratch->sine;
    float *out = row_to_write(op->out, op->x.type, number * size, scratch->out_room);
    float *turned = op->weight ? scratch->turned : out;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) { /* the turn's transpose */
        turned[i] = gradient[i] * cosine[i] + gradient[i + half] * sine[i + half];
        turned[i + half] = gradient[i + half] * cosine[i + half] - gradient[i] * sine[i];
    }
    if (op->weight) {
        const float *x = read_head(&op->x, op, row, head, scratch->x_room);
        float inverse = op->inverse[number], dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < size; i++) {
            of_weight[i] += turned[i] * x[i] * inverse;
            dot += turned[i] * weight[i] * x[i];
        }
        float pull = dot * inverse * inverse / (float)size;
#pragma omp simd
        for (int64_t i = 0; i < size; i++)
            out[i] = inverse * (turned[i] * weight[i] - x[i] * pull);
    }
    write_row(op->out, op->x.type, number * size, size, out);
}

static void forward_chunk(void *arguments, int64_t chunk) {
    const NormRotary *op = arguments;
    Scratch scratch = scratch_for(op);
    for (int64_t row = chunk * CHUNK_ROWS; row < chunk_end(chunk, CHUNK_ROWS, op->rows); row++) {
        read_angles(op, row, &scratch);
        for (int64_t head = 0; head < op->heads; head++)
            forward_head(op, &scratch, row, head);
    }
    free(scratch.room);
}

static void backward_chunk(void *arguments, int64_t chunk) {
    const NormRotary *op = arguments;
    Scratch scratch = scratch_for(op);
    float *of_weight = op->weight ? op->partials + chunk * op->size : NULL;
    if (of_weight)
        memset(of_weight, 0, (size_t)op->size * sizeof *of_weight);
    for (int64_t row = chunk * CHUNK_ROWS; row < chunk_end(chunk, CHUNK_ROWS, op->rows); row++) {
        read_angles(op, row, &scratch);
        for (int64_t head = 0; head < op->heads; head++)
            backward_head(op, &scratch, row, head, of_weight);
    }
    free(scratch.room);
}

/* x_batch, x_token, x_head: elements from one batch row, token and head to the next. */
void norm_rotary_forward(const void *x, int64_t x_type, int64_t x_batch, int64_t x_token, int64_t x_head,
                         const void *weight, int64_t weight_type, const void *cosine, const void *sine,
                         int64_t angle_type, int64_t angles_of_batch, int64_t rows, int64_t tokens, int64_t heads,
                         int64_t size, float eps, void *out, float *inverse) {
    NormRotary op = {.x = {x, x_type, x_batch, x_token, x_head}, .weight = weight, .weight_type = weight_type,
                     .cosine = cosine, .sine = sine, .angle_type = angle_type, .angles_of_batch = angles_of_batch,
                     .rows = rows, .tokens = tokens, .heads = heads, .size = size, .eps = eps, .out = out,
                     .inverse = inverse};
    for_chunks(forward_chunk, &op, chunks_of(rows, CHUNK_ROWS), rows * heads * size);
}

/* of_weight: [D]; NULL without a norm. */
void norm_rotary_backward(const void *gradient, int64_t gradient_type, int64_t gradient_batch, int64_t gradient_token,
                          int64_t gradient_head, const void *x, int64_t x_type, int64_t x_batch, int64_t x_token,
                          int64_t x_head, const void *weight, int64_t weight_type, const void *cosine,
                          const void *sine, int64_t angle_type, int64_t angles_of_batch, int64_t rows, int64_t tokens,
                          int64_t heads, int64_t size, float *inverse, void *of_x, float *of_weight) {
    int64_t chunks = chunks_of(rows, CHUNK_ROWS);
    float *partials = weight ? malloc((size_t)(chunks * size) * sizeof *partials) : NULL;
    NormRotary op = {.x = {x, x_type, x_batch, x_token, x_head},
                     .gradient = {gradient, gradient_type, gradient_batch, gradient_token, gradient_head},
                     .weight = weight, .weight_type = weight_type, .cosine = cosine, .sine = sine,
                     .angle_type = angle_type, .angles_of_batch = angles_of_batch, .rows = rows, .tokens = tokens,
                     .heads = heads, .size = size, .out = of_x, .inverse = inverse, .partials = partials};
    for_chunks(backward_chunk, &op, chunks, rows * heads * size);
    if (weight)
        sum_partials(partials, chunks, size, of_weight);
    free(partials);
}
