/* A beam's step over the prompt's keys and its own. See reference.py for the meaning; forward alone.
   A task is a prompt and a key head: it copies the prompt's keys and values once and walks the queries of all heads that
   share them in blocks. A block's queries stand side by side and keys below each other, so that no loop of the softmax
   runs across a vector.
   Letters: B prompts, W responses a prompt, Q queries and K own tokens of each, P tokens of a prompt, H query heads, J
   key heads, D head size. */
#include "../attention.h"

#include <stdlib.h>

enum { COLUMNS = 4 * LANES }; /* queries of a block */

typedef struct {
    float *data;
    int64_t of_prompt, of_head, of_response, of_token; /* elements from one to the next; a head's are side by side */
} Grid;

typedef struct {
    Grid query, key, value, own_key, own_value, out;
    const int64_t *length; /* [B] */
    int64_t prompts, heads, key_heads, responses, queries, owned, size;
    float scaling;
} Attention;

/* D and a block's queries are padded to a multiple of LANES. */
typedef struct {
    float *room;
    float *key, *value;             /* [P, D] */
    float *query, *turned, *result; /* [COLUMNS, D], [D, COLUMNS], [COLUMNS, D] */
    float *weight;                  /* [P + K, COLUMNS] */
    float *own;                     /* [D] */
    int64_t tokens, depth;
} Task;

/* A query, the first own token of its response, and how many of these it sees. */
typedef struct {
    const float *query, *own_key, *own_value;
    float *out;
    int64_t seen;
} Asked;

static float *row_of(const Grid *grid, int64_t prompt, int64_t head, int64_t response, int64_t token) {
    return grid->data + prompt * grid->of_prompt + head * grid->of_head + response * grid->of_response +
           token * grid->of_token;
}

static Task begin_task(const Attention *op, int64_t prompt, int64_t key_head) {
    Task task = {.tokens = op->length[prompt], .depth = padded(op->size)};
    int64_t floats = task.tokens * task.depth, block = COLUMNS * task.depth;
    int64_t weights = (task.tokens + op->owned) * COLUMNS;
    float *room = task.room = malloc((size_t)(2 * floats + 3 * block + weights + task.depth) * sizeof *room);
    task.key = room, task.value = task.key + floats;
    task.query = task.value + floats, task.turned = task.query + block, task.result = task.turned + block;
    task.weight = task.result + block, task.own = task.weight + weights;
    for (int64_t p = 0; p < task.tokens; p++) {
        copy_row(row_of(&op->key, prompt, key_head, 0, p), op->size, task.depth, 1, task.key + p * task.depth);
        copy_row(row_of(&op->value, prompt, key_head, 0, p), op->size, task.depth, 1, task.value + p * task.depth);
    }
    return task;
}

/* Query `number` of a key head's: head by head, response by response. */
static Asked asked_of(const Attention *op, int64_t prompt, int64_t key_head, int64_t number) {
    int64_t row = number / op->queries, token = number % op->queries, share = op->heads / op->key_heads;
    int64_t head = key_head * share + row / op->responses, response = row % op->responses;
    return (Asked){.query = row_of(&op->query, prompt, head, response, token),
                   .own_key = row_of(&op->own_key, prompt, key_head, response, 0),
                   .own_value = row_of(&op->own_value, prompt, key_head, response, 0),
                   .out = row_of(&op->out, prompt, head, response, token),
                   .seen = op->owned - op->queries + token + 1};
}

/* A row in place if it needs no padding, or a copy. */
static const float *whole(const float *row, const Attention *op, const Task *task) {
    if (op->size == task->depth)
        return row;
    copy_row(row, op->size, task->depth, 1, task->own);
    return task->own;
}

/* Scores of own tokens, below those of the prompt. */
static void score_own(const Attention *op, const Task *task, const Asked *asked, int64_t count, int64_t width) {
    for (int64_t c = 0; c < op->owned; c++) {
        float *row = task->weight + (task->tokens + c) * width;
        for (int64_t i = 0; i < width; i++)
            if (i >= count)
                row[i] = 0;
            else if (c >= asked[i].seen)
                row[i] = -INFINITY;
            else
                row[i] = dot(task->query + i * task->depth, whole(asked[i].own_key + c * op->own_key.of_token, op, task),
                             task->depth);
    }
}

/* exp(score - largest of the column) in place, and 1 / the sum of every column. What a query does not see keeps a
   weight that is too small to count. */
static void weigh(float *weight, int64_t rows, int64_t width, float *share) {
    for (int64_t at = 0; at < width; at += LANES) {
        float largest[LANES], sum[LANES] = {0};
        for (int l = 0; l < LANES; l++)
            largest[l] = -INFINITY;
        for (int64_t p = 0; p < rows; p++)
#pragma omp simd
            for (int l = 0; l < LANES; l++) {
                float score = weight[p * width + at + l];
                largest[l] = score > largest[l] ? score : largest[l];
            }
        for (int64_t p = 0; p < rows; p++)
#pragma omp simd
            for (int l = 0; l < LANES; l++)
                sum[l] += weight[p * width + at + l] = exponential(at_least(weight[p * width + at + l] - largest[l]));
#pragma omp simd
        for (int l = 0; l < LANES; l++)
            share[at + l] = 1 / sum[l];
    }
}

static void walk_block(const Attention *op, const Task *task, int64_t prompt, int64_t key_head, int64_t first,
                       int64_t count) {
    int64_t depth = task->depth, width = padded(count);
    Asked asked[COLUMNS];
    float share[COLUMNS];
    for (int64_t i = 0; i < count; i++) {
        asked[i] = asked_of(op, prompt, key_head, first + i);
        copy_row(asked[i].query, op->size, depth, op->scaling, task->query + i * depth);
    }
    turn(task->query, count, depth, width, task->turned);
    multiply(task->key, depth, 1, task->turned, width, task->weight, width, task->tokens, op->size, width, 0);
    score_own(op, task, asked, count, width);
    weigh(task->weight, task->tokens + op->owned, width, share);
    multiply(task->weight, 1, width, task->value, depth, task->result, depth, count, task->tokens, depth, 0);
    for (int64_t i = 0; i < count; i++) {
        float *result = task->result + i * depth;
        for (int64_t c = 0; c < asked[i].seen; c++)
            add_scaled(result, task->weight[(task->tokens + c) * width + i],
                       whole(asked[i].own_value + c * op->own_value.of_token, op, task), depth);
        scale(result, share[i], depth);
        memcpy(asked[i].out, result, (size_t)op->size * sizeof *result);
    }
}

static void task_of(void *arguments, int64_t chunk) {
    const Attention *op = arguments;
    int64_t prompt = chunk / op->key_heads, key_head = chunk % op->key_heads;
    int64_t queries = op->heads / op->key_heads * op->responses * op->queries;
    Task task = begin_task(op, prompt, key_head);
    for (int64_t first = 0; first < queries; first += COLUMNS)
        walk_block(op, &task, prompt, key_head, first, queries - first < COLUMNS ? queries - first : COLUMNS);
    free(task.room);
}

#define GRID(name)                                                                                                     \
    float *name, int64_t name##_prompt, int64_t name##_head, int64_t name##_response, int64_t name##_token
#define TOLD(name) {name, name##_prompt, name##_head, name##_response, name##_token}

void prefix_forward(GRID(query), GRID(key), GRID(value), GRID(own_key), GRID(own_value), GRID(out),
                    const int64_t *length, int64_t prompts, int64_t heads, int64_t key_heads, int64_t responses,
                    int64_t queries, int64_t owned, int64_t size, float scaling) {
    Attention op = {.query = TOLD(query), .key = TOLD(key), .value = TOLD(value), .own_key = TOLD(own_key),
                    .own_value = TOLD(own_value), .out = TOLD(out), .length = length, .prompts = prompts,
                    .heads = heads, .key_heads = key_heads, .responses = responses, .queries = queries, .owned = owned,
                    .size = size, .scaling = scaling};
    for_chunks(task_of, &op, prompts * key_heads, prompts * heads * responses * queries * size * 16);
}
