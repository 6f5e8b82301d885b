/* Loops on torch's own threads. A second OpenMP pool would spin against torch's, so none is linked: the addresses of the
   OpenMP runtime that torch itself uses come from native.py. Without them every loop runs on the calling thread. */
#include "native.h"

typedef void (*Parallel)(void (*body)(void *), void *arguments, unsigned threads, unsigned flags);
typedef int (*Count)(void);

static Parallel parallel;
static Count thread_number, team_size, threads_allowed;

enum { WORTH_A_TEAM = 32768 }; /* Elements; torch's own limit for elementwise ops. */

void use_threads(void *gomp_parallel, void *omp_get_thread_num, void *omp_get_num_threads, void *omp_get_max_threads) {
    parallel = (Parallel)gomp_parallel;
    thread_number = (Count)omp_get_thread_num;
    team_size = (Count)omp_get_num_threads;
    threads_allowed = (Count)omp_get_max_threads;
}

typedef struct {
    Chunk body;
    void *arguments;
    int64_t count;
} Loop;

static void member(void *shared) {
    const Loop *loop = shared;
    int64_t number = thread_number(), size = team_size();
    for (int64_t chunk = loop->count * number / size; chunk < loop->count * (number + 1) / size; chunk++)
        loop->body(loop->arguments, chunk);
}

void for_chunks(Chunk body, void *arguments, int64_t count, int64_t elements) {
    if (parallel && count > 1 && elements > WORTH_A_TEAM && threads_allowed() > 1) {
        Loop loop = {body, arguments, count};
        /* 0 threads: as many as torch set. A team of another size would make the runtime end threads and start new ones. */
        parallel(member, &loop, 0, 0);
        return;
    }
    for (int64_t chunk = 0; chunk < count; chunk++)
        body(arguments, chunk);
}

void sum_partials(const float *partials, int64_t count, int64_t width, float *total) {
    memset(total, 0, (size_t)width * sizeof *total);
    for (int64_t chunk = 0; chunk < count; chunk++)
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            total[i] += partials[chunk * width + i];
}
