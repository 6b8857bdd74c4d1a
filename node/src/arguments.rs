use spec::ExecutionConfig;

/// Program and arguments, as Docker puts them together: an entrypoint of the caller's own drops the
/// image's arguments.
pub(crate) fn arguments(
    plan: &image::Plan,
    name: &str,
    entrypoint: Option<&[String]>,
    command: Option<&[String]>,
) -> Vec<String> {
    let (head, tail) = entrypoint_and_command(plan.execution(), entrypoint, command);
    let is_program_alone = matches!(plan.program, image::Program::Layer(_)) && head.is_empty();
    let program = is_program_alone.then(|| name.to_owned());
    program.into_iter().chain(head.iter().cloned()).chain(tail.iter().cloned()).collect()
}

fn entrypoint_and_command<'a>(
    image: &'a ExecutionConfig,
    entrypoint: Option<&'a [String]>,
    command: Option<&'a [String]>,
) -> (&'a [String], &'a [String]) {
    let head = entrypoint.or(image.entrypoint.as_deref()).unwrap_or_default();
    let tail = match (command, entrypoint) {
        (Some(command), _) => command,
        (None, Some(_)) => &[],
        (None, None) => image.cmd.as_deref().unwrap_or_default(),
    };
    (head, tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_and_arguments_follow_docker() {
        for (entry, cmd, entry_given, cmd_given, want) in [
            ("/e x", "a b", "", "", "/e x a b"),
            ("/e", "a", "", "c", "/e c"),
            ("/e", "a", "/f", "", "/f"),
            ("/e", "a", "/f", "c", "/f c"),
            ("", "a b", "", "", "a b"),
            ("", "a", "", "/bin/sh -c", "/bin/sh -c"),
            ("", "", "", "", ""),
        ] {
            let given = |text: &str| {
                let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
                Some(words).filter(|words| !words.is_empty())
            };
            let image =
                ExecutionConfig { entrypoint: given(entry), cmd: given(cmd), ..Default::default() };
            let (entry_given, cmd_given) = (given(entry_given), given(cmd_given));
            let (head, tail) =
                entrypoint_and_command(&image, entry_given.as_deref(), cmd_given.as_deref());
            assert_eq!([head, tail].concat().join(" "), want, "{image:?}");
        }
    }
}
