use super::*;

#[test]
fn pauses_grow_from_almost_nothing_to_half_a_minute() {
    let pauses: Vec<_> = (1..=9).map(|ends| pause(ends).as_millis()).collect();
    assert_eq!(pauses, [20, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    assert_eq!(pause(u32::MAX), PAUSE_MAX);
    let declared = Restart::Declared(ContainerRestart::Always);
    let pauses: Vec<_> = (1..=8).map(|ends| declared.pause(ends).as_millis()).collect();
    assert_eq!(pauses, [20, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]);
    assert_eq!(declared.pause(u32::MAX), DECLARED_PAUSE_MAX);
}

/// A word for a state, and for what is to be done.
fn shown((lifecycle, effects): &(Lifecycle, Vec<Effect>)) -> String {
    let state = match lifecycle.state {
        State::Starting => "starting",
        State::Running { .. } => "running",
        State::Stopping { then: Then::Exit, .. } => "stopping",
        State::Stopping { then: Then::Idle, .. } => "stopping-idle",
        State::Stopping { then: Then::Start, .. } => "stopping-start",
        State::Killed { then: Then::Exit, .. } => "killed",
        State::Killed { then: Then::Idle, .. } => "killed-idle",
        State::Killed { then: Then::Start, .. } => "killed-start",
        State::BackOff { .. } => "back-off",
        State::Idle => "idle",
        State::Exited => "exited",
    };
    let effects = effects.iter().map(|effect| match effect {
        Effect::Stop(_) => "+stop",
        Effect::Kill => "+kill",
    });
    std::iter::once(state).chain(effects).collect()
}

#[test]
fn every_event_in_every_state_leads_where_it_should() {
    let now = Instant::now();
    let second = Duration::from_secs(1);
    let (kill_at, lost_at) = (now + second, now + second);
    let states = [
        State::Starting,
        State::Running { since: now, runs: 7, idle_since: now },
        State::Stopping { kill_at, then: Then::Exit },
        State::Stopping { kill_at, then: Then::Idle },
        State::Stopping { kill_at, then: Then::Start },
        State::Killed { lost_at, then: Then::Exit },
        State::Killed { lost_at, then: Then::Idle },
        State::Killed { lost_at, then: Then::Start },
        State::BackOff { until: now, quick: true },
        State::Idle,
        State::Exited,
    ];
    let events = [
        Event::Spawned,
        Event::Started,
        Event::StartFailed(StartFailed::NotFetched),
        Event::StartFailed(StartFailed::Here),
        Event::Exited(Exit::Code(0)),
        Event::Exited(Exit::NotStarted("no".to_owned())),
        Event::StopRequested(second),
        Event::KillRequested,
        Event::RestartRequested(second),
        Event::EndSignalled,
        Event::Counted { runs: 7 },
        Event::RequestWaiting,
        Event::DeadlineReached,
    ];
    // A replica of a service: a row for a state, a column for an event, `.` where it stays.
    let want = "
        running . back-off back-off back-off back-off exited exited . . . . .
        . . . . back-off back-off stopping+stop killed+kill stopping-start+stop . . . .
        . . . . exited exited . killed+kill . . . . killed+kill
        . . . . idle idle stopping killed+kill stopping-start . . . killed-idle+kill
        . . . . starting starting stopping killed+kill . . . . killed-start+kill
        . . . . exited exited . . . . . . exited
        . . . . idle idle killed killed . . . . idle
        . . . . starting starting killed killed . . . . starting
        . . . . . . exited exited starting exited . . starting
        . . . . . . exited exited starting . . starting .
        . . . . . . . . . . . . .";
    let mut want = want.split_whitespace();
    for state in states {
        for event in &events {
            let before = Lifecycle { state, ..Lifecycle::new(Restart::Always, None, 0) };
            let stays = shown(&(before.clone(), Vec::new()));
            let want = want.next().map(|want| if want == "." { &stays } else { want });
            let got = shown(&before.after(event, now));
            assert_eq!(Some(got.as_str()), want, "{state:?} and {event:?}");
        }
    }
    assert_eq!(want.next(), None);
}

#[test]
fn containers_are_started_again_as_their_kind_of_task_says() {
    use StartFailed::{Here, NotFetched};
    let now = Instant::now();
    let failed = |failed| Event::StartFailed(failed);
    let thrice = RestartPolicy::OnFailure { restarts_max: Some(3) };
    for (restart, event, starts) in [
        (Restart::Never, failed(NotFetched), 1),
        (Restart::Policy(RestartPolicy::No), Event::Exited(Exit::Code(1)), 1),
        (Restart::Policy(RestartPolicy::Always), failed(Here), 1),
        (Restart::Policy(RestartPolicy::Always), Event::Exited(Exit::Code(0)), 100),
        (Restart::Policy(thrice), Event::Exited(Exit::Code(0)), 1),
        (Restart::Policy(thrice), Event::Exited(Exit::Code(1)), 4),
        (Restart::Never, Event::Exited(Exit::Code(1)), 1),
        (Restart::UntilFetched, failed(NotFetched), FETCHES_MAX + 1),
        (Restart::UntilFetched, failed(Here), 1),
        (Restart::UntilFetched, Event::Exited(Exit::Code(0)), 1),
        (Restart::Always, failed(Here), STARTS_MAX),
        (Restart::Always, Event::Exited(Exit::NotStarted("no".to_owned())), STARTS_MAX),
        (Restart::Always, failed(NotFetched), 100),
        (Restart::Always, Event::Exited(Exit::Code(0)), 100),
        (Restart::Declared(ContainerRestart::Always), Event::Exited(Exit::Code(0)), 100),
        (Restart::Declared(ContainerRestart::Always), failed(Here), STARTS_MAX),
        (Restart::Declared(ContainerRestart::OnFailure), Event::Exited(Exit::Code(0)), 1),
        (Restart::Declared(ContainerRestart::OnFailure), Event::Exited(Exit::Code(1)), 100),
        (Restart::Declared(ContainerRestart::OnFailure), failed(NotFetched), 100),
        (Restart::Declared(ContainerRestart::Never), Event::Exited(Exit::Code(1)), 1),
        (Restart::Declared(ContainerRestart::Never), failed(Here), 1),
        (Restart::Declared(ContainerRestart::Never), failed(NotFetched), FETCHES_MAX + 1),
    ] {
        let mut lifecycle = Lifecycle::new(restart, None, 0);
        let mut tries = 0;
        while tries < 100 {
            tries += 1;
            lifecycle = lifecycle.after(&event, now).0;
            if lifecycle.state == State::Exited {
                break;
            }
            lifecycle = lifecycle.after(&Event::DeadlineReached, now).0;
            assert_eq!(lifecycle.state, State::Starting, "{restart:?} {event:?}");
        }
        assert_eq!(tries, starts, "{restart:?} {event:?}");
    }
}

#[test]
fn a_steady_run_makes_the_next_end_a_first_one() {
    let mut now = Instant::now();
    let mut lifecycle = Lifecycle::new(Restart::Always, None, 0);
    let mut pauses = Vec::new();
    for ran in [0, 0, 29, 30, 0] {
        lifecycle = lifecycle.after(&Event::Spawned, now).0;
        now += Duration::from_secs(ran);
        lifecycle = lifecycle.after(&Event::Exited(Exit::Code(1)), now).0;
        let State::BackOff { until, quick } = lifecycle.state else { panic!("{lifecycle:?}") };
        pauses.push(((until - now).as_millis(), quick));
        lifecycle = lifecycle.after(&Event::DeadlineReached, now).0;
    }
    let want = [(20, true), (1000, false), (2000, false), (20, true), (1000, false)];
    assert_eq!(pauses, want);
    assert_eq!(lifecycle.restarts, 5);
}

#[test]
fn a_declared_restart_is_steady_after_ten_minutes() {
    let mut now = Instant::now();
    let declared = Restart::Declared(ContainerRestart::OnFailure);
    let mut lifecycle = Lifecycle::new(declared, None, 0);
    let mut pauses = Vec::new();
    for ran in [0, 30, 599, 600, 0] {
        lifecycle = lifecycle.after(&Event::Spawned, now).0;
        now += Duration::from_secs(ran);
        lifecycle = lifecycle.after(&Event::Exited(Exit::Code(1)), now).0;
        let State::BackOff { until, .. } = lifecycle.state else { panic!("{lifecycle:?}") };
        pauses.push((until - now).as_millis());
        lifecycle = lifecycle.after(&Event::DeadlineReached, now).0;
    }
    assert_eq!(pauses, [20, 10_000, 20_000, 20, 10_000]);
}

#[test]
fn a_container_without_requests_becomes_idle_and_the_next_request_starts_it() {
    let (mut now, second) = (Instant::now(), Duration::from_secs(1));
    let mut lifecycle = Lifecycle::new(Restart::Always, Some(3 * second), 0);
    lifecycle = lifecycle.after(&Event::Spawned, now).0;
    for runs in [0, 0, 1, 1, 1] {
        now += second;
        lifecycle = lifecycle.after(&Event::Counted { runs }, now).0;
        assert!(matches!(lifecycle.state, State::Running { .. }), "{runs}");
    }
    now += second;
    let (idle, effects) = lifecycle.after(&Event::Counted { runs: 1 }, now);
    assert_eq!(effects, [Effect::Stop(IDLE_GRACE)]);
    let idle = idle.after(&Event::Exited(Exit::TERMINATED), now).0;
    assert_eq!((idle.state, idle.restarts), (State::Idle, 0));
    assert_eq!(idle.after(&Event::RequestWaiting, now).0.state, State::Starting);
}

#[test]
fn a_policy_tries_again_after_a_restart_that_came_to_nothing() {
    let now = Instant::now();
    let mut lifecycle = Lifecycle::new(Restart::Policy(RestartPolicy::Always), None, 0);
    for event in [
        Event::Spawned,
        Event::Exited(Exit::Code(1)),
        Event::DeadlineReached,
        Event::StartFailed(StartFailed::Here),
    ] {
        lifecycle = lifecycle.after(&event, now).0;
    }
    assert!(matches!(lifecycle.state, State::BackOff { .. }), "{lifecycle:?}");
}

#[test]
fn a_program_that_ends_by_a_signal_that_was_meant_to_end_it_is_not_started_again() {
    let now = Instant::now();
    let mut lifecycle = Lifecycle::new(Restart::Policy(RestartPolicy::Always), None, 0);
    for event in [Event::Spawned, Event::EndSignalled, Event::Exited(Exit::Signal(2))] {
        lifecycle = lifecycle.after(&event, now).0;
    }
    assert_eq!((lifecycle.state, lifecycle.restarts), (State::Exited, 0));
}

#[test]
fn a_container_that_ends_while_it_is_stopped_is_not_started_again() {
    let now = Instant::now();
    let mut lifecycle = Lifecycle::new(Restart::Always, None, 0);
    for event in [Event::Spawned, Event::StopRequested(Duration::ZERO)] {
        lifecycle = lifecycle.after(&event, now).0;
    }
    let ended = lifecycle.after(&Event::Exited(Exit::Code(1)), now).0;
    assert_eq!((ended.state, ended.restarts), (State::Exited, 0));
}
