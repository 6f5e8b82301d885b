/* silu(gate) * up, one pass over memory each way. See reference.py for the meaning. */
#include "../native.h"

#include <math.h>

enum { BLOCK = 512 }; /* Elements at a time: the scratch rows stay in the first-level cache. */

typedef struct {
    const void *gate, *up, *gradient; /* gradient: of the output */
    void *out, *of_gate, *of_up;
    int64_t type, gradient_type, elements;
} Swiglu;

/* x, held to [-87, 87], where exp(x) is a normal number. On the bits, because compilers turn the comparison of floats,
   which must mind NaN, into several instructions. A NaN becomes 87; the gate that multiplies the result brings it back. */
static inline float held(float x) {
    const int32_t limit = 0x42ae0000; /* 87 */
    int32_t bits, size;
    memcpy(&bits, &x, sizeof bits);
    size = bits & 0x7fffffff;
    bits = (size < limit ? size : limit) | (bits & INT32_MIN);
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float sigmoid(float x) { return 1 / (1 + exponential(held(-x))); }

static void forward_chunk(void *arguments, int64_t chunk) {
    const Swiglu *op = arguments;
    float room[3][BLOCK];
    int64_t end = chunk_end(chunk, CHUNK_ELEMENTS, op->elements);
    for (int64_t at = chunk * CHUNK_ELEMENTS; at < end; at += BLOCK) {
        int64_t n = end - at < BLOCK ? end - at : BLOCK;
        const float *gate = read_row(op->gate, op->type, at, n, room[0]);
        const float *up = read_row(op->up, op->type, at, n, room[1]);
        float *out = row_to_write(op->out, op->type, at, room[2]);
#pragma omp simd simdlen(16)
        for (int64_t i = 0; i < n; i++)
            out[i] = gate[i] * sigmoid(gate[i]) * up[i];
        write_row(op->out, op->type, at, n, out);
    }
}

static void backward_chunk(void *arguments, int64_t chunk) {
    const Swiglu *op = arguments;
    float room[5][BLOCK];
    int64_t end = chunk_end(chunk, CHUNK_ELEMENTS, op->elements);
    for (int64_t at = chunk * CHUNK_ELEMENTS; at < end; at += BLOCK) {
        int64_t n = end - at < BLOCK ? end - at : BLOCK;
        const float *gate = read_row(op->gate, op->type, at, n, room[0]);
        const float *up = read_row(op->up, op->type, at, n, room[1]);
        const float *gradient = read_row(op->gradient, op->gradient_type, at, n, room[2]);
        float *of_gate = row_to_write(op->of_gate, op->type, at, room[3]);
        float *of_up = row_to_write(op->of_up, op->type, at, room[4]);
#pragma omp simd simdlen(16)
        for (int64_t i = 0; i < n; i++) {
            float share = sigmoid(gate[i]);
            float silu = gate[i] * share;
            of_up[i] = gradient[i] * silu;
            of_gate[i] = gradient[i] * up[i] * (share + silu * (1 - share));
        }
        write_row(op->of_gate, op->type, at, n, of_gate);
        write_row(op->of_up, op->type, at, n, of_up);
    }
}

void swiglu_forward(const void *gate, const void *up, int64_t type, int64_t elements, void *out) {
    Swiglu op = {.gate = gate, .up = up, .out = out, .type = type, .elements = elements};
    for_chunks(forward_chunk, &op, chunks_of(elements, CHUNK_ELEMENTS), elements);
}

void swiglu_backward(const void *gradient, int64_t gradient_type, const void *gate, const void *up, int64_t type,
                     int64_t elements, void *of_gate, void *of_up) {
    Swiglu op = {.gate = gate, .up = up, .gradient = gradient, .of_gate = of_gate, .of_up = of_up, .type = type,
                 .gradient_type = gradient_type, .elements = elements};
    for_chunks(backward_chunk, &op, chunks_of(elements, CHUNK_ELEMENTS), elements);
}
