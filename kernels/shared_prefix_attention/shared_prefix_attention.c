/* Attention over prompts and their responses on one flat row. reference.py is the specification.
   A task is a prompt and a key head: it copies the prompt's keys and values once, walks all queries that see them in
   blocks, and owns all gradients that it writes. The backward pass recomputes the weights from their log-sum-exp.
   Queries are those of all tokens, or of fewer prompt tokens: the last of each, or none.
   Letters: T tokens, B prompts, N responses, F response-prefix tokens of all responses, H query heads, J key heads, D
   head size, P tokens of a prompt, R tokens of its responses. */
#include "../attention.h"

#include <stdlib.h>

enum { QUERIES = 32 }; /* of a block */

typedef struct {
    const void *data;
    int64_t type, of_token, of_head; /* elements from one to the next; those of a head are side by side */
} Heads;

typedef struct {
    Heads query, key, value, gradient, output;
    /* [B + 1] first token of a prompt and of its responses, [F] token that holds a response-prefix token, [N + 1] first
       of these of a response, [B + 1] first response of a prompt. Responses with a common prefix share tokens: these
       stand in the order of their first uses. */
    const int64_t *prompt_token, *own_token, *fed, *row_fed, *first_row;
    int64_t prompts, heads, key_heads, size, without; /* prompt tokens of all prompts that have no query */
    float scaling;
    void *out, *of_query, *of_key, *of_value; /* contiguous, of query's, key's and value's types */
    float *lse;                               /* [queries, H] */
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
    int64_t own_first;          /* the first of the R tokens */
} Task;

/* The queries of one block: their numbers, how much of the prompt each sees, its own response's first fed token, and
   how many of that response's tokens it sees. */
typedef struct {
    int64_t count, query[QUERIES], seen[QUERIES], own[QUERIES], owned[QUERIES], most;
} Block;

/* Tokens from `first` on of one head, times `factor`, into [count, depth] rows; the padding is 0. */
static void copy_rows(const Heads *heads, int64_t head, int64_t first, int64_t count, int64_t size, int64_t depth,
                      float factor, float *rows) {
    float room[size];
    for (int64_t i = 0; i < count; i++) {
        int64_t at = (first + i) * heads->of_token + head * heads->of_head;
        copy_row(read_row(heads->data, heads->type, at, size, room), size, depth, factor, rows + i * depth);
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
        int64_t length = op->row_fed[row + 1] - op->row_fed[row];
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
    int64_t own_first = op->own_token[prompt], own = op->own_token[prompt + 1] - own_first;
    Task task = {.width = padded(tokens), .depth = padded(size), .own_first = own_first};
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

/* Where the rows of a query's own token `c` begin. */
static int64_t own_row(const Attention *op, const Task *task, const Block *block, int64_t query, int64_t c) {
    return (op->fed[block->own[query] + c] - task->own_first) * task->depth;
}

/* Scores of a block into task->weight: of the prompt in [0, most), of own tokens from `width` on. */
static void score(const Attention *op, const Task *task, const Block *block) {
    multiply(task->query, task->depth, 1, task->key_turned, task->width, task->weight, task->line, block->count,
             op->size, padded(block->most), 0);
    for (int64_t i = 0; i < block->count; i++)
        for (int64_t c = 0; c < block->owned[i]; c++)
            task->weight[i * task->line + task->width + c] =
                dot(task->query + i * task->depth, task->own_key + own_row(op, task, block, i, c), task->depth);
}

/* The largest of the `seen` first scores of a row and of the `owned` scores of own tokens. */
static float largest_of(const float *row, int64_t seen, const float *own, int64_t owned) {
    float lanes[LANES], largest = -INFINITY;
#pragma omp simd
    for (int64_t l = 0; l < LANES; l++)
        lanes[l] = l < seen ? row[l] : -INFINITY;
    for (int64_t p = LANES; p < seen; p += LANES)
#pragma omp simd
        for (int64_t l = 0; l < LANES; l++) {
            float score = p + l < seen ? row[p + l] : -INFINITY;
            lanes[l] = score > lanes[l] ? score : lanes[l];
        }
#pragma omp simd reduction(max : largest)
    for (int64_t l = 0; l < LANES; l++)
        largest = lanes[l] > largest ? lanes[l] : largest;
    for (int64_t c = 0; c < owned; c++)
        largest = own[c] > largest ? own[c] : largest;
    return largest;
}

/* exp(row - base), 0 at the part of the prompt that the query does not see; returns the sum. The row has room for
   `most` padded. */
static float exponentials(float *row, int64_t seen, int64_t most, float *own, int64_t owned, float base) {
    float lanes[LANES] = {0};
    for (int64_t p = 0; p < most; p += LANES)
#pragma omp simd
        for (int64_t l = 0; l < LANES; l++) {
            float weight = p + l < seen ? exponential(at_least(row[p + l] - base)) : 0;
            row[p + l] = weight;
            lanes[l] += weight;
        }
    float sum = sum_of(lanes);
    for (int64_t c = 0; c < owned; c++)
        sum += own[c] = exponential(at_least(own[c] - base));
    return sum;
}

static void forward_block(const Attention *op, const Task *task, const Block *block, int64_t head) {
    int64_t depth = task->depth;
    float share[QUERIES];
    score(op, task, block);
    for (int64_t i = 0; i < block->count; i++) {
        float *row = task->weight + i * task->line, *own = row + task->width;
        float largest = largest_of(row, block->seen[i], own, block->owned[i]);
        float sum = exponentials(row, block->seen[i], block->most, own, block->owned[i], largest);
        op->lse[block->query[i] * op->heads + head] = largest + logf(sum);
        share[i] = 1 / sum;
    }
    multiply(task->weight, task->line, 1, task->value, depth, task->result, depth, block->count, block->most, depth, 0);
    for (int64_t i = 0; i < block->count; i++) {
        float *result = task->result + i * depth;
        for (int64_t c = 0; c < block->owned[i]; c++)
            add_scaled(result, task->weight[i * task->line + task->width + c],
                       task->own_value + own_row(op, task, block, i, c), depth);
        scale(result, share[i], depth);
        write_rows(op->out, op->query.type, op->heads, head, block->query[i], 1, op->size, depth, result);
    }
}

static void backward_block(const Attention *op, const Task *task, const Block *block, int64_t head) {
    int64_t depth = task->depth, line = task->line, count = block->count, most = block->most;
    float delta[QUERIES];
    for (int64_t i = 0; i < count; i++) {
        copy_rows(&op->gradient, head, block->query[i], 1, op->size, depth, 1, task->gradient + i * depth);
        copy_rows(&op->output, head, block->query[i], 1, op->size, depth, 1, task->result + i * depth);
        delta[i] = dot(task->gradient + i * depth, task->result + i * depth, depth);
    }
    score(op, task, block);
    multiply(task->gradient, depth, 1, task->value_turned, task->width, task->of_weight, line, count, op->size,
             padded(most), 0);
    for (int64_t i = 0; i < count; i++) {
        float *row = task->weight + i * line, *of_row = task->of_weight + i * line;
        exponentials(row, block->seen[i], most, row + task->width, block->owned[i],
                     op->lse[block->query[i] * op->heads + head]);
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
            int64_t at = own_row(op, task, block, i, c);
            float weight = task->weight[i * line + task->width + c];
            float of_score = weight * (dot(task->gradient + i * depth, task->own_value + at, depth) - delta[i]);
            add_scaled(result, of_score, task->own_key + at, depth);
            add_scaled(task->of_own_key + at, of_score, task->query + i * depth, depth);
            add_scaled(task->of_own_value + at, weight, task->gradient + i * depth, depth);
        }
        scale(result, op->scaling, depth);
        write_rows(op->of_query, op->query.type, op->heads, head, block->query[i], 1, op->size, depth, result);
    }
}

typedef void (*Body)(const Attention *, const Task *, const Block *, int64_t head);

static void add_query(const Attention *op, const Task *task, Block *block, int64_t head, int64_t query, int64_t seen,
                      int64_t own, int64_t owned) {
    int64_t i = block->count++;
    block->query[i] = query, block->seen[i] = seen, block->own[i] = own, block->owned[i] = owned;
    block->most = seen > block->most ? seen : block->most;
    copy_rows(&op->query, head, query, 1, op->size, task->depth, op->scaling, task->query + i * task->depth);
}

static void finish_block(const Attention *op, const Task *task, Block *block, int64_t head, Body body) {
    if (block->count)
        body(op, task, block, head);
    block->count = block->most = 0;
}

/* All queries of a prompt and of its responses, for one query head. */
static void each_block(const Attention *op, const Task *task, int64_t prompt, int64_t head, Body body) {
    Block block = {0};
    int64_t first = op->prompt_token[prompt], tokens = op->prompt_token[prompt + 1] - first;
    int64_t all = op->prompt_token[op->prompts], next = task->own_first;
    if (op->without == 0) {
        for (int64_t i = 0; i < tokens; i++) {
            add_query(op, task, &block, head, first + i, i + 1, 0, 0);
            if (block.count == QUERIES)
                finish_block(op, task, &block, head, body);
        }
        finish_block(op, task, &block, head, body);
    } else if (op->without < all)
        add_query(op, task, &block, head, prompt, tokens, 0, 0);
    for (int64_t row = op->first_row[prompt]; row < op->first_row[prompt + 1]; row++)
        for (int64_t begin = op->row_fed[row], at = begin; at < op->row_fed[row + 1]; at++) {
            if (op->fed[at] != next)
                continue; /* an earlier response has walked it */
            add_query(op, task, &block, head, next++ - op->without, tokens, begin, at - begin + 1);
            if (block.count == QUERIES)
                finish_block(op, task, &block, head, body);
        }
    finish_block(op, task, &block, head, body);
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
    int64_t tokens = op->prompt_token[prompt + 1] - first, own_first = op->own_token[prompt];
    int64_t own = op->own_token[prompt + 1] - own_first;
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
                           const int64_t *own_token, const int64_t *fed, const int64_t *row_fed,
                           const int64_t *first_row, int64_t prompts, int64_t heads, int64_t key_heads, int64_t size,
                           int64_t without, float scaling, void *out, float *lse) {
    Attention op = {.query = {query, query_type, query_token, query_head}, .key = {key, key_type, key_token, key_head},
                    .value = {value, value_type, value_token, value_head}, .prompt_token = prompt_token,
                    .own_token = own_token, .fed = fed, .row_fed = row_fed, .first_row = first_row,
                    .prompts = prompts, .heads = heads, .key_heads = key_heads, .size = size, .without = without,
                    .scaling = scaling, .out = out, .lse = lse};
    for_chunks(forward_task, &op, prompts * key_heads, work(&op));
}

void shared_prefix_backward(const void *query, int64_t query_type, int64_t query_token, int64_t query_head,
                            const void *key, int64_t key_type, int64_t key_token, int64_t key_head, const void *value,
                            int64_t value_type, int64_t value_token, int64_t value_head, const void *gradient,
                            int64_t gradient_type, int64_t gradient_token, int64_t gradient_head, const void *output,
                            int64_t output_type, int64_t output_token, int64_t output_head,
                            const int64_t *prompt_token, const int64_t *own_token, const int64_t *fed,
                            const int64_t *row_fed, const int64_t *first_row, int64_t prompts, int64_t heads,
                            int64_t key_heads, int64_t size, int64_t without, float scaling, float *lse,
                            void *of_query, void *of_key, void *of_value) {
    Attention op = {.query = {query, query_type, query_token, query_head}, .key = {key, key_type, key_token, key_head},
                    .value = {value, value_type, value_token, value_head},
                    .gradient = {gradient, gradient_type, gradient_token, gradient_head},
                    .output = {output, output_type, output_token, output_head}, .prompt_token = prompt_token,
                    .own_token = own_token, .fed = fed, .row_fed = row_fed, .first_row = first_row,
                    .prompts = prompts, .heads = heads, .key_heads = key_heads, .size = size, .without = without,
                    .scaling = scaling, .lse = lse, .of_query = of_query, .of_key = of_key, .of_value = of_value};
    for_chunks(backward_task, &op, prompts * key_heads, work(&op));
}
