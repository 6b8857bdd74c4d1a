use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;

use crate::*;

/// Names the file for the child process of the kill test; without it that test does nothing.
const CHILD: &str = "MARGAY_STORE_TEST_CHILD";

fn open(path: &Path) -> SqliteStore {
    // A process that was just killed may hold its lock for a moment longer.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match SqliteStore::open(path) {
            Err(Error::InUse { .. }) if std::time::Instant::now() < deadline => {
                std::thread::yield_now()
            }
            result => return result.unwrap(),
        }
    }
}

#[tokio::test]
async fn all_keys_and_revisions_survive_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open(&path);
    store.txn(Txn::new().put("/a", *b"1").put("/b", *b"2")).await.unwrap();
    store.txn(Txn::new().put("/a", *b"3").delete("/b")).await.unwrap();
    let (before, status) =
        (store.range(Query::prefix("")).await.unwrap(), store.status().await.unwrap());
    drop(store);
    let store = open(&path);
    assert_eq!(store.range(Query::prefix("")).await.unwrap(), before);
    let again = store.status().await.unwrap();
    assert_eq!((again.rev, again.cluster_id), (status.rev, status.cluster_id));
    assert_eq!(
        again.compact_rev, 3,
        "events do not survive, so no watch may resume before the current revision"
    );
    assert!(matches!(
        store.watch(Range::Prefix("/".into()), 2).await,
        Err(Error::Compacted { .. })
    ));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_open_reports_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let _first = open(&path);
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(error.to_string().ends_with("is in use by another process"), "{error}");
}

#[test]
fn a_file_of_a_newer_margay_and_one_that_is_no_store_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(open(&path));
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute("UPDATE meta SET value = 9 WHERE name = 'format'", [])
        .unwrap();
    let error = SqliteStore::open(&path).unwrap_err().to_string();
    assert!(error.ends_with("has format 9, and this margay knows 1"), "{error}");
    std::fs::write(&path, "not a database, and longer than its header would be: ".repeat(40))
        .unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(Error::Open { .. })));
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(open(&path));
    let store = SqliteStore::open_with(&path, "PRAGMA max_page_count = 16").unwrap();
    let mut written = 0;
    let error = loop {
        match store.txn(Txn::new().put(format!("/{written}"), vec![7; 8 << 10])).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let list = store.range(Query::prefix("/").keys_only()).await.unwrap();
    assert_eq!((list.kvs.len(), list.rev), (written, 1 + written as Rev));
    store.txn(Txn::new().then(Op::Delete(Range::Prefix("/".into())))).await.unwrap();
    store.txn(Txn::new().put("/again", vec![7; 8 << 10])).await.unwrap();
    drop(store);
    assert_eq!(open(&path).range(Query::prefix("/")).await.unwrap().kvs.len(), 1);
}

/// Not a test of its own: the process that the next one kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = Arc::new(SqliteStore::open(Path::new(&path)).unwrap());
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        async move {
            for i in 0u64.. {
                store
                    .txn(
                        Txn::new()
                            .put(format!("/{writer}/{i}"), *b"x")
                            .put(format!("/{writer}"), *b"y"),
                    )
                    .await
                    .unwrap();
                eprintln!("acknowledged /{writer}/{i}");
            }
        }
    });
    join_all(writers).await;
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    for acknowledged_before_the_kill in [1, 57, 200] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut keys = Vec::new();
        let mut killed = false;
        for line in lines {
            keys.extend(line.strip_prefix("acknowledged ").map(str::to_owned));
            if keys.len() >= acknowledged_before_the_kill && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(keys.len() >= acknowledged_before_the_kill, "{keys:?}");
        let store = open(&path);
        for key in keys {
            assert_eq!(
                store.range(Query::key(key.clone())).await.unwrap().kvs.len(),
                1,
                "{key} was acknowledged"
            );
        }
        let rev = store.status().await.unwrap().rev;
        let all = store.range(Query::prefix("/")).await.unwrap();
        assert_eq!(
            all.kvs.iter().map(|kv| kv.mod_rev).max(),
            Some(rev),
            "the counter fits the keys"
        );
    }
}
