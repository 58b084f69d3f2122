/* Keeps a pace and does nothing else: what it costs a process to wake up and go to sleep so often.

   pace RATE SECONDS: prints the processor time, the time, and how often it woke up, as worker.py does. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BILLION 1000000000

static int64_t now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * (int64_t)BILLION + time.tv_nsec;
}

int main(int count, char **arguments)
{
	int64_t rate = count > 1 ? atoi(arguments[1]) : 1, seconds = count > 2 ? atoi(arguments[2]) : 1, n = 0;
	int64_t began = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);

	for (; n < rate * seconds; n++) {
		int64_t due = began + n * BILLION / rate;
		struct timespec at = { due / BILLION, due % BILLION };

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
	}
	cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("{\"cpu\": %lld, \"wall\": %lld, \"polls\": %lld}\n", (long long)cpu,
	       (long long)(now(CLOCK_MONOTONIC) - began), (long long)n);
	return 0;
}
