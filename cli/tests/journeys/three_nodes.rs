//! Three machines with a network between them: one is killed, one is cut off, and a zone is
//! drained.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    network::Network,
    stage::{Running, Stage, cut_power, eventually, get},
    up::{HOST, Up, record, serve_cats},
};

/// The platform on the first of three machines, and a node on each of the others.
pub struct Bed {
    up: Up,
    nodes: Vec<Running>,
    pub stages: [Stage; 3],
    pub network: Arc<Network>,
}

impl Bed {
    pub fn make() -> Option<Self> {
        let network = Arc::new(Network::of(3)?);
        let stages = [0, 1, 2].map(|index| network.stage(index));
        let mut up = Up::start_with(&stages[0], &["--listen", &Network::address(0)]);
        up.registry = record(&stages[0])["registry"].as_str().expect("an address").to_owned();
        let nodes = ["second", "third"].iter().zip(&stages[1..]).map(|(name, stage)| {
            let token = stages[0].margay(["node", "token"]).ok();
            let zone = format!("zone-{name}");
            let mut node =
                stage.start(["node", "join", token.trim(), "--name", name, "--zone", &zone]);
            assert_eq!(node.line(), **name);
            node
        });
        let nodes = nodes.collect();
        Some(Self { up, nodes, stages, network })
    }

    /// The nodes on which the replicas of the cats run, as the control plane knows it.
    pub fn places(&self) -> Vec<String> {
        let list = ["task", "ls", "--service", "cats", "--output", "json"];
        let list: Value = serde_json::from_str(&self.stages[0].margay(list).ok()).expect("JSON");
        let tasks = list.as_array().expect("a list").iter();
        let running = tasks.filter(|task| task["status"]["phase"] == "running");
        let node = |task: &Value| task["spec"]["node"].as_str().unwrap_or_default().to_owned();
        let mut places: Vec<String> = running.map(node).collect();
        places.sort();
        places
    }

    pub fn until_at(&self, places: &[&str]) {
        eventually(&format!("replicas at {places:?}"), || (self.places() == places).then_some(()));
    }

    /// Which copy of the service each task is that should run.
    pub fn ordinals(&self) -> Vec<String> {
        let list = ["task", "ls", "--service", "cats", "--output", "json"];
        let list: Value = serde_json::from_str(&self.stages[0].margay(list).ok()).expect("JSON");
        let tasks = list.as_array().expect("a list").iter();
        let wanted = tasks
            .filter(|task| task["status"]["phase"] != "stopped" && task["spec"]["stop"] != true);
        let ordinal = |task: &Value| {
            let id = task["id"].as_str().unwrap_or_default();
            id.split('-').nth(1).unwrap_or_default().to_owned()
        };
        let mut ordinals: Vec<String> = wanted.map(ordinal).collect();
        ordinals.sort();
        ordinals
    }

    /// Runs that the ledger has of the service.
    fn runs_billed(&self) -> u64 {
        let usage = self.stages[0].margay(["usage", "--from", "1d", "--output", "json"]).ok();
        let usage: Value = serde_json::from_str(&usage).expect("JSON");
        let rows = usage.as_array().expect("a list").iter();
        rows.filter_map(|row| row["runs"].as_u64()).sum()
    }

    /// Serves so many copies.
    pub fn serve(&self, count: u32) {
        serve_cats(&self.stages[0], &self.up, count);
    }

    pub fn load(&self) -> Load {
        Load::on(&self.network, self.up.ingress.clone())
    }

    pub fn end(self) {
        for node in self.nodes {
            node.signal("INT");
            node.end();
        }
        self.up.end();
        self.stages.iter().for_each(Stage::is_empty);
    }
}

/// Asks for the page over and over, from beside the machines.
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub served: u64,
    pub failed: u64,
    pub longest: Duration,
}

impl Load {
    fn on(network: &Arc<Network>, ingress: String) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let threads = (0..4).map(|_| {
            let (network, ingress) = (network.clone(), ingress.clone());
            let (stop, seen): (Arc<AtomicBool>, Arc<Mutex<Seen>>) = (stop.clone(), seen.clone());
            std::thread::spawn(move || {
                network.enter();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let served = get(&ingress, HOST, "/").is_some_and(|page| page.status == 200);
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.served += u64::from(served);
                    seen.failed += u64::from(!served);
                    seen.longest = seen.longest.max(began.elapsed());
                }
            })
        });
        let threads = threads.collect();
        Self { stop, seen, threads }
    }

    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn served_more(&self) {
        let before = self.seen().served;
        eventually("it serves on", || (self.seen().served > before + 200).then_some(()));
    }

    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client"));
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[test]
fn a_node_that_is_cut_off_costs_no_request_and_is_in_its_place_when_it_returns() {
    let Some(bed) = Bed::make() else { return };
    serve_cats(&bed.stages[0], &bed.up, 3);
    bed.until_at(&["local", "second", "third"]);
    let load = bed.load();
    load.served_more();

    bed.network.connect(2, false);
    let cut = Instant::now();
    load.served_more();
    bed.until_at(&["local", "local", "second"]);
    println!("a node that was cut off was replaced after {:?}", cut.elapsed());
    let seen = load.end();
    assert_eq!(seen.failed, 0, "{seen:?}");
    // What is on its way to a replica that is gone is asked of another one within two seconds.
    assert!(seen.longest < Duration::from_secs(3), "{seen:?}");
    let mut served = seen.served;

    let load = bed.load();
    bed.network.connect(2, true);
    let known = || {
        let list = bed.stages[0].margay(["node", "ls"]).ok();
        list.lines().any(|line| line.starts_with("third") && line.contains("ready")).then_some(())
    };
    eventually("it is ready again", known);
    eventually("each copy runs once", || {
        (bed.ordinals() == ["0", "1", "2"] && bed.places().len() == 3).then_some(())
    });
    load.served_more();
    let seen = load.end();
    assert_eq!(seen.failed, 0, "{seen:?}");
    served += seen.served;
    // The node that was cut off hands over what it used meanwhile, once. A run more than that is a
    // probe, or a request that was lost with its answer.
    eventually("all of it is billed", || (bed.runs_billed() >= served).then_some(()));
    let billed = bed.runs_billed();
    assert!(billed <= served + 100, "{billed} for {served}");
    bed.end();
}

#[test]
fn a_machine_that_is_lost_is_replaced_within_ten_seconds_and_costs_no_get() {
    let Some(mut bed) = Bed::make() else { return };
    serve_cats(&bed.stages[0], &bed.up, 3);
    bed.until_at(&["local", "second", "third"]);
    let load = bed.load();
    load.served_more();
    let began = Instant::now();
    cut_power(&bed.stages[2]);
    drop(bed.nodes.pop());
    bed.until_at(&["local", "local", "second"]);
    let replaced = began.elapsed();
    println!("a lost machine was replaced after {replaced:?}");
    load.served_more();
    let seen = load.end();
    assert_eq!(seen.failed, 0, "{seen:?}");
    // Five seconds on a quiet machine.
    assert!(replaced < Duration::from_secs(10), "{replaced:?}");
    bed.end();
}

#[test]
fn a_zone_is_drained_together_and_under_load() {
    let Some(bed) = Bed::make() else { return };
    serve_cats(&bed.stages[0], &bed.up, 6);
    bed.until_at(&["local", "local", "second", "second", "third", "third"]);
    let err = bed.stages[0].margay(["node", "drain", "--zone", "nowhere"]).fails(1);
    assert!(err.contains("there is no node in zone `nowhere`") && err.contains("node ls"), "{err}");
    bed.stages[0].margay(["node", "drain"]).fails(2);
    let load = bed.load();
    load.served_more();
    assert_eq!(bed.stages[0].margay(["node", "drain", "--zone", "zone-second"]).ok(), "second\n");
    bed.until_at(&["local", "local", "local", "third", "third", "third"]);
    assert_eq!(bed.stages[0].margay(["node", "drain", "second", "third"]).ok(), "second\nthird\n");
    bed.until_at(&["local"; 6]);
    eventually("both are drained", || {
        let nodes = bed.stages[0].margay(["node", "ls"]).ok();
        (nodes.lines().filter(|line| line.contains("drained")).count() == 2).then_some(())
    });
    bed.stages[0].margay(["node", "drain", "--undo", "second", "third"]).ok();
    let nodes = bed.stages[0].margay(["node", "ls"]).ok();
    assert!(!nodes.contains("cordoned") && !nodes.contains("drained"), "{nodes}");
    load.served_more();
    let seen = load.end();
    assert_eq!(seen.failed, 0, "{seen:?}");
    bed.end();
}
