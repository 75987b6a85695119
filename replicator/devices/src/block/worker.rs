//! The thread that does a disk's I/O, one request after the other.
//!
//! One FIFO is what makes order correctness: a flush follows the writes that were released before it, and two writes of the
//! same sectors reach them in the guest's order.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::buffer::Buffer;

/// Names a request. No disk ever uses one twice, so what comes back late finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RequestId(pub(super) u64);

/// What to do with the image. Offsets and lengths are in bytes.
#[derive(Debug)]
pub(super) enum Work {
    Read {
        offset: u64,
        buffer: Buffer,
    },
    Write {
        offset: u64,
        buffer: Buffer,
        /// Complete only when it is on stable storage: for a driver that does not flush.
        durable: bool,
    },
    Flush,
}

/// Work for the thread.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: RequestId,
    pub(super) work: Work,
}

/// Work that was done.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) id: RequestId,
    pub(super) work: Work,
    pub(super) result: io::Result<()>,
}

/// The event loop's end of the thread. When it is dropped, the thread does what it has and ends.
#[derive(Debug)]
pub(super) struct Worker {
    queue: Arc<Queue>,
    done: Arc<Done>,
    /// Handed to the thread and not yet [taken back](Worker::take_done).
    submitted: usize,
}

/// What the thread has not begun.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// Nothing more comes.
    closed: bool,
    /// A job has failed, and those behind it must not go before it.
    halted: bool,
    /// The job that the thread works on.
    begun: Option<RequestId>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the next one, as soon as there is one; `None` after the last.
    fn next(&self) -> Option<Job> {
        let idle = |waiting: &mut Waiting| (waiting.jobs.is_empty() || waiting.halted) && !waiting.closed;
        let mut waiting = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let job = waiting.jobs.pop_front();
        waiting.begun = job.as_ref().map(|job| job.id);
        job
    }

    /// The one that was begun is done; with `halts` nothing is begun until somebody says so.
    fn ended(&self, halts: bool) {
        let mut waiting = self.lock();
        waiting.begun = None;
        waiting.halted |= halts;
    }
}

#[derive(Debug)]
struct Done {
    completions: Mutex<Vec<Completion>>,
    /// Never read: a write makes an edge-triggered poller look again whatever the count is.
    event: EventFd,
}

impl Done {
    fn lock(&self) -> MutexGuard<'_, Vec<Completion>> {
        self.completions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, completion: Completion) {
        let mut completions = self.lock();
        completions.push(completion);
        let first = completions.len() == 1;
        drop(completions);
        if first {
            self.wake();
        }
    }

    fn wake(&self) {
        // A count at its maximum (EAGAIN) has been signalled often enough.
        let _ = self.event.write(1);
    }
}

impl Worker {
    /// The thread has `perform` do each job. With `halts` nothing is done after a job that failed until it is [tried again](Worker::retry), or all is
    /// [begun anew](Worker::go_on).
    ///
    /// # Errors
    /// No eventfd or no thread is to be had.
    pub(super) fn start(
        name: String,
        halts: bool,
        perform: impl FnMut(&mut Work) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Worker> {
        let done = Arc::new(Done { completions: Mutex::new(Vec::new()), event: EventFd::new(EFD_NONBLOCK)? });
        let queue = Arc::new(Queue::default());
        let (their_queue, their_done) = (Arc::clone(&queue), Arc::clone(&done));
        thread::Builder::new().name(name).spawn(move || run(perform, halts, &their_queue, &their_done))?;
        Ok(Worker { queue, done, submitted: 0 })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.done.event.as_raw_fd()
    }

    /// Makes the event loop look here.
    pub(super) fn wake(&self) {
        self.done.wake();
    }

    pub(super) fn submit(&mut self, job: Job) {
        self.submitted += 1;
        self.queue.lock().jobs.push_back(job);
        self.queue.changed.notify_one();
    }

    /// Does a job that has failed once more, and then what waits behind it.
    pub(super) fn retry(&mut self, job: Job) {
        self.submitted += 1;
        self.queue.lock().jobs.push_front(job);
        self.go_on();
    }

    /// Goes on without the job that has failed.
    pub(super) fn go_on(&self) {
        self.queue.lock().halted = false;
        self.queue.changed.notify_one();
    }

    /// Takes back what the thread has not begun, in order.
    pub(super) fn recall(&mut self) -> VecDeque<Job> {
        let jobs = std::mem::take(&mut self.queue.lock().jobs);
        self.submitted -= jobs.len();
        jobs
    }

    /// The job that the thread has begun and not ended: whatever it is told, that one may still be done.
    pub(super) fn begun(&self) -> Option<RequestId> {
        self.queue.lock().begun
    }

    pub(super) fn submitted(&self) -> usize {
        self.submitted
    }

    /// Moves what was done to `into`, in order.
    pub(super) fn take_done(&mut self, into: &mut Vec<Completion>) {
        let mut completions = self.done.lock();
        self.submitted -= completions.len();
        into.append(&mut completions);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_one();
    }
}

fn run(mut perform: impl FnMut(&mut Work) -> io::Result<()>, halts: bool, queue: &Queue, done: &Done) {
    while let Some(Job { id, mut work }) = queue.next() {
        let result = perform(&mut work);
        queue.ended(halts && result.is_err());
        done.push(Completion { id, work, result });
    }
}

impl Work {
    /// Does it to the image.
    pub(super) fn perform(&mut self, file: &File) -> io::Result<()> {
        match self {
            Work::Read { offset, buffer } => file.read_exact_at(buffer, *offset),
            Work::Write { offset, buffer, durable } => {
                file.write_all_at(buffer, *offset)?;
                if *durable { file.sync_data() } else { Ok(()) }
            }
            Work::Flush => file.sync_data(),
        }
    }
}
