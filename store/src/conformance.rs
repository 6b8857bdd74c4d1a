//! The rules R1 to R22, each as a test that runs over every engine.

use std::sync::Arc;

use futures_util::{FutureExt, future::join_all};

use crate::*;

/// One rule and its proof over any store.
macro_rules! rules {
    ($($name:ident: |$store:ident| $body:block)+) => {
        $(async fn $name($store: Arc<dyn Store>) { $body })+

        mod memory {
            use super::*;
            $(#[tokio::test] async fn $name() {
                super::$name(Arc::new(MemoryStore::new())).await;
            })+
        }
        mod sqlite {
            use super::*;
            $(#[tokio::test] async fn $name() {
                let folder = tempfile::tempdir().unwrap();
                let store = SqliteStore::open(&folder.path().join("store.db")).unwrap();
                super::$name(Arc::new(store)).await;
            })+
        }
    };
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> Rev {
    store.txn(Txn::new().put(key, value.as_bytes())).await.unwrap().rev
}

async fn delete(store: &Arc<dyn Store>, range: Range) -> Committed {
    store.txn(Txn::new().then(Op::Delete(range))).await.unwrap()
}

async fn get(store: &Arc<dyn Store>, key: &str) -> Option<Arc<Kv>> {
    store.range(Query::key(key)).await.unwrap().first().cloned()
}

async fn rev(store: &Arc<dyn Store>) -> Rev {
    store.status().await.unwrap().rev
}

fn prefix(text: &str) -> Range {
    Range::Prefix(text.to_owned())
}

/// Like `put:/a`, `new:/a`, `del:/a`.
fn shown(event: &Event) -> String {
    let what = match (&event.before, &event.after) {
        (None, Some(_)) => "new",
        (Some(_), Some(_)) => "put",
        (_, None) => "del",
    };
    format!("{what}:{}", event.key)
}

fn batch(delivery: Option<Delivery>) -> (Rev, Vec<String>) {
    match delivery {
        Some(Delivery::Batch(batch)) => (batch.rev, batch.events.iter().map(shown).collect()),
        other => panic!("expected a batch, got {other:?}"),
    }
}

rules! {
    r1_a_fresh_store_is_at_revision_one_and_each_change_adds_one: |store| {
        assert_eq!(rev(&store).await, 1);
        assert_eq!(put(&store, "/a", "1").await, 2);
        assert_eq!(put(&store, "/b", "1").await, 3);
        assert_eq!(rev(&store).await, 3);
    }

    r2_all_writes_of_a_transaction_share_a_revision: |store| {
        put(&store, "/gone", "1").await;
        let txn = Txn::new().put("/a", *b"1").put("/b", *b"2").delete("/gone");
        let done = store.txn(txn).await.unwrap();
        assert_eq!(done.rev, 3);
        assert_eq!(done.outcomes, [Outcome::Put, Outcome::Put, Outcome::Deleted(1)]);
        for key in ["/a", "/b"] {
            assert_eq!(get(&store, key).await.unwrap().mod_rev, 3, "{key}");
        }
    }

    r3_writing_an_equal_value_is_a_change: |store| {
        let first = put(&store, "/a", "1").await;
        let mut watch = store.watch(prefix("/"), first).await.unwrap();
        let second = put(&store, "/a", "1").await;
        assert_eq!(second, first + 1);
        assert_eq!(get(&store, "/a").await.unwrap().version, 2);
        assert_eq!(batch(watch.next().await), (second, vec!["put:/a".to_owned()]));
    }

    r4_changing_nothing_leaves_the_revision_alone: |store| {
        put(&store, "/a", "1").await;
        assert_eq!(delete(&store, Range::Key("/absent".into())).await.rev, 2);
        let txn = Txn::new().when(Compare::Absent("/a".into())).put("/a", *b"2");
        let refused = store.txn(txn).await.unwrap();
        assert!(!refused.succeeded);
        assert_eq!((refused.rev, refused.outcomes.len()), (2, 0));
        assert_eq!(rev(&store).await, 2);
    }

    r5_deleting_a_prefix_is_one_revision: |store| {
        for key in ["/a/1", "/a/2", "/a/3", "/b"] {
            put(&store, key, "x").await;
        }
        let before = rev(&store).await;
        let mut watch = store.watch(prefix("/"), before).await.unwrap();
        let done = delete(&store, prefix("/a/")).await;
        assert_eq!((done.rev, done.outcomes), (before + 1, vec![Outcome::Deleted(3)]));
        assert_eq!(batch(watch.next().await).1, ["del:/a/1", "del:/a/2", "del:/a/3"]);
        assert_eq!(store.range(Query::prefix("")).await.unwrap().kvs.len(), 1);
    }

    r6_a_key_made_again_starts_again: |store| {
        put(&store, "/a", "1").await;
        put(&store, "/a", "2").await;
        let kv = get(&store, "/a").await.unwrap();
        assert_eq!((kv.create_rev, kv.mod_rev, kv.version, &*kv.value), (2, 3, 2, &b"2"[..]));
        delete(&store, Range::Key("/a".into())).await;
        put(&store, "/a", "3").await;
        let kv = get(&store, "/a").await.unwrap();
        assert_eq!((kv.create_rev, kv.mod_rev, kv.version), (5, 5, 1));
    }

    r7_a_transaction_writes_a_key_once: |store| {
        for txn in [
            Txn::new().put("/a", *b"1").put("/a", *b"2"),
            Txn::new().put("/a", *b"1").delete("/a"),
            Txn::new().put("/a/b", *b"1").then(Op::Delete(prefix("/a"))),
            Txn::new().then(Op::Delete(prefix("/a"))).then(Op::Delete(prefix("/a/b"))),
        ] {
            let error = store.txn(txn.clone()).await.unwrap_err();
            assert!(matches!(error, Error::DuplicateKey { .. }), "{txn:?}: {error}");
        }
        assert_eq!(rev(&store).await, 1);
    }

    r8_large_transactions_are_refused_whole: |store| {
        let many = |n: usize| (0..n).fold(Txn::new(), |txn, i| txn.put(format!("/{i:03}"), *b"x"));
        let value = |n: usize| Txn::new().put("/v", vec![0; n]);
        let four = (0..4).fold(Txn::new(), |txn, i| txn.put(format!("/{i}"), vec![0; 256 << 10]));
        for (what, txn, fits) in [
            ("100 operations", many(100), true),
            ("101 operations", many(101), false),
            ("a value of 256 KiB", value(256 << 10), true),
            ("a value above", value((256 << 10) + 1), false),
            ("more than 1 MiB in all", four, false),
            ("a key above 1 KiB", Txn::new().put("k".repeat(1025), *b""), false),
        ] {
            let before = rev(&store).await;
            let result = store.txn(txn).await;
            match fits {
                true => assert!(result.is_ok(), "{what}"),
                false => assert!(matches!(result, Err(Error::TooLarge { .. })), "{what}"),
            }
            assert_eq!(rev(&store).await, before + i64::from(fits), "{what}");
        }
    }

    r9_an_empty_key_is_refused_and_an_empty_value_is_not: |store| {
        assert!(matches!(store.txn(Txn::new().put("", *b"x")).await, Err(Error::EmptyKey)));
        let empty = Txn::new().when(Compare::Absent("".into()));
        assert!(matches!(store.txn(empty).await, Err(Error::EmptyKey)));
        assert!(matches!(store.range(Query::key("")).await, Err(Error::EmptyKey)));
        put(&store, "/a", "").await;
        assert_eq!(get(&store, "/a").await.unwrap().value.len(), 0);
    }

    r10_r11_compares_ask_for_revisions_and_zero_means_absent: |store| {
        put(&store, "/a", "1").await;
        put(&store, "/a", "2").await;
        let (a, z) = (|| "/a".to_owned(), || "/z".to_owned());
        for (compare, want) in [
            (Compare::Absent(z()), true),
            (Compare::Absent(a()), false),
            (Compare::ModRev(a(), 3), true),
            (Compare::ModRev(a(), 2), false),
            (Compare::ModRev(z(), 0), true),
            (Compare::CreateRev(a(), 2), true),
            (Compare::CreateRev(a(), 3), false),
            (Compare::CreateRev(z(), 0), true),
        ] {
            let got = store.txn(Txn::new().when(compare.clone())).await.unwrap().succeeded;
            assert_eq!(got, want, "{compare:?}");
        }
        let both = Txn::new().when(Compare::Absent(z())).when(Compare::Absent(a()));
        assert!(!store.txn(both).await.unwrap().succeeded, "all compares must hold");
    }

    r12_a_transaction_does_not_read_what_it_writes: |store| {
        put(&store, "/b", "old").await;
        for query in [Query::key("/a"), Query::prefix("/")] {
            let txn = Txn::new().put("/a", *b"1").then(Op::Get(query));
            let error = store.txn(txn).await.unwrap_err();
            assert!(matches!(error, Error::ReadOfWritten { .. }), "{error}");
        }
        let mixed = Txn::new().put("/a", *b"1").then(Op::Get(Query::key("/b")));
        match &store.txn(mixed).await.unwrap().outcomes[..] {
            [Outcome::Put, Outcome::Got(got)] => assert_eq!(&*got.first().unwrap().value, b"old"),
            other => panic!("{other:?}"),
        }
        let other = Txn::new()
            .when(Compare::Absent("/a".into()))
            .otherwise(Op::Get(Query::key("/a")));
        match &store.txn(other).await.unwrap().outcomes[..] {
            [Outcome::Got(got)] => assert_eq!(&*got.first().unwrap().value, b"1"),
            other => panic!("{other:?}"),
        }
    }

    r13_concurrent_increments_lose_nothing: |store| {
        put(&store, "/n", "0").await;
        let adders = (0..8).map(|_| async {
            for _ in 0..25 {
                loop {
                    let kv = get(&store, "/n").await.unwrap();
                    let n: u32 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
                    let add = Txn::new().when(Compare::ModRev("/n".into(), kv.mod_rev));
                    let add = add.put("/n", (n + 1).to_string().into_bytes());
                    if store.txn(add).await.unwrap().succeeded {
                        break;
                    }
                }
            }
        });
        join_all(adders).await;
        assert_eq!(&*get(&store, "/n").await.unwrap().value, b"200");
        assert_eq!(rev(&store).await, 202);
    }

    r14_a_limit_says_how_many_there_are: |store| {
        for key in ["/a", "/b", "/c", "x"] {
            put(&store, key, "value").await;
        }
        let page = store.range(Query::prefix("/").limit(2).keys_only().counted()).await.unwrap();
        let keys = |page: &Ranged| page.kvs.iter().map(|kv| kv.key.to_string()).collect::<Vec<_>>();
        let want = (vec!["/a".into(), "/b".into()], true, Some(3), 5);
        assert_eq!((keys(&page), page.more, page.count, page.rev), want);
        let none = store.range(Query::prefix("/").limit(0).counted()).await.unwrap();
        assert_eq!((keys(&none), none.more, none.count), (vec![], true, Some(3)));
        assert!(page.kvs.iter().all(|kv| kv.value.is_empty()));
        let next = Range::PrefixAfter { prefix: "/".into(), after: "/b".into() };
        let page = store.range(Query::from(next).counted()).await.unwrap();
        assert_eq!((keys(&page), page.more, page.count), (vec!["/c".into()], false, Some(1)));
        let all = store.range(Query::prefix("")).await.unwrap();
        // Counting has a cost, so it is done on request only.
        assert_eq!((all.kvs.len(), all.more, all.count), (4, false, None));
    }

    r15_a_transaction_that_is_not_waited_for_still_happens_or_does_not: |store| {
        drop(store.txn(Txn::new().put("/never", *b"1"))); // never polled: never handed over
        let mut once = store.txn(Txn::new().put("/once", *b"1"));
        let _ = (&mut once).now_or_never(); // handed over, and then no longer awaited
        drop(once);
        put(&store, "/after", "1").await;
        assert!(get(&store, "/never").await.is_none());
        assert!(get(&store, "/once").await.is_some(), "handed over means done");
    }

    r16_compaction_goes_forward_and_not_into_the_future: |store| {
        for _ in 0..4 {
            put(&store, "/a", "1").await;
        }
        assert!(matches!(store.compact(9).await, Err(Error::FutureRev { asked: 9, rev: 5 })));
        store.compact(3).await.unwrap();
        assert_eq!(store.status().await.unwrap().compact_rev, 3);
        for rev in [3, 2] {
            let result = store.compact(rev).await;
            assert!(matches!(result, Err(Error::Compacted { compact_rev: 3, .. })), "{rev}");
        }
        assert!(get(&store, "/a").await.is_some(), "the present stays whole");
    }

    r17_a_watch_starts_between_the_compacted_and_the_present: |store| {
        for key in ["/a", "/b", "/c", "/d"] {
            put(&store, key, "1").await;
        }
        store.compact(3).await.unwrap();
        assert!(matches!(store.watch(prefix("/"), 6).await, Err(Error::FutureRev { .. })));
        assert!(matches!(store.watch(prefix("/"), 2).await, Err(Error::Compacted { .. })));
        let mut watch = store.watch(prefix("/"), 3).await.unwrap();
        assert_eq!(batch(watch.next().await), (4, vec!["new:/c".to_owned()]));
        assert_eq!(batch(watch.next().await), (5, vec!["new:/d".to_owned()]));
        let mut live = store.watch(prefix("/"), 5).await.unwrap();
        delete(&store, Range::Key("/a".into())).await;
        assert_eq!(batch(live.next().await), (6, vec!["del:/a".to_owned()]));
    }

    r18_a_watch_is_ordered_complete_filtered_and_bookmarked: |store| {
        let mut watch = store.watch(prefix("/a/"), 1).await.unwrap();
        for i in 0..50 {
            put(&store, "/a/x", &i.to_string()).await;
            put(&store, "/b/x", "noise").await;
        }
        let mut before: Option<Arc<Kv>> = None;
        for i in 0..50 {
            let Some(Delivery::Batch(batch)) = watch.next().await else { panic!("batch {i}") };
            assert_eq!(batch.rev, 2 + 2 * i, "ordered, unique, nothing missing");
            assert_eq!(batch.events[0].before, before, "what it was, exactly");
            before = batch.events[0].after.clone();
            if i < 49 {
                assert_eq!(watch.progress(), batch.rev);
            }
        }
        assert_eq!(watch.progress(), 101, "the noise is behind it too");
        let mut resumed = store.watch(prefix("/a/"), 99).await.unwrap();
        assert_eq!(batch(resumed.next().await).0, 100);
        assert!(resumed.next().now_or_never().is_none());
    }

    r19_a_transaction_arrives_as_one_batch: |store| {
        let mut watch = store.watch(prefix("/"), 1).await.unwrap();
        store.txn(Txn::new().put("/b", *b"1").put("/a", *b"1").put("x", *b"1")).await.unwrap();
        assert_eq!(batch(watch.next().await), (2, vec!["new:/b".to_owned(), "new:/a".to_owned()]));
        assert!(watch.next().now_or_never().is_none());
    }

    r20_r21_a_slow_consumer_is_told_what_it_lost_and_can_start_again: |store| {
        let mut watch = store.watch(prefix("/"), 1).await.unwrap();
        let writes = (0..1100).map(|i| store.txn(Txn::new().put(format!("/{i:04}"), *b"x")));
        assert!(join_all(writes).await.into_iter().all(|done| done.is_ok()));
        for want in 2..2 + 1024 {
            assert_eq!(batch(watch.next().await).0, want);
        }
        assert_eq!(watch.next().await, Some(Delivery::Lost(1025)));
        assert_eq!(watch.progress(), 1025);
        assert_eq!(watch.next().await, None);
        let list = store.range(Query::prefix("/")).await.unwrap();
        assert_eq!((list.kvs.len(), list.rev), (1100, 1101));
        assert!(store.watch(prefix("/"), list.rev).await.is_ok());
    }

    r20_a_buffer_is_bounded_in_bytes_too: |store| {
        let mut watch = store.watch(prefix("/"), 1).await.unwrap();
        for _ in 0..20 {
            store.txn(Txn::new().put("/big", vec![0; 256 << 10])).await.unwrap();
        }
        let mut got = 0;
        while let Some(Delivery::Batch(_)) = watch.next().await {
            got += 1;
        }
        assert!((4..=16).contains(&got), "{got} batches of half a megabyte fit into 4 MiB");
    }

    r22_compaction_takes_nothing_from_a_live_watch: |store| {
        let mut watch = store.watch(prefix("/"), 1).await.unwrap();
        for _ in 0..3 {
            put(&store, "/a", "1").await;
        }
        store.compact(4).await.unwrap();
        for want in [2, 3, 4] {
            assert_eq!(batch(watch.next().await).0, want);
        }
    }

    the_past_is_bounded_in_bytes: |store| {
        for _ in 0..300 {
            store.txn(Txn::new().put("/big", vec![0; 256 << 10])).await.unwrap();
        }
        let status = store.status().await.unwrap();
        assert!(status.rev - status.compact_rev <= 128, "{status:?}");
        assert!(matches!(store.watch(prefix("/"), 2).await, Err(Error::Compacted { .. })));
    }

    a_watch_ends_with_its_store: |store| {
        let mut watch = store.watch(prefix("/"), 1).await.unwrap();
        drop(store);
        assert_eq!(watch.next().await, None);
    }
}
