use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, RwLockWriteGuard},
};

use spec::{
    NodeId, Tenant,
    wire::{self, DesiredSet, DesiredTask, RouteTable},
};
use store::Rev;
use tokio::sync::watch;

use super::{
    host_names::HostNames,
    routes::{RouteChanges, Routes, Scope},
};
use crate::state::{
    Shared, State,
    model::Model,
    records::{DefinitionRecord, NodeRecord, TaskRecord},
};

/// What each node should run and route, and which nodes wait for news of that.
pub(crate) struct NodeWatch {
    state: Arc<State>,
    pub names: HostNames,
    routes: Shared<CurrentRoutes>,
    nodes: Shared<BTreeMap<NodeId, Subscription>>,
}

/// The routes of one revision.
#[derive(Default)]
struct CurrentRoutes {
    routes: Routes,
    rev: Rev,
    disconnected: BTreeSet<NodeId>,
    /// Of builds since nodes were last woken.
    changes: RouteChanges,
    builds: usize,
}

/// One node that polls.
#[derive(Default)]
struct Subscription {
    news: watch::Sender<()>,
    told: Option<(Scope, Arc<Assigned>)>,
    /// The revision that it has taken, as it says when it asks for a later one.
    has: Option<Rev>,
}

/// What a node is told. It has a new revision only when it really changed.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub revision: Rev,
    pub tasks: Vec<DesiredTask>,
    pub routes: Arc<RouteTable>,
}

impl NodeWatch {
    pub fn new(state: Arc<State>, names: HostNames) -> Self {
        Self { state, names, routes: Shared::default(), nodes: Shared::default() }
    }

    /// Everything that should run on `node`, and what its ingress should know.
    pub fn assigned(&self, node: &NodeRecord) -> Arc<Assigned> {
        let model = self.state.model();
        let desired =
            |record: &TaskRecord| Some(desired_task(record, model.definition_of(record)?));
        let tasks = model.tasks_on(&node.id).filter_map(|stored| desired(&stored.value));
        let tasks: Vec<DesiredTask> = tasks.collect();
        let scope = Scope::of(node, tasks.iter().map(|task| task.tenant.clone()));
        let routes = self.current_routes(&model).routes.slice(&scope);
        let mut nodes = self.nodes.write();
        let subscription = nodes.entry(node.id.clone()).or_default();
        if let Some((told_scope, told)) = &mut subscription.told
            && told.tasks == tasks
            && (Arc::ptr_eq(&told.routes, &routes) || told.routes == routes)
        {
            *told_scope = scope;
            return told.clone();
        }
        let before = subscription.told.as_ref().map(|(_, told)| told.revision);
        // Routes change with the condition of nodes, too, and that has no revision in the store.
        let revision = before.map_or(model.rev, |before| model.rev.max(before + 1));
        let assigned = Arc::new(Assigned { revision, tasks, routes });
        subscription.told = Some((scope, assigned.clone()));
        assigned
    }

    /// The routes of one tenant.
    pub fn routes_of(&self, tenant: &Tenant) -> Arc<RouteTable> {
        let scope = Scope::Tenants(BTreeSet::from([tenant.clone()]));
        self.current_routes(&self.state.model()).routes.slice(&scope)
    }

    /// The revision that `node` was last told.
    pub fn told(&self, node: &NodeId) -> Option<Rev> {
        self.nodes.read().get(node)?.told.as_ref().map(|(_, told)| told.revision)
    }

    /// `node` asks for what comes after `revision`.
    pub fn acknowledge(&self, node: &NodeId, revision: Rev) {
        self.nodes.write().entry(node.clone()).or_default().has = Some(revision);
    }

    /// Whether `node` has taken what it is to be told now.
    pub fn has_newest(&self, node: &NodeRecord) -> bool {
        let newest = self.assigned(node).revision;
        self.nodes.read().get(&node.id).is_some_and(|known| known.has == Some(newest))
    }

    /// Changes when there may be news for `node`, and closes when it is removed.
    pub fn subscribe(&self, node: &NodeId) -> watch::Receiver<()> {
        self.nodes.write().entry(node.clone()).or_default().news.subscribe()
    }

    pub fn forget(&self, node: &NodeId) {
        self.nodes.write().remove(node);
    }

    /// Wakes the nodes that a change concerns: those in `touched`, and those whose routes differ.
    pub fn wake(&self, touched: &BTreeSet<NodeId>) {
        let model = self.state.model();
        let disconnected = self.state.reports.disconnected(model.nodes.keys());
        let changes = {
            let mut current = self.routes.write();
            if current.disconnected != disconnected {
                current.disconnected = disconnected;
                current.rebuild(&model, &self.names);
            }
            current.refresh(&model, &self.names);
            std::mem::take(&mut current.changes)
        };
        for (id, node) in &*self.nodes.read() {
            let is_told_otherwise =
                node.told.as_ref().is_some_and(|(scope, _)| scope.is_changed_by(&changes));
            if touched.contains(id) || is_told_otherwise {
                node.news.send_replace(());
            }
        }
    }

    fn current_routes(&self, model: &Model) -> RwLockWriteGuard<'_, CurrentRoutes> {
        let mut current = self.routes.write();
        current.refresh(model, &self.names);
        current
    }

    #[cfg(test)]
    pub fn route_builds(&self) -> usize {
        self.routes.write().builds
    }
}

impl CurrentRoutes {
    fn refresh(&mut self, model: &Model, names: &HostNames) {
        if self.rev != model.routes_rev {
            self.rebuild(model, names);
        }
    }

    fn rebuild(&mut self, model: &Model, names: &HostNames) {
        let routes = Routes::build(model, &self.disconnected, names);
        let before = std::mem::replace(&mut self.routes, routes);
        let changes = self.routes.succeed(before);
        self.changes.extend(changes);
        self.rev = model.routes_rev;
        self.builds += 1;
        tracing::debug!(rev = self.rev, builds = self.builds, "routes built");
    }
}

impl Assigned {
    /// As a node reads it. `token` is asked for the pull token of each task.
    pub fn to_wire(
        &self,
        epoch: u64,
        token: impl Fn(&Tenant, &[&str]) -> Option<String>,
    ) -> DesiredSet {
        let mut tasks = self.tasks.clone();
        for task in &mut tasks {
            let containers = task.definition.containers.iter();
            let images: Vec<&str> = containers.map(|one| one.image.as_str()).collect();
            task.pull_token = token(&task.tenant, &images);
        }
        let (revision, routes) = (self.revision, RouteTable::clone(&self.routes));
        DesiredSet { version: wire::VERSION, epoch, revision, tasks, routes }
    }
}

fn desired_task(record: &TaskRecord, definition: &DefinitionRecord) -> DesiredTask {
    let spec = &record.task.spec;
    DesiredTask {
        id: record.id().clone(),
        tenant: record.tenant.clone(),
        cluster: spec.cluster.clone(),
        service: spec.service.clone(),
        definition_id: spec.task_definition.clone(),
        definition: definition.definition.clone(),
        launch_type: spec.launch_type,
        stop: spec.stop,
        pull_token: None,
    }
}
