use std::time::Duration;

use crate::{
    Test,
    bench::{Bench, Served, ask},
};

pub const TESTS: &[Test] = &[
    ("an_instance_answers_as_many_requests_as_its_image_wishes", count),
    ("a_fault_ends_an_instance_that_is_reused", faults),
    ("an_instance_that_leaves_a_request_open_is_not_reused", leftovers),
    ("two_requests_at_once_get_two_instances", at_once),
    ("processor_time_counts_anew_for_each_request_of_an_instance", anew),
    ("instances_that_wait_leave_half_of_the_memory_to_others", memory),
];

/// The guest of `counter.wat`, whose instances answer so many requests.
fn serve(bench: &Bench, requests: u32, change: impl FnOnce(&mut spec::Limits)) -> Served {
    let counter = wat::parse_str(include_str!("counter.wat")).unwrap();
    bench.serve_wasm(&counter, &[], runtime::Broker::default(), |assignment| {
        assignment.limits.requests_per_instance_max = requests;
        change(&mut assignment.limits);
    })
}

/// The number of this request among those of its instance; 300 and more for an error.
fn request(served: &Served, method: &str) -> u16 {
    let head = format!("{method} / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
    ask(served.address, &head, b"").0 - 200
}

fn requests(served: &Served, methods: &[&str]) -> Vec<u16> {
    methods.iter().map(|method| request(served, method)).collect()
}

const ERROR: u16 = 300;

fn count() {
    let bench = Bench::new();
    for (wish, want) in [(1, [1, 1, 1, 1, 1, 1, 1]), (3, [1, 2, 3, 1, 2, 3, 1])] {
        let served = serve(&bench, wish, |_| {});
        assert_eq!(requests(&served, &["GET"; 7]), want, "{wish}: {}", bench.log());
        assert_eq!(bench.usage().runs, 7);
    }
}

fn faults() {
    let bench = Bench::new();
    let served = serve(&bench, 100, |limits| {
        limits.cpu_time_max = Some(Duration::from_millis(50));
        limits.wall_time_max = Some(Duration::from_millis(600));
    });
    for (what, method) in
        [("a trap", "POST"), ("CPU time", "DELETE"), ("wall time", "TRACE"), ("no answer", "PATCH")]
    {
        let got = requests(&served, &["GET", "GET", method, "GET"]);
        assert_eq!((got[0], got[1], got[3]), (1, 2, 1), "{what}: {got:?} {}", bench.log());
        assert!(got[2] >= ERROR, "{what}: {got:?}");
        // Begins the next round with a new instance.
        assert!(request(&served, "POST") >= ERROR);
    }
}

fn leftovers() {
    let bench = Bench::new();
    let served = serve(&bench, 100, |_| {});
    assert_eq!(requests(&served, &["GET", "PUT", "GET", "GET"]), [1, 2, 1, 2], "{}", bench.log());
}

fn at_once() {
    let bench = Bench::new();
    let served = serve(&bench, 100, |_| {});
    let two: Vec<u16> = std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| request(&served, "TRACE")));
        both.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(two, [1, 1], "{}", bench.log());
    assert_eq!(requests(&served, &["GET", "GET"]), [2, 3], "the last one to end is taken first");
}

fn anew() {
    let bench = Bench::new();
    let limit = Duration::from_millis(100);
    let served = serve(&bench, 1000, |limits| limits.cpu_time_max = Some(limit));
    let mut number = 0;
    while u128::from(bench.usage().cpu_ns) < 2 * limit.as_nanos() && number < 90 {
        number += 1;
        assert_eq!(request(&served, "OPTIONS"), number, "{}", bench.log());
    }
    let spent = Duration::from_nanos(bench.usage().cpu_ns);
    assert!(spent >= 2 * limit, "{number} requests have spent {spent:?}");
}

fn memory() {
    let bench = Bench::new();
    // The guest has one page of 64 KiB: less than half of four, and more of one and a half.
    for (bytes, want) in [(4 << 16, [1, 2, 3]), (3 << 15, [1, 1, 1])] {
        let served = serve(&bench, 100, |limits| limits.memory_bytes_max = bytes);
        assert_eq!(requests(&served, &["GET"; 3]), want, "{bytes}: {}", bench.log());
    }
}
