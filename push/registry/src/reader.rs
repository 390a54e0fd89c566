//! The threads that read. They are fixed, not tokio's: pages are allocated where they are read, and an allocator that keeps an arena per
//! thread would otherwise hold the cache many times over. Long reads have one of the two at most, so that a call never waits for a list.

use std::{io, sync::Arc, thread};

use parking_lot::Mutex;
use tokio::sync::mpsc;

/// So many reads may wait.
const MOST_WAITING: usize = 256;

/// Threads, of which one is always left to short reads.
const READERS: usize = 2;

/// A read that answers whoever asked.
pub(crate) type Read = Box<dyn FnOnce() + Send>;

pub(crate) fn start() -> io::Result<mpsc::Sender<Read>> {
    let (queue, reads) = mpsc::channel(MOST_WAITING);
    let reads = Arc::new(Mutex::new(reads));
    for _ in 0..READERS {
        let reads = Arc::clone(&reads);
        thread::Builder::new().name("push-reader".to_owned()).spawn(move || run(&reads))?;
    }
    Ok(queue)
}

/// Until the last handle is dropped.
fn run(reads: &Mutex<mpsc::Receiver<Read>>) {
    loop {
        // One waits for the next read, the other for its turn to wait.
        let next = reads.lock().blocking_recv();
        match next {
            Some(read) => read(),
            None => return,
        }
    }
}
