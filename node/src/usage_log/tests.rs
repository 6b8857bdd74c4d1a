use super::*;

fn meter(task: &str) -> Meter {
    Meter {
        tenant: "acme".parse().unwrap(),
        task: task.parse().unwrap(),
        container: "cats".parse().unwrap(),
        image: Digest::of(b"cats"),
    }
}

fn reading(runs: u64) -> Usage {
    Usage { runs, cpu_ns: runs * 1000, memory_bytes_peak: 5, ..Usage::default() }
}

fn node() -> NodeId {
    "n1".parse().unwrap()
}

/// A folder whose flushes cost nothing, where the machine has one: this is about bytes, not about
/// the disk.
fn memory_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// A ledger as strict as the real one: it takes a batch that follows on, once.
#[derive(Default)]
struct Ledger {
    cursors: BTreeMap<String, u64>,
    runs: u64,
}

impl Ledger {
    fn take(&mut self, batch: &UsageBatch) {
        let cursor = self.cursors.entry(batch.boot.clone()).or_default();
        for record in &batch.records {
            if record.seq <= *cursor {
                continue; // a replay
            }
            assert_eq!(record.seq, *cursor + 1, "a gap in {}", batch.boot);
            *cursor = record.seq;
            self.runs += record.usage.runs;
        }
    }

    fn drain(&mut self, log: &mut UsageLog) {
        while let Some(batch) = log.batch(&node()).unwrap() {
            self.take(&batch);
            self.take(&batch); // the answer was lost, and it is sent again
            log.acknowledge(&batch.boot, batch.records.last().unwrap().seq).unwrap();
        }
    }
}

#[test]
fn every_run_reaches_the_ledger_once_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    let mut total = 0;
    for life in 0..5u64 {
        let mut log = UsageLog::open(folder.path()).unwrap();
        for tick in 1..=3 {
            total += 1;
            log.measure(
                Timestamp::default(),
                [(meter("a"), reading(total)), (meter("b"), reading(total * 2))],
            )
            .unwrap();
            if (life + tick) % 3 == 0 {
                ledger.drain(&mut log);
            }
        }
    }
    let mut log = UsageLog::open(folder.path()).unwrap();
    ledger.drain(&mut log);
    assert_eq!(ledger.runs, total * 3);
    assert!(log.batch(&node()).unwrap().is_none());
    assert_eq!(
        logs(folder.path()).unwrap().len(),
        1,
        "what the ledger has is gone, the open log stays"
    );
}

#[test]
fn a_log_that_was_cut_at_any_byte_is_taken_up_without_loss_or_double_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = UsageLog::open(folder.path()).unwrap();
    for runs in 1..=4 {
        log.measure(Timestamp::default(), [(meter("a"), reading(runs))]).unwrap();
    }
    let path = log_path(folder.path(), &log.boot);
    let bytes = fs::read(&path).unwrap();
    drop(log);
    for length in 0..=bytes.len() {
        let copy = memory_folder();
        fs::write(copy.path().join(path.file_name().unwrap()), &bytes[..length]).unwrap();
        let mut log = UsageLog::open(copy.path()).unwrap();
        // The counters outlived the crash: the next reading has everything.
        log.measure(Timestamp::default(), [(meter("a"), reading(7))]).unwrap();
        let mut ledger = Ledger::default();
        ledger.drain(&mut log);
        assert_eq!(ledger.runs, 7, "cut at byte {length} of {}", bytes.len());
    }
}

#[test]
fn a_flipped_byte_ends_the_log_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = UsageLog::open(folder.path()).unwrap();
    for runs in 1..=3 {
        log.measure(Timestamp::default(), [(meter("a"), reading(runs))]).unwrap();
    }
    let path = log_path(folder.path(), &log.boot);
    let bytes = fs::read(&path).unwrap();
    let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let records = replay(&path).unwrap().records;
        assert!(records.len() < 3, "byte {at}");
        assert!(at < second || records.first().is_some_and(|record| record.seq == 1), "byte {at}");
    }
}

#[test]
fn a_reading_that_has_not_grown_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = UsageLog::open(folder.path()).unwrap();
    for _ in 0..3 {
        log.measure(Timestamp::default(), [(meter("a"), reading(2))]).unwrap();
    }
    // A page that was made anew.
    log.measure(Timestamp::default(), [(meter("a"), reading(1))]).unwrap();
    assert_eq!(log.records().unwrap().len(), 1);
}

#[test]
fn a_ledger_that_has_less_than_it_acknowledged_gets_all_of_the_log_again() {
    let folder = memory_folder();
    let mut log = UsageLog::open(folder.path()).unwrap();
    let mut ledger = Ledger::default();
    for runs in [2, 5] {
        log.measure(Timestamp::from_millis(1), [(meter("t"), reading(runs))]).unwrap();
        ledger.drain(&mut log);
    }
    // It was restored from a backup of the first record, and has forgotten the second.
    log.measure(Timestamp::from_millis(1), [(meter("t"), reading(9))]).unwrap();
    let mut restored =
        Ledger { cursors: ledger.cursors.keys().map(|boot| (boot.clone(), 1)).collect(), runs: 2 };
    let batch = log.batch(&node()).unwrap().unwrap();
    assert!(batch.records[0].seq > 2, "what it does not take: it misses the second");
    log.rewind(&batch.boot).unwrap();
    restored.drain(&mut log);
    assert_eq!(restored.runs, 9);
}
