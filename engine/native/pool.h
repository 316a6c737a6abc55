// A small persistent thread pool. The caller works too; tiles are claimed from one atomic word, so a worker that the
// operating system has taken off its core holds up at most the tiles it has already claimed. Idle workers spin for
// some tens of microseconds (the gap between two kernels of a step) and then sleep on a condition variable.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace oai {

class Pool {
   public:
    // Throws std::system_error where the system gives no more threads.
    explicit Pool(int threads) : size_(threads < 1 ? 1 : threads) {
        try {
            for (int i = 1; i < size_; i++) workers_.emplace_back([this, i] { work(i); });
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Pool() { stop(); }
    int size() const { return size_; }

    // Runs body(begin, end, thread) over [0, tiles) in claims of falling size; returns when all are done.
    template <class Body>
    void run(int tiles, const Body& body) {
        if (tiles <= 0) return;
        if (tiles == 1 || size_ == 1) return invoke<Body>(&body, 0, tiles, 0);
        call_ = invoke<Body>;
        body_ = &body;
        finished_.store(0, std::memory_order_relaxed);
        epoch_++;
        ticket_.store(uint64_t(epoch_) << 48 | uint64_t(tiles));
        if (sleepers_.load() > 0) {
            std::lock_guard<std::mutex> lock(sleep_mutex_);
            wake_.notify_all();
        }
        while (claim(0)) {
        }
        for (int spins = 0; finished_.load(std::memory_order_acquire) < tiles;)
            if (++spins < SPINS) relax();
            else std::this_thread::yield();
    }

    std::mutex one_caller;  // the C entry points hold it for a whole call

   private:
    static constexpr int SPINS = 2000;
    static constexpr uint64_t MASK = (uint64_t(1) << 24) - 1;

    template <class Body>
    static void invoke(const void* body, int begin, int end, int thread) {
        (*static_cast<const Body*>(body))(begin, end, thread);
    }

    void stop() {
        {
            std::lock_guard<std::mutex> lock(sleep_mutex_);
            stopping_.store(true);
        }
        wake_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    static void relax() {
#if defined(__x86_64__)
        _mm_pause();
#endif
    }

    // ticket: epoch (16 bits) | next tile (24) | tiles (24). A claim that succeeds owns tiles of the current job:
    // the job cannot end before they are done, so body_ may be read after the exchange.
    bool claim(int thread) {
        uint64_t now = ticket_.load(std::memory_order_acquire);
        for (;;) {
            int next = int(now >> 24 & MASK), tiles = int(now & MASK);
            if (next >= tiles) return false;
            int count = (tiles - next) / (2 * size_);
            if (count < 1) count = 1;
            if (!ticket_.compare_exchange_weak(now, now + (uint64_t(count) << 24))) continue;
            call_(body_, next, next + count, thread);
            finished_.fetch_add(count, std::memory_order_release);
            return true;
        }
    }

    bool has_work() const {
        uint64_t now = ticket_.load();
        return (now >> 24 & MASK) < (now & MASK);
    }

    void work(int thread) {
        for (int spins = 0; !stopping_.load(std::memory_order_relaxed);) {
            if (claim(thread)) {
                spins = 0;
            } else if (++spins < SPINS) {
                relax();
            } else {
                std::unique_lock<std::mutex> lock(sleep_mutex_);
                sleepers_.fetch_add(1);
                wake_.wait(lock, [this] { return stopping_.load() || has_work(); });
                sleepers_.fetch_sub(1);
                spins = 0;
            }
        }
    }

    const int size_;
    void (*call_)(const void*, int, int, int) = nullptr;
    const void* body_ = nullptr;
    uint16_t epoch_ = 0;
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<int> finished_{0};
    alignas(64) std::atomic<int> sleepers_{0};
    std::atomic<bool> stopping_{false};
    std::mutex sleep_mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> workers_;
};

}  // namespace oai
