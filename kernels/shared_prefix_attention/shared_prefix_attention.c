/* Attention over prompts and their responses on one flat row. See reference.py for the meaning.
   A task is a prompt and a key head: it copies the prompt's keys and values once, walks all queries that see them in
   blocks, and owns all gradients that it writes. The backward pass recomputes the weights from their log-sum-exp.
   Letters: T tokens, H query heads, J key heads, D head size, P tokens of the prompt, R fed tokens of its responses. */
#include "../native.h"

#include <math.h>
#include <stdlib.h>

enum { LANES = 16, QUERIES = 32 }; /* floats side by side; queries of a block */

typedef float Lane __attribute__((vector_size(64), aligned(4), may_alias));

typedef struct {
    const void *data;
    int64_t type, of_token, of_head; /* elements from one to the next; those of a head are side by side */
} Heads;

typedef struct {
    Heads query, key, value, gradient, output;
    const int64_t *prompt_token, *row_token, *first_row; /* [B + 1], [N + 1], [B + 1] */
    int64_t prompts, heads, key_heads, size;
    float scaling;
    void *out, *of_query, *of_key, *of_value; /* contiguous, of query's, key's and value's types */
    float *lse;                               /* [T, H] */
} Attention;

/* What one task holds; every row is padded with zeros to a multiple of LANES. */
typedef struct {
    float *room;
    float *key, *key_turned, *value, *value_turned; /* [P, D], [D, P], [P, D], [D, P] */
    float *of_key, *of_value;                       /* [P, D] */
    float *own_key, *own_value, *of_own_key, *of_own_value; /* [R, D] */
    float *weight, *of_weight;                      /* [QUERIES, P + K] */
    float *query, *gradient, *result;               /* [QUERIES, D] */
    int64_t width, depth, line; /* P and D, padded; floats of a row of weights */
} Task;

/* The queries of one block: their tokens, how much of the prompt each sees, and its own response's first token. */
typedef struct {
    int64_t count, token[QUERIES], seen[QUERIES], own[QUERIES], owned[QUERIES], most;
} Block;

static int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

/* A tile of C = A B (+ C): `rows` by `lanes` * LANES. Constants after inlining, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void tile(int rows, int lanes, const float *a, int64_t a_row,
                                                       int64_t a_column, const float *b, int64_t b_row, float *c,
                                                       int64_t c_row, int64_t depth, int add) {
    Lane sum[4][4];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int l = 0; l < lanes; l++)
            sum[r][l] = add ? *(const Lane *)(c + r * c_row + l * LANES) : (Lane){0};
    for (int64_t k = 0; k < depth; k++)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int l = 0; l < lanes; l++)
                sum[r][l] += a[r * a_row + k * a_column] * *(const Lane *)(b + k * b_row + l * LANES);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int l = 0; l < lanes; l++)
            *(Lane *)(c + r * c_row + l * LANES) = sum[r][l];
}

/* C [m, n] = A [m, k] B [k, n] (+ C); n is a multiple of LANES. */
static void multiply(const float *a, int64_t a_row, int64_t a_column, const float *b, int64_t b_row, float *c,
                     int64_t c_row, int64_t m, int64_t k, int64_t n, int add) {
    for (int64_t j = 0; j < n;) {
        int lanes = n - j >= 4 * LANES ? 4 : n - j >= 2 * LANES ? 2 : 1;
        int64_t i = 0;
        for (; i + 4 <= m; i += 4) {
            const float *left = a + i * a_row;
            float *at = c + i * c_row + j;
            if (lanes == 4)
                tile(4, 4, left, a_row, a_column, b + j, b_row, at, c_row, k, add);
            else if (lanes == 2)
                tile(4, 2, left, a_row, a_column, b + j, b_row, at, c_row, k, add);
            else
                tile(4, 1, left, a_row, a_column, b + j, b_row, at, c_row, k, add);
        }
        for (; i < m; i++) {
            const float *left = a + i * a_row;
            float *at = c + i * c_row + j;
            if (lanes == 4)
                tile(1, 4, left, a_row, a_column, b + j, b_row, at, c_row, k, add);
            else if (lanes == 2)
                tile(1, 2, left, a_row, a_column, b + j, b_row, at, c_row, k, add);
            else
                tile(1, 1, left, a_row, a_column, b + j, b_row, at, c_row, k, add);
        }
        j += lanes * LANES;
    }
}

static inline float dot(const float *left, const float *right, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += left[i] * right[i];
    return sum;
}

static inline void add_scaled(float *to, float factor, const float *from, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        to[i] += factor * from[i];
}

/* Tokens from `first` on of one head, times `factor`, into [count, depth] rows; the padding is 0. */
static void copy_rows(const Heads *heads, int64_t head, int64_t first, int64_t count, int64_t size, int64_t depth,
                      float factor, float *rows) {
    float room[size];
    for (int64_t i = 0; i < count; i++) {
        const float *row =
            read_row(heads->data, heads->type, (first + i) * heads->of_token + head * heads->of_head, size, room);
        float *to = rows + i * depth;
        for (int64_t d = 0; d < size; d++)
            to[d] = row[d] * factor;
        for (int64_t d = size; d < depth; d++)
            to[d] = 0;
    }
}

static void turn(const float *rows, int64_t count, int64_t depth, int64_t width, float *turned) {
    for (int64_t d = 0; d < depth; d++) {
        for (int64_t i = 0; i < count; i++)
            turned[d * width + i] = rows[i * depth + d];
        for (int64_t i = count; i < width; i++)
            turned[d * width + i] = 0;
    }
}

static void write_rows(void *data, int64_t type, int64_t heads, int64_t head, int64_t first, int64_t count,
                       int64_t size, int64_t depth, const float *rows) {
    for (int64_t i = 0; i < count; i++) {
        int64_t at = ((first + i) * heads + head) * size;
        if (type == FLOAT32)
            memcpy((float *)data + at, rows + i * depth, (size_t)size * sizeof *rows);
        else
            write_row(data, type, at, size, rows + i * depth);
    }
}

static int64_t longest_row(const Attention *op, int64_t prompt) {
    int64_t longest = 0;
    for (int64_t row = op->first_row[prompt]; row < op->first_row[prompt + 1]; row++) {
        int64_t length = op->row_token[row + 1] - op->row_token[row];
        longest = length > longest ? length : longest;
    }
    return longest;
}

static float *take(float **room, int64_t count) {
    float *taken = *room;
    *room += count;
    return taken;
}

static Task begin_task(const Attention *op, int64_t prompt, int64_t key_head, int backward) {
    int64_t first = op->prompt_token[prompt], tokens = op->prompt_token[prompt + 1] - first, size = op->size;
    int64_t own_first = op->row_token[op->first_row[prompt]];
    int64_t own = op->row_token[op->first_row[prompt + 1]] - own_first;
    Task task = {.width = padded(tokens), .depth = padded(size)};
    task.line = task.width + padded(longest_row(op, prompt));
    int64_t prompt_floats = task.width * task.depth, own_floats = own * task.depth;
    int64_t total = 6 * prompt_floats + 4 * own_floats + 2 * QUERIES * task.line + 3 * QUERIES * task.depth;
    float *room = task.room = malloc((size_t)(total + LANES) * sizeof *room);
    task.key = take(&room, prompt_floats), task.key_turned = take(&room, prompt_floats);
    task.value = take(&room, prompt_floats), task.value_turned = take(&room, prompt_floats);
    task.of_key = take(&room, prompt_floats), task.of_value = take(&room, prompt_floats);
    task.own_key = take(&room, own_floats), task.own_value = take(&room, own_floats);
    task.of_own_key = take(&room, own_floats), task.of_own_value = take(&room, own_floats);
    task.weight = take(&room, QUERIES * task.line), task.of_weight = take(&room, QUERIES * task.line);
    task.query = take(&room, QUERIES * task.depth), task.gradient = take(&room, QUERIES * task.depth);
    task.result = take(&room, QUERIES * task.depth);
    copy_rows(&op->key, key_head, first, tokens, size, task.depth, 1, task.key);
    copy_rows(&op->value, key_head, first, tokens, size, task.depth, 1, task.value);
    copy_rows(&op->key, key_head, own_first, own, size, task.depth, 1, task.own_key);
    copy_rows(&op->value, key_head, own_first, own, size, task.depth, 1, task.own_value);
    turn(task.key, tokens, task.depth, task.width, task.key_turned);
    if (backward) {
        turn(task.value, tokens, task.depth, task.width, task.value_turned);
        memset(task.of_key, 0, (size_t)(2 * prompt_floats) * sizeof *room);
        memset(task.of_own_key, 0, (size_t)(2 * own_floats) * sizeof *room);
    }
    return task;
}

/* Scores of a block into task->weight: of the prompt in [0, most), of own tokens from `width` on. */
static void score(const Attention *op, const Task *task, const Block *block, int64_t prompt) {
    multiply(task->query, task->depth, 1, task->key_turned, task->width, task->weight, task->line, block->count,
             op->size, padded(block->most), 0);
    int64_t own_first = op->row_token[op->first_row[prompt]];
    for (int64_t i = 0; i < block->count; i++)
        for (int64_t c = 0; c < block->owned[i]; c++)
            task->weight[i * task->line + task->width + c] =
                dot(task->query + i * task->depth, task->own_key + (block->own[i] + c - own_first) * task->depth,
                    task->depth);
}

/* Weights below exp(-87) come out as that: exponential needs a normal number. */
static inline float at_least(float x) { return x < -87 ? -87 : x; }

/* exp(row - base), 0 at the part of the prompt that the query does not see; returns the sum. */
static float exponentials(float *row, int64_t seen, int64_t most, float *own, int64_t owned, float base) {
    float sum = 0;
#pragma omp simd reduction(+ : sum) simdlen(16)
    for (int64_t p = 0; p < seen; p++)
        sum += row[p] = exponential(at_least(row[p] - base));
    for (int64_t p = seen; p < most; p++)
        row[p] = 0;
    for (int64_t c = 0; c < owned; c++)
        sum += own[c] = exponential(at_least(own[c] - base));
    return sum;
}

static void forward_block(const Attention *op, const Task *task, const Block *block, int64_t prompt, int64_t head) {
    int64_t depth = task->depth, own_first = op->row_token[op->first_row[prompt]];
    score(op, task, block, prompt);
    for (int64_t i = 0; i < block->count; i++) {
        float *row = task->weight + i * task->line, *own = row + task->width, largest = -INFINITY;
#pragma omp simd reduction(max : largest)
        for (int64_t p = 0; p < block->seen[i]; p++)
            largest = row[p] > largest ? row[p] : largest;
        for (int64_t c = 0; c < block->owned[i]; c++)
            largest = own[c] > largest ? own[c] : largest;
        float sum = exponentials(row, block->seen[i], block->most, own, block->owned[i], largest), share = 1 / sum;
        op->lse[block->token[i] * op->heads + head] = largest + logf(sum);
        for (int64_t p = 0; p < block->seen[i]; p++)
            row[p] *= share;
        for (int64_t c = 0; c < block->owned[i]; c++)
            own[c] *= share;
    }
    multiply(task->weight, task->line, 1, task->value, depth, task->result, depth, block->count, block->most, depth, 0);
    for (int64_t i = 0; i < block->count; i++) {
        for (int64_t c = 0; c < block->owned[i]; c++)
            add_scaled(task->result + i * depth, task->weight[i * task->line + task->width + c],
                       task->own_value + (block->own[i] + c - own_first) * depth, depth);
        write_rows(op->out, op->query.type, op->heads, head, block->token[i], 1, op->size, depth,
                   task->result + i * depth);
    }
}

static void backward_block(const Attention *op, const Task *task, const Block *block, int64_t prompt, int64_t head) {
    int64_t depth = task->depth, line = task->line, count = block->count, most = block->most;
    int64_t own_first = op->row_token[op->first_row[prompt]];
    float delta[QUERIES];
    for (int64_t i = 0; i < count; i++) {
        copy_rows(&op->gradient, head, block->token[i], 1, op->size, depth, 1, task->gradient + i * depth);
        copy_rows(&op->output, head, block->token[i], 1, op->size, depth, 1, task->result + i * depth);
        delta[i] = dot(task->gradient + i * depth, task->result + i * depth, depth);
    }
    score(op, task, block, prompt);
    multiply(task->gradient, depth, 1, task->value_turned, task->width, task->of_weight, line, count, op->size,
             padded(most), 0);
    for (int64_t i = 0; i < count; i++) {
        float *row = task->weight + i * line, *of_row = task->of_weight + i * line;
        exponentials(row, block->seen[i], most, row + task->width, block->owned[i],
                     op->lse[block->token[i] * op->heads + head]);
#pragma omp simd
        for (int64_t p = 0; p < most; p++)
            of_row[p] = row[p] * (of_row[p] - delta[i]);
    }
    multiply(task->of_weight, line, 1, task->key, depth, task->result, depth, count, most, depth, 0);
    multiply(task->of_weight, 1, line, task->query, depth, task->of_key, depth, most, count, depth, 1);
    multiply(task->weight, 1, line, task->gradient, depth, task->of_value, depth, most, count, depth, 1);
    for (int64_t i = 0; i < count; i++) {
        float *result = task->result + i * depth;
        for (int64_t c = 0; c < block->owned[i]; c++) {
            int64_t at = (block->own[i] + c - own_first) * depth;
            float weight = task->weight[i * line + task->width + c];
            float of_score = weight * (dot(task->gradient + i * depth, task->own_value + at, depth) - delta[i]);
            add_scaled(result, of_score, task->own_key + at, depth);
            add_scaled(task->of_own_key + at, of_score, task->query + i * depth, depth);
            add_scaled(task->of_own_value + at, weight, task->gradient + i * depth, depth);
        }
        for (int64_t d = 0; d < depth; d++)
            result[d] *= op->scaling;
        write_rows(op->of_query, op->query.type, op->heads, head, block->token[i], 1, op->size, depth, result);
    }
}

typedef void (*Body)(const Attention *, const Task *, const Block *, int64_t prompt, int64_t head);

static void add_query(const Attention *op, const Task *task, Block *block, int64_t head, int64_t token, int64_t seen,
                      int64_t own, int64_t owned) {
    int64_t i = block->count++;
    block->token[i] = token, block->seen[i] = seen, block->own[i] = own, block->owned[i] = owned;
    block->most = seen > block->most ? seen : block->most;
    copy_rows(&op->query, head, token, 1, op->size, task->depth, op->scaling, task->query + i * task->depth);
}

static void finish_block(const Attention *op, const Task *task, Block *block, int64_t prompt, int64_t head, Body body) {
    if (block->count)
        body(op, task, block, prompt, head);
    block->count = block->most = 0;
}

/* All queries of a prompt and of its responses, for one query head. */
static void each_block(const Attention *op, const Task *task, int64_t prompt, int64_t head, Body body) {
    Block block = {0};
    int64_t first = op->prompt_token[prompt], tokens = op->prompt_token[prompt + 1] - first;
    for (int64_t i = 0; i < tokens; i++) {
        add_query(op, task, &block, head, first + i, i + 1, 0, 0);
        if (block.count == QUERIES)
            finish_block(op, task, &block, prompt, head, body);
    }
    finish_block(op, task, &block, prompt, head, body);
    for (int64_t row = op->first_row[prompt]; row < op->first_row[prompt + 1]; row++)
        for (int64_t begin = op->row_token[row], token = begin; token < op->row_token[row + 1]; token++) {
            add_query(op, task, &block, head, token, tokens, begin, token - begin + 1);
            if (block.count == QUERIES)
                finish_block(op, task, &block, prompt, head, body);
        }
    finish_block(op, task, &block, prompt, head, body);
}

/* Threads take neighbouring chunks, and prompts often come sorted by length: take them from both ends in turn. */
static int64_t task_of(const Attention *op, int64_t chunk) {
    int64_t last = op->prompts * op->key_heads - 1;
    return chunk % 2 ? last - chunk / 2 : chunk / 2;
}

static void forward_task(void *arguments, int64_t chunk) {
    const Attention *op = arguments;
    int64_t number = task_of(op, chunk), prompt = number / op->key_heads, key_head = number % op->key_heads;
    int64_t share = op->heads / op->key_heads;
    Task task = begin_task(op, prompt, key_head, 0);
    for (int64_t head = key_head * share; head < (key_head + 1) * share; head++)
        each_block(op, &task, prompt, head, forward_block);
    free(task.room);
}

static void backward_task(void *arguments, int64_t chunk) {
    const Attention *op = arguments;
    int64_t number = task_of(op, chunk), prompt = number / op->key_heads, key_head = number % op->key_heads;
    int64_t share = op->heads / op->key_heads, first = op->prompt_token[prompt];
    int64_t tokens = op->prompt_token[prompt + 1] - first, own_first = op->row_token[op->first_row[prompt]];
    int64_t own = op->row_token[op->first_row[prompt + 1]] - own_first;
    Task task = begin_task(op, prompt, key_head, 1);
    for (int64_t head = key_head * share; head < (key_head + 1) * share; head++)
        each_block(op, &task, prompt, head, backward_block);
    write_rows(op->of_key, op->key.type, op->key_heads, key_head, first, tokens, op->size, task.depth, task.of_key);
    write_rows(op->of_value, op->value.type, op->key_heads, key_head, first, tokens, op->size, task.depth,
               task.of_value);
    write_rows(op->of_key, op->key.type, op->key_heads, key_head, own_first, own, op->size, task.depth,
               task.of_own_key);
    write_rows(op->of_value, op->value.type, op->key_heads, key_head, own_first, own, op->size, task.depth,
               task.of_own_value);
    free(task.room);
}

static int64_t work(const Attention *op) {
    return op->prompt_token[op->prompts] * op->heads * op->size * 16; /* far more than a thread's start costs */
}

void shared_prefix_forward(const void *query, int64_t query_type, int64_t query_token, int64_t query_head,
                           const void *key, int64_t key_type, int64_t key_token, int64_t key_head, const void *value,
                           int64_t value_type, int64_t value_token, int64_t value_head, const int64_t *prompt_token,
                           const int64_t *row_token, const int64_t *first_row, int64_t prompts, int64_t heads,
                           int64_t key_heads, int64_t size, float scaling, void *out, float *lse) {
    Attention op = {.query = {query, query_type, query_token, query_head}, .key = {key, key_type, key_token, key_head},
                    .value = {value, value_type, value_token, value_head}, .prompt_token = prompt_token,
                    .row_token = row_token, .first_row = first_row, .prompts = prompts, .heads = heads,
                    .key_heads = key_heads, .size = size, .scaling = scaling, .out = out, .lse = lse};
    for_chunks(forward_task, &op, prompts * key_heads, work(&op));
}

void shared_prefix_backward(const void *query, int64_t query_type, int64_t query_token, int64_t query_head,
                            const void *key, int64_t key_type, int64_t key_token, int64_t key_head, const void *value,
                            int64_t value_type, int64_t value_token, int64_t value_head, const void *gradient,
                            int64_t gradient_type, int64_t gradient_token, int64_t gradient_head, const void *output,
                            int64_t output_type, int64_t output_token, int64_t output_head,
                            const int64_t *prompt_token, const int64_t *row_token, const int64_t *first_row,
                            int64_t prompts, int64_t heads, int64_t key_heads, int64_t size, float scaling, float *lse,
                            void *of_query, void *of_key, void *of_value) {
    Attention op = {.query = {query, query_type, query_token, query_head}, .key = {key, key_type, key_token, key_head},
                    .value = {value, value_type, value_token, value_head},
                    .gradient = {gradient, gradient_type, gradient_token, gradient_head},
                    .output = {output, output_type, output_token, output_head}, .prompt_token = prompt_token,
                    .row_token = row_token, .first_row = first_row, .prompts = prompts, .heads = heads,
                    .key_heads = key_heads, .size = size, .scaling = scaling, .lse = lse, .of_query = of_query,
                    .of_key = of_key, .of_value = of_value};
    for_chunks(backward_task, &op, prompts * key_heads, work(&op));
}
