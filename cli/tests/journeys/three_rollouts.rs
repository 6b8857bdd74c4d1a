//! Another revision on three machines, of which one is lost in the middle of each phase.

use serde_json::Value;

use crate::{
    stage::{Said, eventually, samples},
    three_nodes::Bed,
};

const CATS: [&str; 3] = ["cats", "--cluster", "allthecats"];

impl Bed {
    fn next_revision(&self) -> String {
        let definition = samples().join("cats/task.toml").display().to_string();
        self.stages[0].margay(["task", "register", &definition]).ok().trim().to_owned()
    }

    fn service(&self) -> Value {
        let shown = self.stages[0].margay([&["service", "inspect"], &CATS[..]].concat()).ok();
        serde_json::from_str::<Value>(&shown).expect("JSON")[0].clone()
    }

    fn update(&self, revision: &str, more: &[&str]) -> Said {
        let update = [&["service", "update"], &CATS[..], &["--task", revision], more].concat();
        self.stages[0].margay(update)
    }

    fn rollout(&self, verb: &str) -> String {
        self.stages[0].margay([&["service", "rollout", verb], &CATS[..]].concat()).ok()
    }

    fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        eventually(what, || {
            let status = self.service()["status"].clone();
            is_so(&status).then_some(())
        });
    }

    fn until_percent(&self, percent: u32) {
        self.until(&format!("{percent} % of the requests"), |status| {
            status["deployments"][0]["traffic"]["percent"] == percent
        });
    }

    fn until_serves(&self, revision: &str) {
        self.until(&format!("{revision} serves alone"), |status| {
            status["serving"] == serde_json::json!([revision])
                && status["deployments"][0]["state"] == "completed"
                && status["ready"] == 3
        });
    }

    /// Puts the third machine back.
    fn mend(&self) {
        self.network.connect(2, true);
        eventually("it is ready again", || {
            let list = self.stages[0].margay(["node", "ls"]).ok();
            list.lines()
                .any(|line| line.starts_with("third") && line.contains("ready"))
                .then_some(())
        });
        eventually("each copy runs once", || {
            (self.ordinals() == ["0", "1", "2"] && self.places().len() == 3).then_some(())
        });
        self.stages[0].margay(["service", "rebalance", "cats", "--cluster", "allthecats"]).ok();
        self.until_at(&["local", "second", "third"]);
    }
}

#[test]
fn a_machine_that_is_lost_in_any_phase_of_a_rollout_costs_no_request() {
    let Some(bed) = Bed::make() else { return };
    bed.serve(3);
    bed.until_at(&["local", "second", "third"]);
    let load = bed.load();
    load.served_more();

    // As it begins: the copy of the lost machine is replaced by one of the new revision.
    let second = bed.next_revision();
    bed.network.connect(2, false);
    bed.update(&second, &["-d"]).ok();
    bed.until_serves(&second);
    load.served_more();
    bed.mend();

    // While a canary has its share, and the update after it takes its place.
    let third = bed.next_revision();
    let canary = ["--rollout", "canary", "--canary", "20", "--step-bake", "10m", "-d"];
    bed.update(&third, &canary).ok();
    bed.until_percent(20);
    bed.network.connect(2, false);
    eventually("it is known to be lost", || {
        let list = bed.stages[0].margay(["node", "ls"]).ok();
        list.contains("disconnected").then_some(())
    });
    load.served_more();
    let fourth = bed.next_revision();
    bed.update(&fourth, &["-d"]).ok();
    bed.until_percent(20);
    let history = bed.rollout("history");
    assert!(history.contains("superseded"), "{history}");
    load.served_more();

    // While the new revision has all and the one before is there for the way back.
    // No share grows before every copy is ready again, elsewhere.
    eventually("it is promoted", || {
        let promote = [&["service", "rollout", "promote"], &CATS[..]].concat();
        (bed.stages[0].margay(promote).code == 0).then_some(())
    });
    bed.until_percent(100);
    bed.rollout("abort");
    bed.until_serves(&second);
    load.served_more();
    bed.mend();
    load.served_more();
    let seen = load.end();
    assert_eq!(seen.failed, 0, "{seen:?}");
    bed.end();
}

#[test]
fn a_machine_that_is_lost_while_it_is_drained_costs_no_request() {
    let Some(bed) = Bed::make() else { return };
    bed.serve(6);
    bed.until_at(&["local", "local", "second", "second", "third", "third"]);
    let load = bed.load();
    load.served_more();
    bed.stages[0].margay(["node", "drain", "third", "--deadline", "10m"]).ok();
    bed.network.connect(2, false);
    bed.until_at(&["local", "local", "local", "second", "second", "second"]);
    load.served_more();
    // When it returns it is still drained, and what it ran meanwhile has ended.
    bed.network.connect(2, true);
    eventually("it is drained and ready", || {
        let list = bed.stages[0].margay(["node", "ls"]).ok();
        let third = list.lines().find(|line| line.starts_with("third"))?;
        (third.contains("drained") && !third.contains("disconnected")).then_some(())
    });
    bed.until_at(&["local", "local", "local", "second", "second", "second"]);
    load.served_more();
    let seen = load.end();
    assert_eq!(seen.failed, 0, "{seen:?}");
    bed.end();
}
