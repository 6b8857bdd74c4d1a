//! Node groups, and what is to be done for their machines. Nothing of that is done here: `margay
//! up` runs hooks, and says what became of them.

use std::{collections::BTreeMap, time::Duration};

use spec::{NodeGroupName, NodeId, Taint, wire::JoinToken};
use store::Txn;

use crate::{
    api::{
        call::{Call, Reply},
        create::{Creation, create},
        error::ApiError,
        types::{
            CreateNodeGroup, CreatedJoinToken, HookAction, HookOutcome, ListPage, NodeGroupRequest,
            UpdateNodeGroup,
        },
    },
    limits::{
        GROUP_JOIN_SECONDS, GROUP_NODES_MAX, GROUP_SCALE_IN_SECONDS, HOOK_MESSAGE_BYTES_MAX,
        NODE_GROUPS_MAX, NODE_LABELS_MAX, NODE_TAINTS_MAX, WRITE_TRIES_MAX,
    },
    plan::node_groups::{back_off, later},
    state::{
        State, keys,
        node_groups::{GroupMachine, MachineState, NODE_GROUP_LABEL, NodeGroup, NodeGroupSpec},
        now,
        records::{Guarded, JoinRecord, POOL_LABEL, Stored},
        tokens,
    },
};

pub(crate) async fn create_group(call: Call) -> Result<Reply, ApiError> {
    let CreateNodeGroup { name, spec } = call.json()?;
    check(&spec)?;
    create(&call, || new_group(&call, &name, &spec)).await
}

async fn new_group(
    call: &Call,
    name: &NodeGroupName,
    spec: &NodeGroupSpec,
) -> Result<Creation, ApiError> {
    let key = keys::node_group(name);
    if call.state().get::<NodeGroup>(key.clone()).await?.is_some() {
        return Err(ApiError::exists("node group", name)
            .hint(format!("change it instead: margay node-group update {name}")));
    }
    if call.state().count(keys::NODE_GROUPS.to_owned()).await? >= NODE_GROUPS_MAX {
        let message = format!("there are {NODE_GROUPS_MAX} node groups, and that is the most");
        return Err(ApiError::invalid(message).hint("delete one that is not used"));
    }
    let group = NodeGroup {
        name: name.clone(),
        tenant: call.tenant()?.clone(),
        created: now(),
        spec: spec.clone(),
        machines: Vec::new(),
        made: 0,
        failures: 0,
        retry_after: None,
        asked: Vec::new(),
        template: None,
        events: Vec::new(),
    };
    Ok(Creation::new(Txn::new().create(key, &group), &group))
}

fn check(spec: &NodeGroupSpec) -> Result<(), ApiError> {
    let NodeGroupSpec { min, max, desired, .. } = spec;
    if min > max || !(min..=max).contains(&desired) {
        let message = format!("`min` {min}, `desired` {desired} and `max` {max} are not in order");
        return Err(ApiError::invalid(message).hint("use min <= desired <= max"));
    }
    if *max > GROUP_NODES_MAX {
        return Err(ApiError::invalid(format!("`max` is at most {GROUP_NODES_MAX}")));
    }
    check_hook(&spec.hook)?;
    for (name, value, range) in [
        ("join_seconds", spec.join_seconds, GROUP_JOIN_SECONDS),
        ("scale_in_seconds", spec.scale_in_seconds, GROUP_SCALE_IN_SECONDS),
    ] {
        if !range.contains(&value) {
            let (least, most) = (range.start(), range.end());
            return Err(ApiError::invalid(format!("`{name}` is {least} to {most}")));
        }
    }
    for (name, value) in &spec.labels {
        spec::check_label(name, value)?;
        if [NODE_GROUP_LABEL, POOL_LABEL, spec::POOL_NATIVE_LABEL].contains(&name.as_str()) {
            let message = format!("label `{name}` is set by the platform");
            return Err(ApiError::invalid(message).hint("choose another name"));
        }
    }
    match spec.labels.len() >= NODE_LABELS_MAX || spec.taints.len() > NODE_TAINTS_MAX {
        true => Err(ApiError::invalid(format!(
            "a node group gives less than {NODE_LABELS_MAX} labels, and {NODE_TAINTS_MAX} taints"
        ))),
        false => Ok(()),
    }
}

/// The name of a file and no path: what runs with the rights of `margay up` is what its operator
/// has put into one folder.
fn check_hook(hook: &str) -> Result<(), ApiError> {
    let is_name = |file: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=63).contains(&file.len()) && !file.starts_with('.') && file.bytes().all(is_plain)
    };
    match hook.strip_prefix("exec:") {
        Some(file) if is_name(file) => Ok(()),
        _ => {
            let hook: String = hook.chars().take(100).collect();
            Err(ApiError::invalid(format!("`{hook}` is not a hook")).hint(
                "use exec:FILE, the name of a program in MARGAY_HOME/hooks: letters, digits, `.`, \
                 `_` and `-`",
            ))
        }
    }
}

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    call.page(keys::NODE_GROUPS.to_owned(), |group: NodeGroup| Some(group)).await
}

pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    Reply::ok(&find(call.state(), &call.param("group")?).await?.value)
}

async fn find(state: &State, name: &NodeGroupName) -> Result<Stored<NodeGroup>, ApiError> {
    let found = state.get(keys::node_group(name)).await?;
    found.ok_or_else(|| {
        ApiError::not_found("node group", name).hint("see what there is: margay node-group ls")
    })
}

pub(crate) async fn update(call: Call) -> Result<Reply, ApiError> {
    let (name, wanted): (NodeGroupName, UpdateNodeGroup) = (call.param("group")?, call.json()?);
    let group = change(&call, &name, |group| {
        let before = group.spec.clone();
        let spec = &mut group.spec;
        spec.min = wanted.min.unwrap_or(spec.min);
        spec.max = wanted.max.unwrap_or(spec.max);
        // Bounds alone take it along.
        let within = spec.desired.clamp(spec.min, spec.max.max(spec.min));
        spec.desired = wanted.desired.unwrap_or(within);
        spec.hook = wanted.hook.clone().unwrap_or_else(|| spec.hook.clone());
        spec.managed_scaling = wanted.managed_scaling.unwrap_or(spec.managed_scaling);
        spec.scale_in_seconds = wanted.scale_in_seconds.unwrap_or(spec.scale_in_seconds);
        spec.join_seconds = wanted.join_seconds.unwrap_or(spec.join_seconds);
        check(spec)?;
        if *spec != before {
            let NodeGroupSpec { min, max, desired, .. } = *spec;
            // What has failed before may work now.
            (group.failures, group.retry_after) = (0, None);
            group.tell(format!("it was changed: {desired} are asked for, of {min}..{max}"), now());
        }
        Ok(())
    })
    .await?;
    Reply::ok(&group)
}

/// Writes what `change` makes of a group.
async fn change(
    call: &Call,
    name: &NodeGroupName,
    change: impl Fn(&mut NodeGroup) -> Result<(), ApiError>,
) -> Result<NodeGroup, ApiError> {
    for _ in 0..WRITE_TRIES_MAX {
        let stored = find(call.state(), name).await?;
        let mut group = stored.value.clone();
        change(&mut group)?;
        if group == stored.value {
            return Ok(group);
        }
        let txn = Txn::new().update(keys::node_group(name), stored.mod_rev, &group);
        if call.state().commit(txn).await? {
            return Ok(group);
        }
    }
    Err(ApiError::conflict())
}

pub(crate) async fn remove(call: Call) -> Result<Reply, ApiError> {
    let name: NodeGroupName = call.param("group")?;
    let stored = find(call.state(), &name).await?;
    let machines = stored.value.machines.len();
    if machines > 0 || stored.value.spec.desired > 0 {
        let message = match machines {
            0 => format!("node group `{name}` asks for a machine"),
            1 => format!("node group `{name}` has a machine"),
            _ => format!("node group `{name}` has {machines} machines"),
        };
        return Err(ApiError::in_use(message).hint(format!(
            "let it have none first: margay node-group update {name} --min 0 --max 0"
        )));
    }
    call.commit(Txn::new().remove(keys::node_group(&name), stored.mod_rev)).await?;
    Reply::done()
}

/// What is to be done now. A request is there until what it asks for is seen.
pub(crate) async fn requests(call: Call) -> Result<Reply, ApiError> {
    let (model, now) = (call.state().model(), now());
    let is_drained = |node: &NodeId| model.nodes.get(node).is_none_or(|node| node.drain);
    let request = |group: &NodeGroup, machine: &GroupMachine| {
        let action = match machine.state {
            _ if machine.retry_after.is_some_and(|at| at > now) => return None,
            MachineState::Requested => HookAction::Add,
            MachineState::Draining if !is_drained(&machine.node) => HookAction::Drain,
            MachineState::Removing => HookAction::Remove,
            MachineState::Draining | MachineState::Starting | MachineState::Ready => return None,
        };
        Some(NodeGroupRequest {
            group: group.name.clone(),
            node: machine.node.clone(),
            action,
            hook: group.spec.hook.clone(),
            seconds_max: group.spec.join_seconds,
        })
    };
    let groups = model.node_groups.values().map(|stored| &stored.value);
    let of_group = |group| {
        let group: &NodeGroup = group;
        group.machines.iter().filter_map(|machine| request(group, machine)).collect::<Vec<_>>()
    };
    Reply::ok(&ListPage { items: groups.flat_map(of_group).collect(), next: None })
}

/// The same token for the same machine, however often it is asked for, until its node has joined.
pub(crate) async fn token(call: Call) -> Result<Reply, ApiError> {
    let (name, node): (NodeGroupName, NodeId) = (call.param("group")?, call.param("node")?);
    let address = call.api.address_for_clients()?;
    let group = find(call.state(), &name).await?.value;
    expect_coming(&group, &node)?;
    let secret = call.api.issuer.token(format!("join machine {name}/{node}"));
    let key = keys::join(&tokens::hashed(&secret));
    let expires = later(now(), Duration::from_secs(group.spec.join_seconds.into()));
    let (tenant, pool) = (Some(group.tenant.clone()), group.spec.pool);
    let record = JoinRecord { tenant, pool, expires, machine: Some((name, node)) };
    let known: Option<Stored<JoinRecord>> = call.state().get(key.clone()).await?;
    let based_on = known.map_or(0, |known| known.mod_rev);
    call.commit(Txn::new().update(key, based_on, &record)).await?;
    let ca_fingerprint = call.api.issuer.ca.fingerprint.clone();
    let token = JoinToken { address, ca_fingerprint, secret }.to_string();
    Reply::ok(&CreatedJoinToken { token, expires })
}

fn expect_coming(group: &NodeGroup, node: &NodeId) -> Result<(), ApiError> {
    match group.machine(node).is_some_and(|machine| machine.state.is_coming()) {
        true => Ok(()),
        false => {
            let message = format!("node group `{}` asks for no machine `{node}`", group.name);
            Err(ApiError::invalid(message))
        }
    }
}

/// What a node gets that joins with the token of a machine; nothing once that was given back.
pub(super) async fn admit(
    state: &State,
    group: &NodeGroupName,
    node: &NodeId,
) -> Result<(NodeId, BTreeMap<String, String>, Vec<Taint>), ApiError> {
    let stored: Option<Stored<NodeGroup>> = state.get(keys::node_group(group)).await?;
    let found = stored.map(|stored| stored.value);
    let found = found.filter(|found| expect_coming(found, node).is_ok());
    let NodeGroupSpec { mut labels, taints, .. } = found.ok_or_else(ApiError::join_token)?.spec;
    labels.insert(NODE_GROUP_LABEL.to_owned(), group.to_string());
    Ok((node.clone(), labels, taints))
}

/// Moves a machine on, where it still waits for that.
pub(crate) async fn outcome(call: Call) -> Result<Reply, ApiError> {
    let (name, node): (NodeGroupName, NodeId) = (call.param("group")?, call.param("node")?);
    let HookOutcome { action, failure } = call.json()?;
    let failure = failure.map(|text| clipped(&text));
    change(&call, &name, |group| {
        note(group, &node, action, failure.as_deref());
        Ok(())
    })
    .await?;
    call.state().wake_reconciler();
    Reply::done()
}

fn note(group: &mut NodeGroup, node: &NodeId, action: HookAction, failure: Option<&str>) {
    let now = now();
    let Some(machine) = group.machines.iter_mut().find(|machine| machine.node == *node) else {
        return;
    };
    match (action, machine.state, failure) {
        // Its time to join goes on.
        (HookAction::Add, MachineState::Requested, None) => machine.state = MachineState::Starting,
        (HookAction::Add, state, Some(why)) if state.is_coming() => {
            group.give_back(node, &format!("could not be added ({why})"), now);
        }
        (HookAction::Remove, MachineState::Removing, None) => {
            group.machines.retain(|machine| machine.node != *node);
            group.tell(format!("`{node}` was removed"), now);
        }
        (HookAction::Remove, MachineState::Removing, Some(why)) => {
            machine.failures = machine.failures.saturating_add(1);
            machine.retry_after = Some(later(now, back_off(machine.failures)));
            group.tell(format!("`{node}` could not be removed ({why}): tried again"), now);
        }
        (HookAction::Add | HookAction::Drain | HookAction::Remove, _, _) => {}
    }
}

/// One line, and not at any length.
fn clipped(text: &str) -> String {
    let mut text = text.replace(char::is_control, " ");
    let mut ends = (0..=HOOK_MESSAGE_BYTES_MAX.min(text.len())).rev();
    let end = ends.find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    text.truncate(end);
    text
}
