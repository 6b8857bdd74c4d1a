//! Hooks of node groups: programs of the operator that add and remove machines. The control plane
//! decides and asks; it starts no program itself, and names a file in one folder and no path.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use orchestrator::{Client, HookAction, HookOutcome, NodeGroupRequest};
use rustix::process::{Pid, Signal, kill_process_group};
use spec::NodeGroupName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStderr, ChildStdin, Command},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{failure::Advice, home::Home, output::notice};

/// Between two looks at what is to be done: a machine takes longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Hooks that run at one time; each group has one.
const HOOKS_MAX: usize = 8;
/// For the tasks of a node to move: a little less than the control plane waits for it.
const DRAIN_SECONDS: u64 = 14 * 60;
/// What is kept of what a hook says: the end of it.
const OUTPUT_BYTES_MAX: usize = 2 << 10;
/// For the last words of a hook that has ended; what it has left running may hold its output.
const OUTPUT_TIME_MAX: Duration = Duration::from_millis(200);

/// Does what node groups ask for, for as long as the platform is up. What it was doing at its end
/// is asked for again.
pub async fn carry_out(home: &Home) -> Infallible {
    let client = Client::unix(home.server_socket());
    let mut running: JoinSet<NodeGroupName> = JoinSet::new();
    let mut groups: BTreeSet<NodeGroupName> = BTreeSet::new();
    loop {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            Some(ended) = running.join_next(), if !running.is_empty() => {
                match ended {
                    Ok(group) => drop(groups.remove(&group)),
                    Err(_) => groups.clear(), // one that broke: its group is looked at again
                }
                continue;
            }
        }
        // While the control plane is away nothing is asked for.
        let Ok(requests) = client.node_group_requests().await else { continue };
        for request in requests {
            if running.len() >= HOOKS_MAX || groups.contains(&request.group) {
                continue;
            }
            groups.insert(request.group.clone());
            let (client, home) = (client.clone(), home.clone());
            running.spawn(async move {
                answer(&client, &home, &request).await;
                request.group
            });
        }
    }
}

async fn answer(client: &Client, home: &Home, request: &NodeGroupRequest) {
    let NodeGroupRequest { group, node, action, .. } = request;
    let done = match action {
        HookAction::Add => add(client, home, request).await,
        HookAction::Drain => drain(client, request).await,
        HookAction::Remove => remove(client, home, request).await,
    };
    let failure = done.err().map(|error| format!("{error:#}"));
    if let Some(why) = &failure {
        let what = match action {
            HookAction::Add => "added",
            HookAction::Drain => "drained",
            HookAction::Remove => "removed",
        };
        notice(format_args!("node group `{group}`: `{node}` could not be {what}: {why}"));
    }
    // One that is not told is asked for again.
    let _ = client.hook_outcome(group, node, &HookOutcome { action: *action, failure }).await;
}

async fn add(client: &Client, home: &Home, request: &NodeGroupRequest) -> anyhow::Result<()> {
    let made = client.machine_token(&request.group, &request.node).await?;
    run(home, request, "add", &format!("{}\n", made.token)).await
}

async fn drain(client: &Client, request: &NodeGroupRequest) -> anyhow::Result<()> {
    Ok(client.drain_node_within(&request.node, DRAIN_SECONDS).await.map(drop)?)
}

async fn remove(client: &Client, home: &Home, request: &NodeGroupRequest) -> anyhow::Result<()> {
    run(home, request, "remove", "").await?;
    match client.force_remove_node(&request.node).await {
        Err(error) if error.fault().is_some_and(|fault| fault.code == "not-found") => Ok(()),
        removed => Ok(removed?),
    }
}

/// The program that `hook` names: one that the owner of the home, or root, has put into its folder.
pub fn program(home: &Home, hook: &str) -> anyhow::Result<PathBuf> {
    let folder = home.path().join("hooks");
    let name = hook.strip_prefix("exec:").unwrap_or_default();
    let path = folder.join(name);
    let refused = |why: &str| {
        Advice::new(format!("hook `{hook}` {why}")).hint(format!(
            "put a program of mode 700 there: install -D -m 700 PROGRAM {}",
            folder.join(if name.is_empty() { "FILE" } else { name }).display()
        ))
    };
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(refused("is not exec:FILE, the name of a program in MARGAY_HOME/hooks").into());
    }
    let found = std::fs::symlink_metadata(&path);
    let found = found.map_err(|_| refused(&format!("is missing: `{}`", path.display())))?;
    let user = rustix::process::geteuid().as_raw();
    match found.permissions().mode() {
        _ if !found.is_file() => Err(refused("is no regular file").into()),
        mode if mode & 0o100 == 0 => Err(refused("may not be executed").into()),
        mode if mode & 0o022 != 0 => Err(refused("may be changed by other users").into()),
        _ if found.uid() != user && found.uid() != 0 => {
            Err(refused("belongs to another user").into())
        }
        _ => Ok(path),
    }
}

/// Runs the hook, with what it is asked for in its environment and `input` as its stdin.
async fn run(
    home: &Home,
    request: &NodeGroupRequest,
    action: &str,
    input: &str,
) -> anyhow::Result<()> {
    let NodeGroupRequest { group, node, hook, seconds_max, .. } = request;
    let mut command = Command::new(program(home, hook)?);
    command
        .env("MARGAY_HOOK", action)
        .env("MARGAY_GROUP", group.as_str())
        .env("MARGAY_NODE", node.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| anyhow::anyhow!("cannot start it: {error}"))?;
    let time_max = Duration::from_secs((*seconds_max).into());
    let ended = timeout(time_max, follow(&mut child, input)).await;
    let Ok(ended) = ended else {
        end_group(&child);
        anyhow::bail!("it has not ended within {seconds_max} s");
    };
    let (status, said) = ended?;
    match status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&said);
            let last = said.trim().lines().last().unwrap_or_default().to_owned();
            let colon = if last.is_empty() { "" } else { ": " };
            anyhow::bail!("{status}{colon}{last}")
        }
    }
}

/// Until it has ended: how, and the end of what it said.
async fn follow(child: &mut Child, input: &str) -> io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let mut said = Vec::new();
    let status = {
        let talk = talk(stdin, stderr, input, &mut said);
        tokio::pin!(talk);
        tokio::select! {
            status = child.wait() => {
                let _ = timeout(OUTPUT_TIME_MAX, &mut talk).await;
                status?
            }
            () = &mut talk => child.wait().await?,
        }
    };
    Ok((status, said))
}

/// Hands it its input, and keeps the end of what it says.
async fn talk(
    stdin: Option<ChildStdin>,
    stderr: Option<ChildStderr>,
    input: &str,
    said: &mut Vec<u8>,
) {
    if let Some(mut stdin) = stdin {
        // A hook need not read it.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let Some(mut stderr) = stderr else { return };
    let mut piece = [0; 512];
    while let Ok(read @ 1..) = stderr.read(&mut piece).await {
        said.extend_from_slice(&piece[..read]);
        let excess = said.len().saturating_sub(OUTPUT_BYTES_MAX);
        said.drain(..excess);
    }
}

/// With everything that it has started and not let go.
fn end_group(child: &Child) {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn hooked(script: &str) -> (tempfile::TempDir, Home, NodeGroupRequest) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("home"))).unwrap();
        let path = home.folder("hooks").unwrap().join("machines");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let request = NodeGroupRequest {
            group: "workers".parse().unwrap(),
            node: "workers-1".parse().unwrap(),
            action: HookAction::Add,
            hook: "exec:machines".to_owned(),
            seconds_max: 1,
        };
        (folder, home, request)
    }

    #[tokio::test]
    async fn a_hook_is_told_what_to_do_and_says_why_it_failed() {
        for (script, want) in [
            ("test \"$MARGAY_HOOK $MARGAY_GROUP $MARGAY_NODE\" = 'add workers workers-1'", ""),
            ("read -r token; test \"$token\" = secret", ""),
            ("exit 0", ""),
            ("sleep 60 & exit 0", ""), // what it has left holds its output
            ("echo no; echo quota is used up >&2; exit 3", "exit status: 3: quota is used up"),
            ("exit 3", "exit status: 3"),
            ("yes | head -c 1000000 >&2; exit 1", "exit status: 1: y"),
            ("kill -9 $$", "signal: 9 (SIGKILL)"),
            ("sleep 60", "it has not ended within 1 s"),
            ("sleep 60 & sleep 60", "it has not ended within 1 s"),
        ] {
            let (_folder, home, request) = hooked(script);
            let ran = run(&home, &request, "add", "secret\n").await;
            let said = ran.map_or_else(|error| format!("{error:#}"), |()| String::new());
            assert_eq!(said, want, "{script}");
        }
    }

    #[test]
    fn a_hook_is_a_program_in_its_folder_that_no_other_user_may_change() {
        let (_folder, home, _) = hooked("exit 0");
        let folder = home.path().join("hooks");
        fs::write(folder.join("open"), "").unwrap();
        fs::set_permissions(folder.join("open"), fs::Permissions::from_mode(0o722)).unwrap();
        fs::write(folder.join("text"), "").unwrap();
        std::os::unix::fs::symlink("/bin/sh", folder.join("link")).unwrap();
        fs::create_dir(folder.join("folder")).unwrap();
        for (hook, want) in [
            ("exec:machines", ""),
            ("exec:other", "is missing"),
            ("exec:open", "may be changed by other users"),
            ("exec:text", "may not be executed"),
            ("exec:link", "is no regular file"),
            ("exec:folder", "is no regular file"),
            ("exec:../hooks/machines", "is not exec:FILE"),
            ("exec:/bin/sh", "is not exec:FILE"),
            ("exec:", "is not exec:FILE"),
            ("machines", "is not exec:FILE"),
        ] {
            let found = program(&home, hook);
            let said = found.map_or_else(|error| error.to_string(), |_| String::new());
            assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{hook}: {said}");
        }
    }
}
