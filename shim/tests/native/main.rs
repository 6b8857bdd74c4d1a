//! Real containers under the installed OCI runtime. Needs root, a runtime (`apt-get install runc`)
//! and a static busybox (`apt-get install busybox-static`); says so when something is missing,
//! instead of pretending.
//!
//! A program of its own rather than a test harness: it is also the task shim that it starts.
#![allow(clippy::too_many_lines, reason = "tables of cases")]

mod fixture; // what a container needs, and a check that nothing of it is left
mod streams; // what goes in and out: stdio, terminals, ports
mod walls; // what it cannot do
mod ids; // which users of the machine it has
mod files; // what it writes, and what it is given of the host
mod ends; // limits, stops, kills, and what supervisors are told
mod layers; // its tree, its runtime, and how fast it starts

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use shim::{Adopted, Runtime, Task};

use crate::fixture::{BUSYBOX, TestShim};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("shim") {
        shim::main();
    }
    if std::env::args().nth(1).as_deref() == Some("try-syscalls") {
        walls::try_syscalls();
    }
    let arguments: Vec<_> = std::env::args_os().map(PathBuf::from).collect();
    if let [_, verb, folder, layer] = arguments.as_slice()
        && verb == Path::new("supervise")
    {
        ends::supervise(folder, layer);
    }
    if let [_, verb, folder, size] = arguments.as_slice()
        && verb == Path::new("unpack-stdin")
    {
        layers::unpack_stdin(
            folder,
            size.to_str().and_then(|size| size.parse().ok()).expect("a number"),
        );
    }
    let runtime = match why_not() {
        Ok(runtime) => runtime,
        Err(why) => {
            println!("SKIPPED: no native container was run: {why}");
            return ExitCode::SUCCESS;
        }
    };
    println!("running native containers under {runtime}");
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut failed = 0;
    for (name, test) in TESTS {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let began = Instant::now();
        let fixture = TestShim::new(runtime.clone());
        let passed = catch_unwind(AssertUnwindSafe(|| test(&fixture))).is_ok();
        if let (false, Ok(Adopted::Running(task))) = (passed, Task::adopt(&fixture.folder())) {
            let _ = task.stop(Duration::ZERO).map(|()| task.wait());
        }
        let clean = catch_unwind(AssertUnwindSafe(|| fixture.assert_nothing_left())).is_ok();
        let verdict = if passed && clean { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", began.elapsed().as_millis());
        failed += usize::from(!(passed && clean));
    }
    println!("test result: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn why_not() -> Result<Runtime, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root".to_owned());
    }
    if !Path::new(BUSYBOX).exists() {
        return Err(format!("there is no {BUSYBOX}: apt-get install busybox-static"));
    }
    Runtime::probe().map_err(|error| format!("{error}: {}", error.hint().unwrap_or_default()))
}

type Test = (&'static str, fn(&TestShim));

const TESTS: &[Test] = &[
    ("a_program_says_hi_and_its_exit_code_passes", streams::says_hi),
    ("output_goes_to_the_log_and_to_the_supervisor", streams::output_goes_both_ways),
    ("input_reaches_the_program_and_ends", streams::input_reaches),
    ("a_terminal_has_its_size_and_carries_both_ways", streams::terminal),
    ("an_unread_terminal_blocks_no_other_stream", streams::unread_terminal),
    ("a_published_port_and_the_ingress_reach_the_program", streams::ports),
    ("a_big_body_passes_the_relay_whole", streams::big_body),
    ("a_program_that_listens_late_is_waited_for", streams::late_listener),
    ("a_published_port_is_never_given_to_another_container", streams::own_port),
    ("the_walls_hold", walls::walls),
    ("each_container_has_users_of_its_own_and_files_keep_theirs", ids::apart),
    ("containers_of_two_owners_never_share_users", ids::together),
    ("what_no_container_needs_is_no_system_call", walls::syscalls),
    ("an_image_that_replaces_the_kernels_folders_gains_nothing", walls::replaced_folders),
    ("of_a_read_only_root_only_granted_folders_can_be_written", walls::writes),
    ("what_a_container_writes_is_its_own_and_stays_for_its_next_start", files::keeps),
    ("a_writable_layer_that_is_too_large_ends_its_container", files::quota),
    ("a_volume_that_is_too_large_ends_its_container", files::volume_quota),
    ("an_open_file_without_a_name_counts_as_well", files::removed_and_open),
    ("root_in_a_container_can_become_its_other_users", files::users),
    ("a_volume_begins_with_what_the_image_has", files::fills),
    ("files_of_the_host_keep_their_owner", files::host_files),
    ("the_same_layer_twice_is_one", files::same_layer_twice),
    ("a_volume_is_mounted_with_its_rights", walls::volumes),
    ("a_hostile_working_folder_or_user_is_refused", walls::hostile_config),
    ("a_program_that_is_not_there_is_named", ends::no_program),
    ("a_memory_hog_is_reported_as_oom", ends::oom),
    ("a_child_that_was_out_of_memory_explains_no_other_end", ends::oom_of_a_child),
    ("an_image_chooses_its_stop_signal_and_a_bad_one_is_named", ends::stop_signals),
    ("a_fork_bomb_ends_at_the_limit", ends::fork_bomb),
    ("a_log_flood_costs_no_disk", ends::log_flood),
    ("time_limits_end_it", ends::time_limits),
    ("stop_asks_first_and_insists_after_its_grace", ends::stop),
    ("a_later_supervisor_adopts_it", ends::adopt),
    ("an_orphan_that_is_not_adoptable_is_stopped", ends::orphan),
    ("a_killed_shim_leaves_nothing_after_the_sweep", ends::killed_shim),
    ("a_frozen_shim_is_ended_by_force", ends::frozen_shim),
    ("a_client_without_descriptors_takes_no_shim_for_dead", ends::want_of_descriptors),
    ("every_one_of_many_waiters_is_told", ends::many_waiters),
    ("a_killed_container_is_reported", ends::killed_container),
    ("a_removed_folder_leaves_the_machine_clean_too", ends::removed_folder),
    ("layers_stack_with_whiteouts", layers::whiteouts),
    ("a_container_knows_itself_whatever_hosts_its_image_brings", layers::own_hosts),
    ("hostile_layers_are_refused_and_leave_nothing", layers::hostile_layers),
    ("layers_as_builders_write_them_are_unpacked_inside", layers::odd_layers),
    ("a_layer_stands_once_and_links_to_those_below", layers::stacked_layers),
    ("compressed_layers_are_unpacked_behind_the_walls", layers::compressed),
    ("unpacked_layers_have_a_limit_and_those_in_use_stay", layers::sweep),
    ("an_interrupted_unpacking_ends_and_leaves_nothing", layers::interrupted),
    ("a_runtime_that_fails_is_named", layers::bad_runtimes),
    ("a_runtimes_own_words_and_version_are_passed_on", layers::complaints),
    ("starting_is_fast_enough", layers::speed),
];
