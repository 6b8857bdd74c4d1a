//! The end of a platform that was asked for by another command.

use crate::{
    stage::{Stage, eventually},
    up::{Up, page_is_served, running_tasks, serve_cats},
};

#[test]
fn down_ends_an_up_and_with_leave_its_tasks_run_on() {
    let stage = Stage::new();
    let said = stage.margay(["down"]);
    assert!(said.ok().is_empty());
    let up = Up::start_with(&stage, &["--leave"]);
    serve_cats(&stage, &up, 1);
    eventually("it runs", || (running_tasks(&stage).len() == 1).then_some(()));
    let workers = || {
        let processes = stage.processes().into_iter();
        let mut pids: Vec<i32> =
            processes.filter(|(_, line)| line.contains(" worker")).map(|(pid, _)| pid).collect();
        pids.sort_unstable();
        pids
    };
    stage.margay(["down"]).ok();
    drop(up);
    let left = workers();
    assert_eq!(left.len(), 1, "the task runs on");
    let up = Up::start(&stage);
    eventually("the page is served", || page_is_served(&up));
    assert!(workers().contains(&left[0]), "it was adopted");
    stage.margay(["down"]).ok();
    drop(up);
    stage.is_empty();
}
