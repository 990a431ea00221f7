//! Whose is it? Tasks and URL elicitations, which outlive the requests and the processes that they came from.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::super::auth::Identity;
use super::super::exchange::Exchange;
use super::super::sessions::Session;
use super::Child;
use crate::mcp::envelope::Message;
use crate::mcp::members::Members;

#[derive(Debug, Clone)]
pub(super) struct TaskOwner {
    session: String,
    identity: Identity,
}

/// A bounded memory by name, oldest out first.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    entries: HashMap<String, (Instant, T)>,
    order: VecDeque<String>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Remembered<T> {
    fn insert(&mut self, key: String, value: T, max: usize) {
        if self.entries.insert(key.clone(), (Instant::now(), value)).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > max {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }

    fn get(&self, key: &str, memory: Duration) -> Option<&T> {
        self.entries.get(key).filter(|(since, _)| since.elapsed() < memory).map(|(_, value)| value)
    }
}

impl Child {
    /// Looks at an answer for what later messages may refer to.
    pub(in crate::bridge) fn observe(&self, exchange: &Exchange, message: &Message) {
        let Some(session) = exchange.session() else { return };
        if let Some(task) = exchange.asking.expects_task.then(|| task_of(message)).flatten() {
            let owner = TaskOwner { session: session.id.clone(), identity: exchange.asking.identity.clone() };
            self.tasks().insert(task, owner, self.limits.max_tasks);
        }
        if let Some((URL_ELICITATION_REQUIRED, error)) = message.error_members() {
            let data = error.object("data");
            let shown = data.as_ref().and_then(|data| data.text("elicitations")).unwrap_or("[]");
            for elicitation in crate::mcp::members::elements(shown).unwrap_or_default() {
                if let Some(id) =
                    Members::read(elicitation.get()).ok().and_then(|e| Some(e.string("elicitationId")?.into_owned()))
                {
                    self.show(id, session);
                }
            }
        }
    }

    /// Notes which session is shown a URL.
    pub(in crate::bridge) fn show(&self, elicitation: String, session: &Arc<Session>) {
        let mut shown = self.shown.lock().expect("nothing panics while it holds this");
        shown.insert(elicitation, Arc::downgrade(session), self.limits.max_elicitations);
    }

    /// The session that was shown a URL.
    pub(in crate::bridge) fn shown_to(&self, elicitation: &str) -> Option<Arc<Session>> {
        let shown = self.shown.lock().expect("nothing panics while it holds this");
        shown.get(elicitation, Duration::MAX)?.upgrade()
    }

    /// Whether a task is this session's own.
    pub(in crate::bridge) fn owns_task(&self, session: &Session, task: &str) -> bool {
        let tasks = self.tasks();
        let owner = tasks.get(task, self.limits.task_memory);
        owner.is_some_and(|owner| owner.session == session.id && owner.identity == session.identity)
    }

    /// Whether it is known whose a task is, or was.
    pub(in crate::bridge) fn knows_task(&self, task: &str) -> bool {
        self.tasks().get(task, self.limits.task_memory).is_some()
    }

    /// The open session that owns a task.
    pub(in crate::bridge) fn task_owner(&self, task: &str) -> Option<Arc<Session>> {
        let owner = self.tasks().get(task, self.limits.task_memory)?.clone();
        self.sessions.get(&owner.session).filter(|session| session.identity == owner.identity)
    }

    fn tasks(&self) -> MutexGuard<'_, Remembered<TaskOwner>> {
        self.tasks.lock().expect("nothing panics while it holds the tasks")
    }
}

/// The error of 2025-11-25 by which a server sends its user to a page.
const URL_ELICITATION_REQUIRED: i64 = -32042;

fn task_of(message: &Message) -> Option<String> {
    let result = Members::read(message.result_text()?).ok()?;
    Some(result.object("task")?.string("taskId")?.into_owned())
}
