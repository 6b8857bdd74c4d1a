use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Notify;

use crate::{
    Kv, Range, Rev,
    limits::{WATCH_BATCHES_MAX, WATCH_BYTES_MAX},
    state::Change,
};

/// Everything that one transaction changed within the watched range (R19), in the order it was
/// written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The revision of the transaction.
    pub rev: Rev,
    /// Never empty.
    pub events: Vec<Event>,
}

/// One key that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Arc<str>,
    /// What it was; `None` when it was made.
    pub before: Option<Arc<Kv>>,
    /// What it is; `None` when it was deleted.
    pub after: Option<Arc<Kv>>,
}

/// The next item of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The changes of one transaction.
    Batch(Batch),
    /// The consumer was too slow, and everything after this revision is lost to this watch, which
    /// has ended. List again, take the difference, and watch from what the list says (R21).
    Lost(Rev),
}

/// A subscription to changes. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    queue: Arc<Queue>,
    delivered: Rev,
}

impl Watch {
    /// The next delivery, or `None` after [`Delivery::Lost`] and when the store is gone. Cancel
    /// safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        loop {
            let waiting = self.queue.ready.notified();
            {
                let mut inner = self.queue.lock();
                if let Some(batch) = inner.batches.pop_front() {
                    inner.bytes -= bytes_of(&batch);
                    self.delivered = batch.rev;
                    return Some(Delivery::Batch(batch));
                }
                match inner.end {
                    Some(End::Lost) => {
                        inner.end = Some(End::Closed);
                        return Some(Delivery::Lost(self.delivered));
                    }
                    Some(End::Closed) => return None,
                    None => {}
                }
            }
            waiting.await;
        }
    }

    /// A bookmark: everything up to this revision has been delivered (R18).
    pub fn progress(&self) -> Rev {
        let inner = self.queue.lock();
        match inner.batches.is_empty() && inner.end.is_none() {
            true => inner.seen.max(self.delivered),
            false => self.delivered,
        }
    }
}

#[derive(Debug)]
struct Queue {
    inner: Mutex<Inner>,
    ready: Notify,
}

#[derive(Debug)]
struct Inner {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// The newest revision that was offered.
    seen: Rev,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Lost,
    Closed,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the changes in `range`. Whether the watch goes on.
    fn offer(&self, range: &Range, rev: Rev, changes: &[Change]) -> bool {
        let events: Vec<Event> = changes
            .iter()
            .filter(|change| range.contains(&change.key))
            .map(|c| Event { key: c.key.clone(), before: c.before.clone(), after: c.after.clone() })
            .collect();
        let mut inner = self.lock();
        inner.seen = rev;
        if events.is_empty() {
            return true;
        }
        let batch = Batch { rev, events };
        let bytes = bytes_of(&batch);
        let fits = inner.batches.len() < WATCH_BATCHES_MAX
            && inner.bytes.saturating_add(bytes) <= WATCH_BYTES_MAX;
        match fits {
            true => {
                inner.bytes += bytes;
                inner.batches.push_back(batch);
            }
            false => inner.end = Some(End::Lost),
        }
        drop(inner);
        self.ready.notify_one();
        fits
    }
}

fn bytes_of(batch: &Batch) -> usize {
    let size = |kv: &Option<Arc<Kv>>| kv.as_ref().map_or(0, |kv| kv.value.len());
    batch
        .events
        .iter()
        .map(|event| event.key.len() + size(&event.before) + size(&event.after) + 64)
        .sum()
}

/// Every live watch.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Vec<(Range, Weak<Queue>)>);

impl Watchers {
    /// A new watch, which starts with the changes in `history`.
    pub fn add<'a>(
        &mut self,
        range: Range,
        after: Rev,
        rev: Rev,
        history: impl Iterator<Item = (Rev, &'a [Change])>,
    ) -> Watch {
        let inner = Inner { batches: VecDeque::new(), bytes: 0, seen: after, end: None };
        let queue = Arc::new(Queue { inner: Mutex::new(inner), ready: Notify::new() });
        let keeps_up = history.into_iter().all(|(rev, changes)| queue.offer(&range, rev, changes));
        if keeps_up {
            queue.lock().seen = rev;
            self.0.push((range, Arc::downgrade(&queue)));
        }
        Watch { queue, delivered: after }
    }

    /// Offers `changes` to every watch, and forgets those that ended.
    pub fn publish(&mut self, rev: Rev, changes: &[Change]) {
        self.0.retain(|(range, queue)| {
            queue.upgrade().is_some_and(|queue| queue.offer(range, rev, changes))
        });
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for queue in self.0.iter().filter_map(|(_, queue)| queue.upgrade()) {
            queue.lock().end.get_or_insert(End::Closed);
            queue.ready.notify_one();
        }
    }
}
