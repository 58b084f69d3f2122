/* The line protocol of a competitor written in C: see harness.py. The including file defines poll_table(). */

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LONG_NS 1000000

struct totals {
    uint64_t packets, bytes;
};

/* Read the table once, as its competitor does it. */
static struct totals poll_table(void);

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_by(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now(void)
{
    return now_by(CLOCK_MONOTONIC);
}

static long from_status(const char *field)
{
    char line[256];
    long kib = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, field, strlen(field)) == 0)
            kib = atol(line + strlen(field));
    if (status)
        fclose(status);
    return kib;
}

static void measure(long budget_ms)
{
    uint64_t began = now(), best = UINT64_MAX, start, end, spent, took;
    do {
        spent = now_by(CLOCK_PROCESS_CPUTIME_ID);
        start = now();
        poll_table();
        end = now();
        spent = now_by(CLOCK_PROCESS_CPUTIME_ID) - spent;
        /* in what takes long, other processes have run meanwhile */
        took = end - start < LONG_NS || spent > end - start ? end - start : spent;
        if (took < best)
            best = took;
    } while (end - began < (uint64_t)budget_ms * 1000000u);
    printf("{\"ns\": %llu}\n", (unsigned long long)best);
}

static void memory(long polls)
{
    long before = from_status("VmRSS:");
    FILE *peak = fopen("/proc/self/clear_refs", "w");
    if (peak) {
        fputs("5", peak);
        fclose(peak);
    }
    while (polls-- > 0)
        poll_table();
    printf("{\"grown\": %ld}\n", (from_status("VmHWM:") - before) * 1024);
}

int main(void)
{
    char line[64], verb[16], operation[32];
    long number;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%15s %31s %ld", verb, operation, &number) != 3)
            return 2;
        if (strcmp(verb, "measure") == 0) {
            measure(number);
        } else if (strcmp(verb, "memory") == 0) {
            memory(number);
        } else {
            struct totals seen = poll_table();
            printf("{\"packets\": %llu, \"bytes\": %llu}\n", (unsigned long long)seen.packets,
                   (unsigned long long)seen.bytes);
        }
        fflush(stdout);
    }
    return 0;
}
