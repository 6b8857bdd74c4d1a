use std::collections::BTreeMap;

use spec::{
    SecretName, SecretValue,
    wire::{self, DesiredTask, TaskSecrets},
};
use tokio::time::sleep;

use super::{
    control::{ANSWER_TIME_MAX, Control, RETRY_AFTER},
    host::Host,
    report::ContainerReport,
    settings::NodeFolder,
};
use crate::{
    error::{Error, Result},
    identity::Identity,
};

impl Host {
    /// What a task may have, from the control plane. It is asked for when a container is to start,
    /// held in memory for as long as the container is wanted, and written nowhere: the next agent
    /// asks again. While the control plane is away this waits: they have no other source.
    pub async fn secrets_of(
        &self,
        task: &DesiredTask,
        report: &ContainerReport,
    ) -> Result<BTreeMap<SecretName, SecretValue>> {
        if task.definition.secrets().is_empty() {
            return Ok(BTreeMap::new());
        }
        loop {
            match self.ask_for_secrets(task).await {
                Err(Error::ControlPlane { address, why }) => {
                    let reason =
                        format!("its secrets are with the control plane at `{address}`: {why}");
                    report.set(&self.changed, |status| status.reason = Some(reason));
                    sleep(RETRY_AFTER).await;
                }
                other => return other,
            }
        }
    }

    async fn ask_for_secrets(
        &self,
        task: &DesiredTask,
    ) -> Result<BTreeMap<SecretName, SecretValue>> {
        // Read anew: it may have been renewed.
        let path = NodeFolder::of(&self.home)?.identity();
        let identity = Identity::read(&path)?.ok_or(Error::NotJoined(path))?;
        let control = Control::new(&identity.control_plane, identity.client()?);
        let path = format!("/v1/node/secrets/{}/{}", task.tenant, task.id);
        let TaskSecrets { version, secrets } = control.get(&path, ANSWER_TIME_MAX).await?;
        wire::check_version("the answer about secrets", version).map_err(|error| {
            Error::ControlPlane { address: identity.control_plane, why: error.to_string() }
        })?;
        Ok(secrets)
    }
}
