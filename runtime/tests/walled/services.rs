use engine::Exit;

use crate::{
    Test,
    bench::{Bench, capability},
};

pub const TESTS: &[Test] = &[(
    "a_guest_reads_its_variables_as_configuration_and_logs_with_a_level",
    configured_and_logged,
)];

fn configured_and_logged() {
    for (granted, greeting, all) in [
        (true, "INFO GREETING: meow", &["Stderr DEBUG GREETING: meow"][..]),
        (false, "WARN GREETING: absent", &[]),
    ] {
        let bench = Bench::new();
        let ran = bench.run("greeter/greeter.wat", &[], |assignment| {
            assignment.env.insert("GREETING".to_owned(), "meow".to_owned());
            if granted {
                assignment.grants.add(capability("env:GREETING"));
            }
        });
        let lines = bench.log_lines();
        assert_eq!(ran.exit, Exit::Code(0), "{lines:?}");
        let greeting = format!("Stderr {greeting}");
        let before = [greeting.as_str(), "Stderr WARN absent: absent"];
        let after = ["Stderr CRITICAL first", "Stderr    second"];
        // A denial is a line of the worker's own.
        let guests = lines.iter().filter(|line| !line.contains("margay: "));
        let want = [&before[..], all, &after].concat();
        assert_eq!(guests.collect::<Vec<_>>(), want);
        let denied = lines.iter().any(|line| line.contains("--allow env:GREETING"));
        assert_eq!(denied, !granted, "{lines:?}");
        assert!(ran.text.contains("CRITICAL first\n   second\n"), "{}", ran.text);
    }
}
