/* A beam's step over the prompt's keys and its own. See reference.py for the meaning; forward alone.
   A task is a prompt and a key head: it copies the prompt's keys and values once and walks all queries in blocks.
   Letters: B prompts, W responses a prompt, Q queries and K own tokens of each, P tokens of a prompt, H query heads, J
   key heads, D head size. */
#include "../attention.h"

#include <stdlib.h>

typedef struct {
    const float *data;
    int64_t of_prompt, of_head, of_response, of_token; /* elements from one to the next; a head's are side by side */
} Grid;

typedef struct {
    Grid query, key, value, own_key, own_value;
    const int64_t *length; /* [B] */
    int64_t prompts, heads, key_heads, responses, queries, owned, size;
    float scaling;
    float *out; /* [B, H, W, Q, D] */
} Attention;

/* Rows are padded to a multiple of LANES. */
typedef struct {
    float *room;
    float *rows, *key_turned, *value; /* [P, D], [D, P], [P, D] */
    float *weight;                    /* [QUERIES, P + K] */
    float *query, *result;            /* [QUERIES, D] */
    float *own;                       /* [D] */
    int64_t tokens, width, depth, line;
} Task;

static const float *row_of(const Grid *grid, int64_t prompt, int64_t head, int64_t response, int64_t token) {
    return grid->data + prompt * grid->of_prompt + head * grid->of_head + response * grid->of_response +
           token * grid->of_token;
}

static Task begin_task(const Attention *op, int64_t prompt, int64_t key_head) {
    Task task = {.tokens = op->length[prompt], .depth = padded(op->size)};
    task.width = padded(task.tokens);
    task.line = task.width + padded(op->owned);
    int64_t floats = task.width * task.depth;
    float *room = task.room =
        malloc((size_t)(3 * floats + QUERIES * (task.line + 2 * task.depth) + task.depth) * sizeof *room);
    task.rows = room, task.key_turned = task.rows + floats, task.value = task.key_turned + floats;
    task.weight = task.value + floats, task.query = task.weight + QUERIES * task.line;
    task.result = task.query + QUERIES * task.depth, task.own = task.result + QUERIES * task.depth;
    for (int64_t p = 0; p < task.tokens; p++) {
        copy_row(row_of(&op->key, prompt, key_head, 0, p), op->size, task.depth, 1, task.rows + p * task.depth);
        copy_row(row_of(&op->value, prompt, key_head, 0, p), op->size, task.depth, 1, task.value + p * task.depth);
    }
    turn(task.rows, task.tokens, task.depth, task.width, task.key_turned);
    return task;
}

/* Queries `first` to `first + count` of a head, numbered response by response. */
static void walk_block(const Attention *op, const Task *task, int64_t prompt, int64_t head, int64_t first,
                       int64_t count) {
    int64_t depth = task->depth, key_head = head / (op->heads / op->key_heads);
    float share[QUERIES];
    for (int64_t i = 0; i < count; i++) {
        int64_t response = (first + i) / op->queries, token = (first + i) % op->queries;
        copy_row(row_of(&op->query, prompt, head, response, token), op->size, depth, op->scaling,
                 task->query + i * depth);
    }
    multiply(task->query, depth, 1, task->key_turned, task->width, task->weight, task->line, count, op->size,
             task->width, 0);
    for (int64_t i = 0; i < count; i++) {
        int64_t response = (first + i) / op->queries, seen = op->owned - op->queries + (first + i) % op->queries + 1;
        float *row = task->weight + i * task->line, *own = row + task->width;
        for (int64_t c = 0; c < seen; c++) {
            copy_row(row_of(&op->own_key, prompt, key_head, response, c), op->size, depth, 1, task->own);
            own[c] = dot(task->query + i * depth, task->own, depth);
        }
        share[i] = 1 / exponentials(row, task->tokens, task->tokens, own, seen, largest_of(row, task->tokens, own, seen));
    }
    multiply(task->weight, task->line, 1, task->value, depth, task->result, depth, count, task->tokens, depth, 0);
    for (int64_t i = 0; i < count; i++) {
        int64_t response = (first + i) / op->queries, token = (first + i) % op->queries;
        int64_t seen = op->owned - op->queries + token + 1;
        float *result = task->result + i * depth;
        for (int64_t c = 0; c < seen; c++) {
            copy_row(row_of(&op->own_value, prompt, key_head, response, c), op->size, depth, 1, task->own);
            add_scaled(result, task->weight[i * task->line + task->width + c], task->own, depth);
        }
        scale(result, share[i], depth);
        int64_t at = (prompt * op->heads + head) * op->responses * op->queries + first + i;
        memcpy(op->out + at * op->size, result, (size_t)op->size * sizeof *result);
    }
}

static void task_of(void *arguments, int64_t chunk) {
    const Attention *op = arguments;
    int64_t prompt = chunk / op->key_heads, key_head = chunk % op->key_heads, share = op->heads / op->key_heads;
    int64_t queries = op->responses * op->queries;
    Task task = begin_task(op, prompt, key_head);
    for (int64_t head = key_head * share; head < (key_head + 1) * share; head++)
        for (int64_t first = 0; first < queries; first += QUERIES)
            walk_block(op, &task, prompt, head, first, queries - first < QUERIES ? queries - first : QUERIES);
    free(task.room);
}

#define GRID(name)                                                                                                     \
    const float *name, int64_t name##_prompt, int64_t name##_head, int64_t name##_response, int64_t name##_token
#define TOLD(name) {name, name##_prompt, name##_head, name##_response, name##_token}

void prefix_forward(GRID(query), GRID(key), GRID(value), GRID(own_key), GRID(own_value), const int64_t *length,
                    int64_t prompts, int64_t heads, int64_t key_heads, int64_t responses, int64_t queries,
                    int64_t owned, int64_t size, float scaling, float *out) {
    Attention op = {.query = TOLD(query), .key = TOLD(key), .value = TOLD(value), .own_key = TOLD(own_key),
                    .own_value = TOLD(own_value), .length = length, .prompts = prompts, .heads = heads,
                    .key_heads = key_heads, .responses = responses, .queries = queries, .owned = owned, .size = size,
                    .scaling = scaling, .out = out};
    for_chunks(task_of, &op, prompts * key_heads, prompts * heads * responses * queries * size * 16);
}
