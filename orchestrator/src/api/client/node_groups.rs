use http::Method;
use spec::{NodeGroupName, NodeId};

use super::Client;
use crate::{
    Error, NodeGroup, NodeGroupSpec,
    api::types::{
        CreateNodeGroup, CreatedJoinToken, HookOutcome, NodeGroupRequest, UpdateNodeGroup,
    },
};

impl Client {
    pub async fn create_node_group(
        &self,
        name: &NodeGroupName,
        spec: NodeGroupSpec,
    ) -> Result<NodeGroup, Error> {
        self.create("/v1/node-groups", &CreateNodeGroup { name: name.clone(), spec }).await
    }

    pub async fn node_groups(&self) -> Result<Vec<NodeGroup>, Error> {
        self.all("/v1/node-groups").await
    }

    pub async fn node_group(&self, name: &NodeGroupName) -> Result<NodeGroup, Error> {
        self.get(&format!("/v1/node-groups/{name}")).await
    }

    pub async fn update_node_group(
        &self,
        name: &NodeGroupName,
        update: &UpdateNodeGroup,
    ) -> Result<NodeGroup, Error> {
        self.send(Method::PATCH, &format!("/v1/node-groups/{name}"), Some(update)).await
    }

    /// Deletes a group that has no machines.
    pub async fn delete_node_group(&self, name: &NodeGroupName) -> Result<(), Error> {
        self.delete(&format!("/v1/node-groups/{name}")).await
    }

    /// What is to be done for machines now.
    pub async fn node_group_requests(&self) -> Result<Vec<NodeGroupRequest>, Error> {
        self.all("/v1/node-group-requests").await
    }

    /// The token of a machine that is asked for: the same one when it is asked for again.
    pub async fn machine_token(
        &self,
        group: &NodeGroupName,
        node: &NodeId,
    ) -> Result<CreatedJoinToken, Error> {
        let path = format!("/v1/node-groups/{group}/machines/{node}/token");
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// Says what became of a request.
    pub async fn hook_outcome(
        &self,
        group: &NodeGroupName,
        node: &NodeId,
        outcome: &HookOutcome,
    ) -> Result<(), Error> {
        let path = format!("/v1/node-groups/{group}/machines/{node}");
        self.send::<serde_json::Value>(Method::PATCH, &path, Some(outcome)).await.map(drop)
    }
}
