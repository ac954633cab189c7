// SPDX-License-Identifier: Apache-2.0
// Threads that work through phases of independent tasks, for the duration of one call.
//
// A phase is over when its tasks are done, not when every thread has turned up: on a busy machine a thread
// that the system has put aside holds up one task at most. Threads live for one call; starting one costs
// some 20 microseconds, and nothing is left behind that a fork (a data loader's worker) could find broken.
#ifndef NPCR_THREAD_POOL_H
#define NPCR_THREAD_POOL_H

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace npcr {

// The part-th of `parts` nearly equal parts of 0..count.
struct Share {
    int64_t first, last;
    Share(int64_t count, int64_t part, int64_t parts)
        : first(count / parts * part + std::min(part, count % parts)),
          last(first + count / parts + (part < count % parts ? 1 : 0)) {}
};

class ThreadPool {
public:
    using Perform = std::function<void(int task, int thread)>;
    // Called between phases, by one thread while no other works: returns the next phase's number of tasks
    // (1 to kMaxTasks), or 0 when all is done.
    using Advance = std::function<int()>;

    static constexpr int kMaxTasks = (1 << 20) - 1;

    // Runs all phases on up to `threads` threads, the calling one included. Where the system refuses a
    // thread, the pool is smaller.
    static void run(int threads, const Perform& perform, const Advance& advance) {
        ThreadPool pool(perform, advance);
        pool.next_phase(0);
        const int wanted = threads > 1 ? threads - 1 : 0;
        std::unique_ptr<std::thread[]> helpers(wanted ? new std::thread[wanted] : nullptr);
        int started = 0;
        for (; started < wanted; ++started) {
            try {
                helpers[started] = std::thread([&pool, number = started + 1] { pool.work(number); });
            } catch (const std::exception&) {
                break;
            }
        }
        pool.work(0);
        for (int i = 0; i < started; ++i) helpers[i].join();
    }

    // One phase of `tasks` tasks.
    static void run(int threads, int tasks, const Perform& perform) {
        bool begun = false;
        run(threads, perform, [&] {
            const int count = begun ? 0 : tasks;
            begun = true;
            return count;
        });
    }

private:
    // The phase's number, its number of tasks and the next task, in one word: a thread that has moved
    // `next` on owns a task of just that phase.
    using State = uint64_t;
    static constexpr int kBits = 20;
    static int next_of(State state) { return static_cast<int>(state & kMaxTasks); }
    static int count_of(State state) { return static_cast<int>(state >> kBits & kMaxTasks); }
    static State phase_of(State state) { return state >> 2 * kBits; }

    ThreadPool(const Perform& perform, const Advance& advance) : perform_(perform), advance_(advance) {}

    void next_phase(State phase) {
        const State count = static_cast<State>(advance_());
        state_.store(phase << 2 * kBits | count << kBits);
        if (sleepers_.load() > 0) {
            { std::lock_guard<std::mutex> lock(mutex_); }
            wake_.notify_all();
        }
    }

    void work(int thread) {
        State state = state_.load();
        while (count_of(state) != 0) {
            if (next_of(state) == count_of(state)) {
                state = wait_for_change(state);
            } else if (state_.compare_exchange_weak(state, state + 1)) {
                perform_(next_of(state), thread);
                if (done_.fetch_add(1) + 1 == count_of(state)) {
                    done_.store(0);
                    next_phase(phase_of(state) + 1);
                }
                state = state_.load();
            }
        }
    }

    // Most waits are short. Past some 50 microseconds it sleeps: a thread that has slept is scheduled
    // before those that have spun, and leaves the processor to the one it waits for.
    State wait_for_change(State state) {
        for (int turn = 0; turn < 1500; ++turn) {
            const State now = state_.load();
            if (now != state) return now;
            relax();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return state_.load() != state; });
        sleepers_.fetch_sub(1);
        return state_.load();
    }

    static void relax() {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }

    const Perform& perform_;
    const Advance& advance_;
    std::atomic<State> state_{0};
    std::atomic<int> done_{0}, sleepers_{0};
    std::mutex mutex_;
    std::condition_variable wake_;
};

}  // namespace npcr

#endif
