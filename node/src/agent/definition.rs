//! What a task definition says, in the words of a launch and of a task's folder.

use std::collections::{BTreeMap, BTreeSet};

use spec::{ContainerDefinition, NodeId, wire::DesiredTask};

use super::{host::Host, readiness};
use crate::{
    error::{Error, Result},
    launch::{Container, Launch},
    request::{MountSource, Mounted, Publish},
    settings::Settings,
    tasks::{self, ClusterOrigin, Origin, Owned, RestartPolicy, TaskRecord, now},
};

/// A definition's container in the words of a launch.
pub(super) fn container(
    node: &NodeId,
    task: &DesiredTask,
    definition: &ContainerDefinition,
) -> Result<Container> {
    let publish = |port: &spec::PortMapping| {
        Some(Publish {
            address: None,
            host_port: port.host_port?,
            container_port: port.container_port,
            transport: port.protocol.transport(),
        })
    };
    let http = definition.ports.iter().filter(|port| port.protocol.is_routed());
    let streams = definition.ports.iter().filter(|port| !port.protocol.is_routed());
    let claim =
        |name: &spec::VolumeName| task.definition.volumes.iter().find(|claim| claim.name == *name);
    Ok(Container {
        task: task.id.clone(),
        name: definition.name.clone(),
        node: Some(node.clone()),
        owner: task.tenant.to_string(),
        image: definition.digest.ok_or_else(|| Error::NoSuchImage(definition.image.clone()))?,
        env: definition.env.clone(),
        secrets: BTreeMap::new(),
        ports: definition.ports.iter().filter_map(publish).collect(),
        ingress_ports: http.map(|port| port.container_port).collect(),
        stream_ports: streams.map(spec::PortMapping::port).collect(),
        mounts: definition
            .mounts
            .iter()
            .map(|mount| Mounted {
                source: MountSource::Volume(mount.volume.clone()),
                path: mount.path.clone(),
                read_only: mount.read_only,
                bytes_max: claim(&mount.volume).and_then(|claim| claim.bytes_max),
            })
            .collect(),
        grants: task.definition.grants_of(definition),
        limits: task.definition.limits_of(definition),
        cpu_millis: Some(definition.cpu_millis),
        read_only: false,
        launch_type: task.launch_type,
        adoptable: true,
        settings: Settings::default(),
    })
}

/// The name of a container's folder: labels have no dots, so no two containers share one.
pub(super) fn folder_name(task: &DesiredTask, definition: &ContainerDefinition) -> String {
    format!("{}.{}.{}", task.tenant, task.id, definition.name)
}

pub(super) fn create(
    host: &Host,
    task: &DesiredTask,
    definition: &ContainerDefinition,
    launch: &Launch,
) -> Result<Owned> {
    let id = folder_name(task, definition);
    let name = match task.definition.containers.len() {
        1 => task.id.to_string(),
        _ => format!("{}.{}", task.id, definition.name),
    };
    let record = TaskRecord {
        version: 1,
        id: id.clone(),
        name,
        image: definition.image.clone(),
        digest: launch.container.image,
        kind: launch.kind,
        origin: Origin::Cluster(ClusterOrigin {
            tenant: task.tenant.clone(),
            cluster: task.cluster.clone(),
            service: task.service.clone(),
            task: task.id.clone(),
            container: definition.name.clone(),
            definition: task.definition_id.clone(),
            launch_type: task.launch_type,
        }),
        created: now(),
        command: launch.args.clone(),
        ports: launch.asked_ports(),
        mounts: launch.mount_records(),
        env: definition.env.keys().cloned().collect(),
        limits: launch.limits.clone(),
        grants: launch.resolved.capabilities.clone(),
        remove_at_end: false,
        labels: BTreeMap::new(),
        exposed: BTreeSet::new(),
        restart: RestartPolicy::No,
        no_log: false,
        health_check: readiness::check_of(task, definition, launch),
    };
    match tasks::create(&host.home, record.clone()) {
        // Another tenant's task has the same id, or a local task has taken its name.
        Err(Error::NameTaken { .. }) => {
            tasks::create(&host.home, TaskRecord { name: id, ..record })
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use spec::{Digest, LaunchType, TaskDefinition};

    use super::*;

    fn desired(definition: TaskDefinition) -> DesiredTask {
        DesiredTask {
            tenant: "acme".parse().unwrap(),
            cluster: "main".parse().unwrap(),
            id: "cats-1".parse().unwrap(),
            service: None,
            definition_id: "cats:1".parse().unwrap(),
            definition,
            launch_type: LaunchType::Node,
            stop: false,
            pull_token: None,
        }
    }

    #[test]
    fn a_node_enforces_what_the_control_plane_shows() {
        let allow =
            ["env:LOG", "env:LOG", "secret:key", "secret:key;as=env", "clock:fine", "clock:none"];
        for wants in [&[][..], &["env:LOG", "secret:key;optional", "net.in:http/5432"]] {
            let definition: TaskDefinition = serde_json::from_value(serde_json::json!({
                "family": "cats",
                "role": { "allow": allow },
                "volumes": [{ "name": "book", "bytes_max": 1024 }],
                "containers": [{
                    "name": "app",
                    "image": "cats",
                    "digest": Digest::of(b"image"),
                    "wants": wants,
                    "env": { "LOG": "debug" },
                    "ports": [
                        { "container_port": 80, "host_port": 8080 },
                        { "container_port": 80, "host_port": 8081 },
                        { "container_port": 5432, "protocol": "tcp" },
                    ],
                    "mounts": [{ "volume": "book", "path": "/data" }],
                }],
            }))
            .unwrap();
            let task = desired(definition);
            let app = &task.definition.containers[0];
            let shown = task.definition.resolve(app).unwrap();
            let container = container(&"n1".parse().unwrap(), &task, app).unwrap();
            let enforced = spec::resolve(&app.wants, &container.grants).unwrap();
            assert_eq!(enforced, shown, "{wants:?}");
            let mut lines = shown.capabilities.lines();
            lines.dedup();
            assert_eq!(lines, shown.capabilities.lines(), "each line stands there once");
        }
    }
}
