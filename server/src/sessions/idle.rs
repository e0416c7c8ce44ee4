//! Sessions that nobody uses any more.

use std::time::Duration;

use serde_json::json;

use super::SessionsService;
use crate::audit::What;

/// How often the server looks for idle sessions, at the least and at the most.
const LOOK_EVERY: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(60)];

impl SessionsService {
    /// Deletes sessions whose name the server made up once they have been idle for `limit`, until the server
    /// drains.
    ///
    /// A trainer that was killed cannot delete its session, and nobody else knows the session's name. A
    /// client that chose the name can come back to the session, so that one stays.
    pub(crate) async fn delete_idle_sessions(self, limit: Duration) {
        let [least, most] = LOOK_EVERY;
        let mut look = tokio::time::interval((limit / 4).clamp(least, most));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.lifecycle.draining.cancelled() => return,
                _ = look.tick() => {}
            }
            for entry in self.registry.remove_idle(limit) {
                tracing::info!(
                    session = %entry.key,
                    next_step = entry.progress().standing.next_step,
                    idle = ?entry.last_use.idle_time(),
                    "idle session deleted"
                );
                let more = json!({ "idle_seconds": entry.last_use.idle_time().as_secs() });
                self.audit.done(What::SessionDeleted, None, &entry.key, more);
                let _turn = self.turn(&entry.key).await;
                // A session whose computation panicked is deleted as well.
                let _ended = self.end(entry).await;
            }
        }
    }
}
