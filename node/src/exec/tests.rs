//! Containers that answer falsely, late or never: what a client makes of it.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use engine::{
    Exit,
    exec::{Answer, Control, Copied},
    frame,
};

use super::{
    relay::{Client, Relay, Side},
    wait_until_started,
};

const SHORT: Duration = Duration::from_millis(200);

fn pair() -> (OwnedFd, OwnedFd) {
    frame::pair().unwrap()
}

#[test]
fn a_container_that_does_not_say_that_a_program_started_has_not_started_it() {
    type Say = fn(&OwnedFd);
    let cases: [(&str, Say, &str); 6] = [
        ("never", |_| {}, "task `tom` did not answer"),
        (
            "an end before the start",
            |socket| frame::send(socket, &Answer::Exited(Exit::Code(0)), &[]).unwrap(),
            "it did not start: Exited",
        ),
        (
            "an answer to something else",
            |socket| frame::send(socket, &Answer::Copied(Copied::default()), &[]).unwrap(),
            "it did not start: Copied",
        ),
        (
            "no answer at all",
            |socket| assert_eq!(rustix::io::write(socket, b"{\"started\": {{{").unwrap(), 15),
            "task `tom` did not answer",
        ),
        (
            "nothing",
            |socket| assert_eq!(rustix::io::write(socket, b"\0").unwrap(), 1),
            "did not answer",
        ),
        (
            "a refusal",
            |socket| frame::send(socket, &Answer::refused("not today"), &[]).unwrap(),
            "cannot start `tom`: not today",
        ),
    ];
    for (what, say, want) in cases {
        let (ours, theirs) = pair();
        say(&theirs);
        let begun = Instant::now();
        let error = wait_until_started("tom", &ours, SHORT).unwrap_err().to_string();
        assert!(error.contains(want), "{what}: {error}");
        assert!(begun.elapsed() < 50 * SHORT, "{what}: {:?}", begun.elapsed());
    }
    let (ours, theirs) = pair();
    drop(theirs);
    let error = wait_until_started("tom", &ours, SHORT).unwrap_err().to_string();
    assert!(error.contains("the task ended meanwhile"), "{error}");
}

#[test]
fn descriptors_that_were_not_asked_for_are_closed() {
    let (ours, theirs) = pair();
    let null = super::null().unwrap();
    frame::send(&theirs, &Answer::Started, &[null.as_fd(); 8]).unwrap();
    let fds = wait_until_started("tom", &ours, SHORT).unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(writer);
    let side = Side::Pipes([None, Some(reader), None]);
    drop(fds);
    frame::send(&theirs, &Answer::Exited(Exit::Code(4)), &[]).unwrap();
    let ended =
        Relay::new(&ours, side, false, Client::own().unwrap()).and_then(Relay::run).unwrap();
    assert_eq!(ended, Some(Exit::Code(4)));
}

#[test]
fn a_flood_of_answers_that_mean_nothing_does_not_hide_the_end() {
    let (ours, theirs) = pair();
    let liar = std::thread::spawn(move || {
        for _ in 0..10_000 {
            frame::send(&theirs, &Answer::Started, &[]).unwrap();
        }
        frame::send(&theirs, &Answer::Exited(Exit::Code(5)), &[]).unwrap();
        theirs
    });
    let side = Side::Pipes([None, None, None]);
    let ended =
        Relay::new(&ours, side, false, Client::own().unwrap()).and_then(Relay::run).unwrap();
    assert_eq!(ended, Some(Exit::Code(5)));
    let theirs = liar.join().unwrap();
    // It has told the container nothing.
    drop(ours);
    assert!(frame::receive::<Control>(&theirs).unwrap().is_none());
}

#[test]
fn bytes_that_are_no_answer_end_the_program_for_its_client() {
    let (ours, theirs) = pair();
    rustix::io::write(&theirs, b"[[[[").unwrap();
    let side = Side::Pipes([None, None, None]);
    let ended =
        Relay::new(&ours, side, false, Client::own().unwrap()).and_then(Relay::run).unwrap();
    assert_eq!(ended, None);
}
