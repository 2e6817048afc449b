//! Syncs the journal in the background when interactions have waited long enough.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::journal::{GROUP_TIME, Journal};
use crate::sync::lock;

/// How often the journal is looked at: a record waits at most this much longer than it should.
const PERIOD: Duration = Duration::from_millis(500);

/// A thread that begins with the first [`Flusher::wake`] and ends when this is dropped.
pub(crate) struct Flusher {
    journal: Weak<Mutex<Journal>>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: OnceLock<Option<JoinHandle<()>>>,
}

impl Flusher {
    pub(crate) fn new(journal: &Arc<Mutex<Journal>>) -> Flusher {
        Flusher { journal: Arc::downgrade(journal), stop: Arc::default(), thread: OnceLock::new() }
    }

    /// To be called when an interaction was recorded.
    pub(crate) fn wake(&self) {
        self.thread.get_or_init(|| {
            let (journal, stop) = (self.journal.clone(), self.stop.clone());
            // Without a thread the next record, or the end, syncs.
            thread::Builder::new().name("journal".into()).spawn(move || run(&journal, &stop)).ok()
        });
    }
}

fn run(journal: &Weak<Mutex<Journal>>, (stopped, change): &(Mutex<bool>, Condvar)) {
    let mut stop = stopped.lock().unwrap_or_else(PoisonError::into_inner);
    while !*stop {
        stop = change.wait_timeout(stop, PERIOD).unwrap_or_else(PoisonError::into_inner).0;
        let Some(journal) = journal.upgrade().filter(|_| !*stop) else { continue };
        let mut journal = lock(&journal);
        if journal.is_due() {
            // A failure shows at the next record.
            let _ = journal.flush();
        }
    }
}

const _: () = assert!(PERIOD.as_millis() * 4 <= GROUP_TIME.as_millis());

impl Drop for Flusher {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take().flatten() {
            let _ = thread.join();
        }
    }
}
