//! A small thread pool: one parallel loop at a time, claimed chunk by chunk.
//!
//! The caller works too, and at the end waits only for workers that have entered the loop. A
//! worker that the system has not scheduled finds the loop closed, so a machine with fewer free
//! cores than threads is never stalled by its own pool.

use std::{
    any::Any,
    cell::UnsafeCell,
    hint::spin_loop,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long an idle worker spins before it parks: longer than the gaps inside a model pass.
const SPIN: Duration = Duration::from_micros(30);
/// Bit of the state word: workers may enter. The other bits count workers inside.
const OPEN: u32 = 1 << 31;

/// How long a wait keeps its processor: longer than most gaps between two loops of a pass.
const HOLD: Duration = Duration::from_micros(5);

/// Waits for a moment, `since` which the wait has lasted. A longer wait lets others have the
/// processor: the thread that is waited for may be one of them.
fn pause(since: Instant) {
    (0..32).for_each(|_| spin_loop());
    if since.elapsed() > HOLD {
        thread::yield_now();
    }
}

type Body<'a> = dyn Fn(usize) + Sync + 'a;

#[derive(Clone, Copy)]
struct Loop {
    body: *const Body<'static>,
    chunks: usize,
}

struct Shared {
    /// [`OPEN`] and the number of workers inside the loop.
    state: AtomicU32,
    /// Written by the caller while the state is 0, read by workers inside the loop.
    current: UnsafeCell<Option<Loop>>,
    /// The next chunk that nobody has claimed.
    next: AtomicUsize,
    /// Counts loops, so that workers notice a new one.
    generation: AtomicUsize,
    /// Set while a caller runs a loop.
    busy: AtomicBool,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `current` is written only by the caller that owns `busy`, while the state word is 0
// (closed, nobody inside), and read only by workers that entered through an acquiring
// compare-exchange on an open state. So no write overlaps a read. The body it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer inside is used only as the `Sync` impl above describes.
unsafe impl Send for Shared {}

impl Shared {
    /// Claims and runs chunks until none is left.
    fn work(&self, chunks: usize, body: &Body<'_>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let chunk = self.next.fetch_add(1, Relaxed);
                if chunk >= chunks {
                    break;
                }
                body(chunk);
            }
        }));
        if let Err(payload) = outcome {
            self.next.store(chunks, Relaxed);
            self.panic
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(payload);
        }
    }

    /// A worker's part: enters if the loop is still open.
    fn join(&self) {
        let entered = self.state.try_update(Acquire, Relaxed, |state| {
            (state & OPEN != 0).then_some(state + 1)
        });
        if entered.is_err() {
            return;
        }
        // SAFETY: this worker is counted in the state word, so the caller neither writes
        // `current` nor returns from `run` (which keeps the body alive) until it has left.
        if let Some(Loop { body, chunks }) = unsafe { *self.current.get() } {
            // SAFETY: as above, the body outlives this call.
            self.work(chunks, unsafe { &*body });
        }
        self.state.fetch_sub(1, Release);
    }

    fn serve(&self) {
        let mut seen = 0;
        while !self.stop.load(Acquire) {
            let idle = Instant::now();
            while self.generation.load(Acquire) == seen {
                if idle.elapsed() < SPIN {
                    pause(idle);
                } else {
                    thread::park();
                }
            }
            seen = self.generation.load(Acquire);
            self.join();
        }
    }
}

/// Threads that run parallel loops; dropping it ends them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Pool::run`] being one of them. Threads that
    /// the system refuses are done without: they change the speed only.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU32::new(0),
            current: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let worker = |index: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(format!("kernels-{index}"))
                .spawn(move || shared.serve())
                .ok()
        };
        let workers = (1..threads).map_while(worker).collect();
        Self { shared, workers }
    }

    /// Threads that share a loop, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body` once with each of `0..chunks`, in any order and on any thread, and returns
    /// when all calls have. A panic in `body` is resumed here once all threads are out of it.
    ///
    /// While one loop runs, another (nested, or from another thread) runs wholly on its caller.
    pub(crate) fn run(&self, chunks: usize, body: &Body<'_>) {
        if chunks <= 1 || self.workers.is_empty() || self.shared.busy.swap(true, Acquire) {
            (0..chunks).for_each(body);
            return;
        }
        self.open(chunks, body);
        self.shared.work(chunks, body);
        self.close();
        let panic = self
            .shared
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.shared.busy.store(false, Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    fn open(&self, chunks: usize, body: &Body<'_>) {
        // SAFETY: only the lifetime is erased. Workers use the pointer only while they are
        // counted inside, and `run` passes `close`, which waits until none is, before it returns;
        // nothing between `open` and `close` unwinds (`work` catches).
        let body = unsafe { std::mem::transmute::<*const Body<'_>, *const Body<'static>>(body) };
        // SAFETY: this caller owns `busy`, and the previous owner left the state at 0.
        unsafe { *self.shared.current.get() = Some(Loop { body, chunks }) };
        self.shared.next.store(0, Relaxed);
        self.shared.state.store(OPEN, Release);
        self.wake();
    }

    fn close(&self) {
        self.shared.state.fetch_and(!OPEN, AcqRel);
        let begun = Instant::now();
        while self.shared.state.load(Acquire) != 0 {
            pause(begun);
        }
    }

    fn wake(&self) {
        self.shared.generation.fetch_add(1, Release);
        for worker in &self.workers {
            worker.thread().unpark();
        }
    }

    /// Splits `data` into pieces of `length` (the last may be shorter) and calls `body` with the
    /// index and the content of each, in parallel.
    pub(crate) fn pieces<T: Send>(
        &self,
        data: &mut [T],
        length: usize,
        body: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let total = data.len();
        let base = Disjoint(data.as_mut_ptr());
        self.run(total.div_ceil(length), &|piece| {
            let start = piece * length;
            // SAFETY: pieces are in bounds and disjoint, each is visited once, and `data` stays
            // mutably borrowed until `run` returns.
            body(piece, unsafe {
                base.slice(start..total.min(start + length))
            });
        });
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Release);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches what bodies throw, so there is no panic to pass on.
            let _ = worker.join();
        }
    }
}

/// A mutable buffer of which threads write disjoint parts.
pub(crate) struct Disjoint<T>(*mut T);

// SAFETY: it is a pointer; using it is unsafe, and its users keep to disjoint parts.
unsafe impl<T: Send> Sync for Disjoint<T> {}

impl<T> Disjoint<T> {
    pub(crate) fn new(data: &mut [T]) -> Self {
        Self(data.as_mut_ptr())
    }

    /// # Safety
    /// The range is in bounds of the buffer, which outlives the result, and no other access to it
    /// overlaps.
    #[expect(clippy::mut_from_ref, reason = "the caller promises disjoint ranges")]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once() {
        for threads in 1..5 {
            let pool = Pool::new(threads);
            for chunks in (0..40).chain([1000]) {
                let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, &|chunk| {
                    counts[chunk].fetch_add(1, Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Relaxed) == 1));
            }
        }
    }

    #[test]
    fn results_of_workers_are_seen_by_the_caller() {
        let pool = Pool::new(4);
        for round in 0..2000u64 {
            let mut data = [0u64; 64];
            pool.pieces(&mut data, 3, |piece, part| part.fill(round + piece as u64));
            assert!(
                data.iter()
                    .enumerate()
                    .all(|(i, &x)| x == round + i as u64 / 3)
            );
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in [0, 17, 99] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, &|chunk| assert_ne!(chunk, bad));
            }));
            assert!(outcome.is_err());
        }
        let total = AtomicUsize::new(0);
        pool.run(100, &|chunk| {
            total.fetch_add(chunk, Relaxed);
        });
        assert_eq!(total.into_inner(), 4950);
    }

    #[test]
    fn nested_and_concurrent_loops_finish() {
        let (pool, total) = (Pool::new(3), AtomicUsize::new(0));
        let nested = |_| {
            pool.run(10, &|_| {
                total.fetch_add(1, Relaxed);
            });
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| pool.run(10, &nested));
            }
        });
        assert_eq!(total.into_inner(), 400);
    }
}
