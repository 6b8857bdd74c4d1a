use super::*;

/// A small generator of numbers that look random: the same seed, the same history.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// What must hold in every cluster, whatever its history.
fn check(cluster: &TestCluster, seed: u64) {
    for (id, node) in &cluster.model.nodes {
        let here: Vec<&DefinitionRecord> = cluster
            .tasks()
            .filter(|record| record.task.spec.node.as_ref() == Some(id) && !record.has_ended())
            .filter_map(|record| {
                cluster.model.definition_of(record).map(|definition| &**definition)
            })
            .collect();
        let cpu: u64 = here.iter().map(|definition| reserved(definition).0).sum();
        let memory: u64 = here.iter().map(|definition| reserved(definition).1).sum();
        let ports: Vec<u16> =
            here.iter().flat_map(|definition| capacity::host_ports(definition)).collect();
        let different: BTreeSet<&u16> = ports.iter().collect();
        assert!(
            cpu <= u64::from(node.spec.capacity.cpu_millis),
            "seed {seed}: {id} promises {cpu} millis"
        );
        assert!(
            memory <= node.spec.capacity.memory_bytes,
            "seed {seed}: {id} promises {memory} bytes"
        );
        assert_eq!(different.len(), ports.len(), "seed {seed}: {id} gives a port twice");
    }
    let mut writers: BTreeMap<VolumeName, usize> = BTreeMap::new();
    for record in
        cluster.tasks().filter(|record| !record.has_ended() && record.task.spec.node.is_some())
    {
        for volume in cluster
            .model
            .definition_of(record)
            .into_iter()
            .flat_map(|definition| definition.written())
        {
            *writers.entry(volume.clone()).or_default() += 1;
        }
    }
    assert!(writers.values().all(|count| *count <= 1), "seed {seed}: {writers:?}");
}

#[test]
fn random_clusters_keep_capacity_ports_and_volumes_and_settle() {
    for seed in 1..=400 {
        let mut random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut cluster = TestCluster::new();
        for n in 0..1 + random.below(6) {
            let zone = format!("z{}", random.below(3));
            cluster.node(
                &format!("n{n}"),
                &zone,
                500 + random.below(4000) as u32,
                128 + random.below(2048),
            );
        }
        for d in 0..3u32 {
            let (cpu, memory) = (50 + random.below(600) as u32, 8 + random.below(256));
            let kind = if d == 2 { 2 } else { random.below(3) };
            for revision in 1..=2 {
                cluster.define(&format!("d{d}:{revision}"), |record| {
                    reserve(cpu, memory)(record);
                    match kind {
                        0 => {}
                        1 => with_port(record),
                        _ => with_volume(record),
                    }
                });
            }
        }
        for _ in 0..40 {
            let d = random.below(3);
            match random.below(9) {
                0 | 1 => {
                    let count = if d == 2 { random.below(2) } else { random.below(8) };
                    cluster.service(
                        &format!("s{d}"),
                        &format!("d{d}:{}", 1 + random.below(2)),
                        count as u32,
                    );
                }
                2 => {
                    let node = format!("n{}", random.below(cluster.model.nodes.len() as u64));
                    let condition =
                        [NodeCondition::Ready, NodeCondition::Suspect, NodeCondition::Disconnected];
                    cluster.is(&node, condition[random.below(3) as usize]);
                }
                3 if !cluster.running().is_empty() => cluster.end("exit code 1"),
                4 => {
                    let (node, drain) = (
                        format!("n{}", random.below(cluster.model.nodes.len() as u64)),
                        random.below(2) == 0,
                    );
                    cluster.edit_node(&node, |record| record.drain = drain);
                }
                5 => cluster.now += random.below(70_000),
                6 => drop(cluster.model.services.remove(&(
                    tenant(),
                    "main".parse().unwrap(),
                    format!("s{d}").parse().unwrap(),
                ))),
                _ => cluster.act(),
            }
            cluster.step();
            check(&cluster, seed);
        }
        for node in cluster.model.nodes.keys().cloned().collect::<Vec<_>>() {
            cluster.is(node.as_str(), NodeCondition::Ready);
            cluster.edit_node(node.as_str(), |record| record.drain = false);
        }
        cluster.act();
        cluster.now += 61_000;
        cluster.settle();
        check(&cluster, seed);
        for (key, stored) in &cluster.model.services {
            let mine = |record: &&TaskRecord| {
                record.task.spec.service.as_ref() == Some(&key.2) && record.is_wanted()
            };
            let live = cluster.tasks().filter(mine).count();
            let waiting = cluster.plan().waiting.contains_key(&Subject::Service(key.clone()));
            let count = stored.value.service.spec.count as usize;
            assert!(
                live == count || (live < count && waiting),
                "seed {seed}: {live} of {count} replicas of {key:?}"
            );
        }
    }
}
