use super::*;

#[test]
fn replicas_spread_over_zones_and_then_over_nodes() {
    let mut cluster = TestCluster::new();
    for (node, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        cluster.node(node, zone, 4000, 4096);
    }
    cluster.define("cats:1", |_| {});
    cluster.service("cats", "cats:1", 4);
    cluster.settle();
    assert_eq!(cluster.running(), ["a1", "a2", "b1", "b1"]);
}

#[test]
fn a_count_goes_up_and_down() {
    let mut cluster = TestCluster::new();
    cluster.node("n1", "a", 4000, 4096);
    cluster.define("cats:1", |_| {});
    for count in [3, 5, 1, 0, 2] {
        cluster.service("cats", "cats:1", count);
        cluster.settle();
        assert_eq!(cluster.running().len(), count as usize, "count {count}");
    }
}

#[test]
fn an_unplaceable_service_says_what_its_nodes_lack() {
    type Case = (&'static str, fn(&mut DefinitionRecord), fn(&mut TestCluster), &'static str);
    let cases: [Case; 7] = [
        ("no node", |_| {}, |w| w.model.nodes.clear(), "you have no node: `margay node join`"),
        ("silent", |_| {}, |w| w.is("n1", NodeCondition::Suspect), "no node is ready"),
        (
            "drained",
            |_| {},
            |w| w.edit_node("n1", |n| n.drain = true),
            "every node that could take it is drained",
        ),
        (
            "native",
            |d| d.runs = vec![Runs::Native(vec!["arm64".to_owned()])],
            |_| {},
            "it is a native image for arm64, and no node has an OCI runtime for it",
        ),
        ("cpu", |d| reserve(2001, 1)(d), |_| {}, "no node has 2.001 CPUs and 8MiB of memory left"),
        (
            "memory",
            |d| reserve(1, 1025)(d),
            |_| {},
            "no node has 0.01 CPUs and 1025MiB of memory left",
        ),
        (
            "volume",
            with_volume,
            |w| {
                let (name, node) = ("book".parse().unwrap(), "gone".parse().unwrap());
                w.mount(&[Volume { name, node, created: w.now() }]);
            },
            "its volume is on node `gone`, which is not available",
        ),
    ];
    for (what, edit, setting, want) in cases {
        let mut cluster = TestCluster::new();
        cluster.node("n1", "a", 2000, 1024);
        cluster.define("cats:1", edit);
        cluster.service("cats", "cats:1", 1);
        setting(&mut cluster);
        assert_eq!(cluster.step(), [""; 0], "{what}");
        assert_eq!(cluster.why(), want, "{what}");
    }
}

#[test]
fn tasks_that_reserve_nothing_still_exhaust_a_node() {
    for (what, cpu_millis, memory_mib, placed, want) in [
        ("by CPU", 100, 64 << 10, 10, "no node has 0.01 CPUs and 8MiB of memory left"),
        ("by memory", 64_000, 80, 10, "no node has 0.01 CPUs and 8MiB of memory left"),
        (
            "by number",
            64_000,
            64 << 10,
            500,
            "every node that could take it has 500 tasks, and that is the most: add a node",
        ),
    ] {
        let mut cluster = TestCluster::new();
        cluster.node("n1", "a", cpu_millis, memory_mib);
        cluster.define("cats:1", reserve(0, 0));
        cluster.service("cats", "cats:1", 510);
        cluster.settle();
        assert_eq!((cluster.running().len(), cluster.why().as_str()), (placed, want), "{what}");
    }
}

#[test]
fn a_host_port_is_given_once_per_node() {
    let mut cluster = TestCluster::new();
    cluster.node("n1", "a", 4000, 4096);
    cluster.node("n2", "a", 4000, 4096);
    cluster.define("cats:1", with_port);
    cluster.service("cats", "cats:1", 3);
    cluster.settle();
    assert_eq!(cluster.running(), ["n1", "n2"]);
    assert_eq!(cluster.why(), "host port 8080 is taken on every node");
}

#[test]
fn pool_tasks_go_to_pool_nodes_and_node_tasks_to_own_nodes() {
    let mut cluster = TestCluster::new();
    cluster.node("own", "a", 4000, 4096);
    cluster.node("shared", "a", 4000, 4096);
    cluster.node("both", "a", 100, 4096);
    cluster.node("strange", "a", 4000, 4096);
    cluster.edit_node("shared", |n| n.tenant = None);
    cluster.edit_node("strange", |n| n.tenant = Some("other".parse().unwrap()));
    for node in ["shared", "both"] {
        cluster.edit_node(node, |n| {
            drop(n.spec.labels.insert(POOL_LABEL.to_owned(), "true".to_owned()))
        });
    }
    cluster.define("cats:1", |_| {});
    cluster.service("cats", "cats:1", 4);
    cluster.settle();
    assert_eq!(cluster.running(), ["both", "own", "own", "own"]);
    let key = cluster.model.services.keys().next().unwrap().clone();
    Arc::make_mut(cluster.model.services.get_mut(&key).unwrap()).value.service.spec.launch_type =
        LaunchType::Pool;
    cluster.settle();
    assert!(
        cluster.running().iter().all(|node| node == "shared" || node == "both"),
        "{:?}",
        cluster.running()
    );
}

#[test]
fn a_lost_node_is_replaced_once_and_the_original_stays_when_it_comes_back() {
    let mut cluster = TestCluster::new();
    for node in ["n1", "n2"] {
        cluster.node(node, "a", 4000, 4096);
    }
    cluster.define("cats:1", |_| {});
    cluster.service("cats", "cats:1", 2);
    cluster.settle();
    let originals: BTreeSet<String> =
        cluster.tasks().map(|record| record.id().to_string()).collect();
    cluster.is("n1", NodeCondition::Suspect);
    assert_eq!(cluster.step(), [""; 0], "silence alone moves nothing");
    cluster.is("n1", NodeCondition::Disconnected);
    let steps = cluster.step();
    assert_eq!(steps.iter().filter(|step| step.starts_with("start")).count(), 1, "{steps:?}");
    cluster.act();
    assert_eq!(cluster.step(), [""; 0], "replaced once");
    assert_eq!(cluster.running(), ["n2", "n2"]);
    cluster.is("n1", NodeCondition::Ready);
    cluster.act(); // its task ran all the time
    assert_eq!(cluster.running(), ["n1", "n2", "n2"]);
    cluster.settle();
    let stored: BTreeSet<String> = cluster
        .tasks()
        .filter(|record| record.task.status.phase == TaskPhase::Running)
        .map(|record| record.id().to_string())
        .collect();
    assert_eq!(stored, originals);
}

#[test]
fn a_removed_node_ends_its_tasks_and_they_are_replaced_without_a_wait() {
    let mut cluster = TestCluster::new();
    cluster.node("n1", "a", 4000, 4096);
    cluster.node("n2", "b", 4000, 4096);
    cluster.define("cats:1", |_| {});
    cluster.service("cats", "cats:1", 2);
    cluster.settle();
    cluster.model.nodes.remove(&"n1".parse::<NodeId>().unwrap());
    cluster.settle();
    assert_eq!(cluster.running(), ["n2", "n2"]);
}

#[test]
fn failures_in_a_row_wait_longer_and_longer() {
    let mut cluster = TestCluster::new();
    cluster.node("n1", "a", 4000, 4096);
    cluster.define("cats:1", |_| {});
    cluster.service("cats", "cats:1", 1);
    cluster.settle();
    for wait in [0, 1, 2, 4, 8, 16, 32, 60, 60] {
        cluster.end("exit code 1");
        if wait > 0 {
            cluster.now += wait * 1000 - 1;
            cluster.settle();
            assert_eq!(cluster.running(), [""; 0], "{wait} s have not passed");
            assert!(
                cluster.why().contains("times in a row and waits to be started again: exit code 1"),
                "{}",
                cluster.why()
            );
            cluster.now += 1;
        }
        cluster.settle();
        assert_eq!(cluster.running(), ["n1"], "after {wait} s");
    }
    cluster.now += 61_000;
    cluster.end("exit code 1");
    cluster.settle();
    assert_eq!(cluster.running(), ["n1"], "a replica that ran for a minute starts afresh");
}

#[test]
fn a_replica_that_cannot_start_on_one_node_is_tried_on_another() {
    let mut cluster = TestCluster::new();
    for node in ["n1", "n2", "n3"] {
        cluster.node(node, "a", 4000, 4096);
    }
    cluster.define("cats:1", |_| {});
    cluster.service("cats", "cats:1", 1);
    // Its node gives up, later than a replica takes to count as steady.
    let fail = |cluster: &mut TestCluster| {
        let starting = cluster
            .tasks()
            .find(|record| record.task.status.phase == TaskPhase::Starting)
            .unwrap()
            .clone();
        cluster.now += 90_000;
        cluster.keep(&starting.at(
            TaskPhase::Stopped,
            Some("it cannot be fetched".to_owned()),
            cluster.now(),
        ));
        starting.task.spec.node.unwrap().to_string()
    };
    let mut tried = Vec::new();
    for wait in [0, 0, 1, 2] {
        cluster.now += wait * 1000;
        let starts = cluster.step().into_iter().filter(|step| step.starts_with("start"));
        assert_eq!(starts.count(), 1, "after {tried:?}");
        tried.push(fail(&mut cluster));
    }
    let (three, again) = tried.split_at(3);
    assert_eq!(BTreeSet::from_iter(three).len(), 3, "each once: {tried:?}");
    let starts = cluster.step().into_iter().filter(|step| step.starts_with("start"));
    assert_eq!(starts.count(), 0, "and then it waits longer and longer");
    assert!(
        cluster.why().contains("failed 4 times in a row and waits to be started again"),
        "{}",
        cluster.why()
    );
    assert_eq!(again, &three[..1], "with nowhere else left, any will do: {tried:?}");
    // After a while the node is as good as any.
    cluster.now += 301_000;
    for node in ["n2", "n3"] {
        cluster.edit_node(node, |n| n.drain = true);
    }
    cluster.settle();
    assert_eq!(cluster.running(), ["n1"]);
    // One that ran and ended stays where it was.
    cluster.edit_node("n2", |n| n.drain = false);
    cluster.end("exit code 1");
    cluster.now += 60_000;
    cluster.settle();
    assert_eq!(cluster.running(), ["n1"]);
}

#[test]
fn a_new_revision_replaces_the_old_one_without_a_gap() {
    let mut cluster = TestCluster::new();
    cluster.node("n1", "a", 4000, 4096);
    cluster.define("cats:1", |_| {});
    cluster.define("cats:2", |_| {});
    cluster.service("cats", "cats:1", 3);
    cluster.settle();
    cluster.service("cats", "cats:2", 3);
    for _ in 0..10 {
        let plan = cluster.plan();
        cluster.apply(&plan);
        let serving = cluster
            .tasks()
            .filter(|r| r.task.status.phase == TaskPhase::Running && r.is_wanted())
            .count();
        assert!(serving >= 3, "{serving} replicas serve");
        cluster.act();
    }
    let revisions: BTreeSet<String> = cluster
        .tasks()
        .filter(|record| record.task.status.phase == TaskPhase::Running)
        .map(|record| record.task.spec.task_definition.to_string())
        .collect();
    assert_eq!(revisions, BTreeSet::from(["cats:2".to_owned()]));
}

#[test]
fn without_capacity_for_both_the_old_revision_makes_way_one_replica_at_a_time() {
    let mut cluster = TestCluster::new();
    for node in ["n1", "n2"] {
        cluster.node(node, "a", 4000, 4096);
    }
    for id in ["cats:1", "cats:2"] {
        cluster.define(id, with_port);
    }
    cluster.service("cats", "cats:1", 2);
    cluster.settle();
    cluster.service("cats", "cats:2", 2);
    for _ in 0..20 {
        let plan = cluster.plan();
        cluster.apply(&plan);
        let serving = cluster
            .tasks()
            .filter(|r| r.task.status.phase == TaskPhase::Running && r.is_wanted())
            .count();
        assert!(serving >= 1, "one replica always serves");
        cluster.act();
    }
    cluster.settle();
    let live = cluster.tasks().filter(|record| record.is_wanted());
    assert!(
        live.into_iter().all(|record| record.task.spec.task_definition.to_string() == "cats:2")
    );
    assert_eq!(cluster.running(), ["n1", "n2"]);
}

#[test]
fn tasks_follow_their_volume_and_never_write_to_it_together() {
    let mut cluster = TestCluster::new();
    for node in ["n1", "n2"] {
        cluster.node(node, "a", 4000, 4096);
    }
    for id in ["book:1", "book:2"] {
        cluster.define(id, with_volume);
    }
    cluster.service("book", "book:1", 1);
    cluster.settle();
    let home = cluster.running();
    let volume = cluster.model.volumes.values().next().unwrap().node.to_string();
    assert_eq!(home, std::slice::from_ref(&volume));
    cluster.service("book", "book:2", 1);
    for _ in 0..10 {
        let plan = cluster.plan();
        cluster.apply(&plan);
        let writers = cluster.tasks().filter(|record| !record.has_ended()).count();
        assert!(writers <= 1, "two writers");
        cluster.act();
    }
    assert_eq!(cluster.running(), home);
    cluster.edit_node(&volume, |n| n.drain = true);
    cluster.settle();
    assert_eq!(
        cluster.running(),
        home,
        "a volume cannot move, so its task stays on a drained node"
    );
    cluster.edit_node(&volume, |n| n.drain = false);
    cluster.is(&volume, NodeCondition::Disconnected);
    cluster.settle();
    assert_eq!(cluster.running(), [""; 0], "no other task may write while its node could");
    assert_eq!(cluster.why(), "the task before it still has its volume");
    cluster.is(&volume, NodeCondition::Ready);
    cluster.settle();
    assert_eq!(cluster.running(), home);
}

#[test]
fn an_old_replica_stays_while_the_secret_of_its_replacement_is_missing() {
    let mut cluster = TestCluster::new();
    cluster.node("n1", "a", 4000, 4096);
    cluster.define("book:1", with_volume);
    cluster.define("book:2", |record| {
        with_volume(record);
        record.definition.role.allow.push("secret:key".parse().unwrap());
    });
    cluster.service("book", "book:1", 1);
    cluster.settle();
    let version = |cluster: &TestCluster| -> Vec<String> {
        cluster
            .tasks()
            .filter(|record| record.is_wanted())
            .map(|r| r.task.spec.task_definition.to_string())
            .collect()
    };
    cluster.service("book", "book:2", 1);
    cluster.settle();
    assert_eq!(version(&cluster), ["book:1"]);
    assert_eq!(
        cluster.why(),
        "there is no secret `key`, which its role grants: margay secret create key FILE"
    );
    cluster.model.secrets.insert(("other".parse().unwrap(), "key".parse().unwrap()));
    cluster.settle();
    assert_eq!(version(&cluster), ["book:1"], "the secret of another tenant");
    cluster.model.secrets.insert((tenant(), "key".parse().unwrap()));
    cluster.settle();
    assert_eq!((version(&cluster), cluster.why()), (vec!["book:2".to_owned()], String::new()));
}

#[test]
fn a_volume_has_one_writer_of_any_service_and_any_number_of_readers() {
    let mut cluster = TestCluster::new();
    cluster.node("n1", "a", 4000, 4096);
    cluster.define("ann:1", with_volume);
    cluster.define("bob:1", |record| {
        // By a line of its role instead of a mount: the same volume.
        record.definition.role.allow.push("fs:/data#rw;volume=book".parse().unwrap());
    });
    cluster.define("eve:1", |record| {
        with_volume(record);
        record.definition.containers[0].mounts[0].read_only = true;
    });
    cluster.service("ann", "ann:1", 1);
    cluster.service("bob", "bob:1", 1);
    cluster.service("eve", "eve:1", 2);
    cluster.settle();
    let names = |cluster: &TestCluster| {
        let running =
            cluster.tasks().filter(|record| record.task.status.phase == TaskPhase::Running);
        running
            .map(|record| record.task.spec.service.as_ref().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&cluster), ["ann", "eve", "eve"]);
    let why = cluster.why();
    assert!(why.starts_with("volume `book` is written to by task `ann-0-"), "{why}");
    assert!(why.ends_with("stop that one, or mount it with `read_only = true`"), "{why}");
    // A replacement of the one that waits takes nothing away from the one that writes.
    cluster.define("bob:2", with_volume);
    cluster.service("bob", "bob:2", 1);
    cluster.settle();
    assert_eq!(names(&cluster), ["ann", "eve", "eve"]);
    cluster.service("ann", "ann:1", 0);
    cluster.settle();
    assert_eq!(names(&cluster), ["bob", "eve", "eve"]);
    // And the line leads to the volume's node as a mount does.
    cluster.service("bob", "bob:1", 0);
    cluster.settle();
    cluster.edit_node("n1", |n| n.drain = true);
    cluster.node("n2", "a", 4000, 4096);
    cluster.service("bob", "bob:1", 1);
    cluster.settle();
    assert_eq!(names(&cluster), ["eve", "eve"]);
    assert!(
        cluster.why().starts_with("its volume is on node `n1`, which is drained"),
        "{}",
        cluster.why()
    );
}

#[test]
fn a_drained_node_is_left_without_a_gap() {
    let mut cluster = TestCluster::new();
    for node in ["n1", "n2"] {
        cluster.node(node, "a", 4000, 4096);
    }
    cluster.define("cats:1", |_| {});
    cluster.service("cats", "cats:1", 2);
    cluster.settle();
    cluster.edit_node("n1", |n| n.drain = true);
    cluster.settle();
    assert_eq!(cluster.running(), ["n2", "n2"]);
    cluster.edit_node("n2", |n| n.drain = true);
    cluster.settle();
    assert_eq!(
        cluster.running(),
        ["n2", "n2"],
        "what runs keeps running when there is nowhere else"
    );
}

#[test]
fn a_deleted_service_ends_its_tasks_and_they_are_forgotten_after_an_hour() {
    let mut cluster = TestCluster::new();
    cluster.node("n1", "a", 4000, 4096);
    cluster.define("cats:1", |_| {});
    cluster.service("cats", "cats:1", 2);
    cluster.settle();
    cluster.model.services.clear();
    cluster.settle();
    assert_eq!(cluster.tasks().filter(|record| record.has_ended()).count(), 2);
    cluster.now += 3_600_001;
    cluster.settle();
    assert_eq!(cluster.tasks().count(), 0);
}

#[test]
fn of_tenants_in_the_pool_the_one_that_has_least_of_it_is_placed_first() {
    let other: Tenant = "zoo".parse().unwrap();
    let mut cluster = TestCluster::new();
    cluster.node("shared", "a", 600, 4096);
    cluster.edit_node("shared", |node| {
        node.tenant = None;
        drop(node.spec.labels.insert(POOL_LABEL.to_owned(), "true".to_owned()));
    });
    cluster.define("cats:1", reserve(100, 8));
    let id: TaskDefinitionId = "cats:1".parse().unwrap();
    let definition = cluster.model.definitions[&(tenant(), id.clone())].clone();
    cluster.model.definitions.insert((other.clone(), id), definition);
    cluster.model.clusters.insert((other.clone(), "main".parse().unwrap()));
    let pool = |cluster: &mut TestCluster, owner: &Tenant, name: &str, count: u32| {
        cluster.service(name, "cats:1", count);
        let mut key: ServiceKey = (tenant(), "main".parse().unwrap(), name.parse().unwrap());
        let mut stored = cluster.model.services.remove(&key).unwrap();
        Arc::make_mut(&mut stored).value.service.spec.launch_type = LaunchType::Pool;
        key.0 = owner.clone();
        cluster.model.services.insert(key, stored);
    };
    let running = |cluster: &TestCluster, owner: &Tenant| {
        let tasks = cluster.tasks().filter(|task| task.tenant == *owner && task.is_wanted());
        tasks.count()
    };
    // The first comes alone, and wants more than there is.
    pool(&mut cluster, &tenant(), "greedy", 4);
    cluster.settle();
    pool(&mut cluster, &tenant(), "greedy", 9);
    // The second, whose name comes later, has nothing yet: what is left is for it.
    pool(&mut cluster, &other, "modest", 2);
    cluster.settle();
    assert_eq!((running(&cluster, &tenant()), running(&cluster, &other)), (4, 2));
    // What becomes free goes to the one that has less, too.
    pool(&mut cluster, &tenant(), "greedy", 3);
    pool(&mut cluster, &other, "modest", 9);
    cluster.settle();
    assert_eq!((running(&cluster, &tenant()), running(&cluster, &other)), (3, 3));
}
