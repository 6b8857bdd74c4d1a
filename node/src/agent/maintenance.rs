//! What an agent does from time to time.

use tokio::time::sleep;

use super::{adoption, limits::SWEEP_EVERY, process::Agent};

impl Agent {
    /// Removes what is not needed any more.
    pub(super) async fn maintain(&self) {
        loop {
            let (home, host, here) = (self.host.home.clone(), self.host.clone(), self.here());
            let swept = tokio::task::spawn_blocking(move || {
                adoption::sweep(&home, &here);
                host.cache.sweep();
                // What supervisors that were killed with their workers have left.
                engine::cgroup::sweep(&home.tasks());
            });
            let _ = swept.await;
            sleep(SWEEP_EVERY).await;
        }
    }
}
